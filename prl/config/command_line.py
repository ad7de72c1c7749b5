"""From a command line to a dataclass: flat kebab-case flags, a YAML file first, one line per mistake.

jsonargparse parses and checks the types; this module gives it the fields and words its errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ActionYesNo, ArgumentParser

from learner.settings import ConfigError, type_in_words
from prl.config.preset import find_preset
from prl.config.yaml_format import Unwritten, load

Config = TypeVar("Config")


class KnowsFlags:
    """A config that `parse` tells which of its fields the command line has named.

    Attributes:
        given: names of fields; those of a file or a preset are not among them.
    """

    given: frozenset[str] = frozenset()


def parse(
    config_class: type[Config], argv: Sequence[str], *, prog: str, positional: str | None = None
) -> Config:
    """Build a config from flags and, if `--config FILE` is among them, from a YAML file that they override.

    Args:
        config_class: a flat dataclass; its docstring's `Attributes` are the help texts, in their order.
        argv: without the program's name.
        prog: the program's name.
        positional: the field that is given without a flag.

    Raises:
        ConfigError: a flag, key or value is wrong.
        TypeError: a field of the dataclass has no default or no line under `Attributes:`.
        SystemExit: `--help` was asked for and printed.
    """
    hints = get_type_hints(config_class)
    parser = _parser(config_class, hints, prog, positional)
    _refuse_empty_paths(hints, argv)
    try:
        file = _config_file(argv, resumes="resume" in hints)
        chosen = {} if file is None else _file_values(parser, hints, file)
        parser.set_defaults(chosen)
        if "preset" in hints:
            parser.set_defaults(_preset_values(parser, hints, argv) | chosen)
        values = parser.parse_args(list(argv)).as_dict()
    except argparse.ArgumentError as error:
        raise ConfigError(_reworded(error.message, hints, parser)) from None
    values.pop("config", None)
    for name, value in values.items():
        if get_origin(hints[name]) is Mapping and not isinstance(value, Mapping):
            # Key by key: one more argument for an env should not take away those of its preset.
            values[name] = {**(parser.get_default(name) or {}), **_key_values(name, value)}
    config = config_class(**_complete(values, file))
    if isinstance(config, KnowsFlags):
        object.__setattr__(config, "given", _given(parser, argv))
    return config


def _given(parser: ArgumentParser, argv: Sequence[str]) -> frozenset[str]:
    flags = {word.partition("=")[0] for word in argv}
    return frozenset(action.dest for action in parser._actions if flags & {*action.option_strings})


def read_config(config_class: type[Config], file: Path) -> Config:
    """The config in a YAML file; what the file does not say has its default.

    Args:
        config_class: a flat dataclass.
        file: holds a mapping of fields to values.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    hints = get_type_hints(config_class)
    parser = _parser(config_class, hints, "", None)
    values = _complete(_file_values(parser, hints, file), file)
    try:
        return config_class(**values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _complete(values: dict[str, Any], file: Path | None) -> dict[str, Any]:
    """The values, none of which may be missing from the file because YAML could not hold it.

    Raises:
        ConfigError: one is.
    """
    for name, mapping in values.items():
        for key, value in mapping.items() if isinstance(mapping, Mapping) else ():
            if isinstance(value, Unwritten):
                raise ConfigError(
                    f"{file}: {name}.{key} was an object that YAML cannot hold ({value.description}); "
                    f"give another value, or train from Python with TrainConfig({name}=...)"
                )
    return values


def _preset_values(parser: ArgumentParser, hints: Mapping[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The settings that ship with prl for the env that flags and file name."""
    known = parser.parse_args(list(argv))
    preset = find_preset(known.env_id, known.preset)
    return {} if preset is None else _checked(parser, hints, preset.settings, f"preset {preset.pattern}")


class _Parser(ArgumentParser):
    """Its help names types as the user does."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """See `argparse`. A line may be broken within what is replaced, and stays so."""
        names = re.compile(r"<class(?: |(\n\s*))'(\w+)'>")
        return names.sub(lambda found: (found[1] or "") + found[2], super().format_help(*args, **kwargs))


def _parser(
    config_class: type[Any], hints: Mapping[str, Any], prog: str, positional: str | None
) -> ArgumentParser:
    help_of = _help_texts(config_class)
    _check_fields(config_class, help_of, positional)
    parser = _Parser(
        prog=prog,
        usage=f"{prog} {positional.upper() + ' ' if positional else ''}[flags]",
        description=docstring_parser.parse(config_class.__doc__ or "").short_description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these settings; flags win")
    fields = {item.name: item for item in dataclasses.fields(config_class)}
    for item in (fields[name] for name in help_of):
        flag = item.name if item.name == positional else _flag(item.name)
        hint = hints[item.name]
        default: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        options: dict[str, Any] = {"help": help_of[item.name]}
        if item.name != positional:
            options["default"] = default
        if hint is bool:
            options["action"] = ActionYesNo(yes_prefix="", no_prefix="no-")
        elif get_origin(hint) is Mapping:
            options |= {"nargs": "*", "metavar": "KEY=VALUE"}
        elif get_origin(hint) is Sequence:
            options |= {"nargs": "*", "type": get_args(hint)[0], "default": list(default)}
        else:
            options["type"] = hint
        parser.add_argument(flag, **options)
    return parser


def _help_texts(config_class: type[Any]) -> dict[str, str]:
    """The texts of a dataclass's docstring and of its base classes', by field and in their order."""
    texts: dict[str, str] = {}
    for cls in config_class.__mro__:
        for param in docstring_parser.parse(cls.__doc__ or "").params if "__doc__" in vars(cls) else ():
            text = re.sub(r"\bNone\b", "null", " ".join((param.description or "").split()))
            texts.setdefault(param.arg_name, text)
    fields = {item.name for item in dataclasses.fields(config_class)}
    return {name: text for name, text in texts.items() if name in fields}


def _check_fields(config_class: type[Any], help_of: Mapping[str, str], positional: str | None) -> None:
    """Tell who writes a command what is missing for a field to become a flag."""
    for item in dataclasses.fields(config_class):
        name = f"{config_class.__name__}.{item.name}"
        defaults = (item.default, item.default_factory)
        if item.name != positional and all(default is dataclasses.MISSING for default in defaults):
            raise TypeError(f"{name} needs a default: a flag can be left out")
        if not help_of.get(item.name):
            raise TypeError(f"{name} needs a line under `Attributes:` in the docstring, its help text")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse_empty_paths(hints: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Path("") would be the current directory."""
    for name, hint in hints.items():
        flag = _flag(name)
        if Path in (hint, *get_args(hint)) and (f"{flag}=" in argv or (flag, "") in itertools.pairwise(argv)):
            raise ConfigError(f"{flag} must be {type_in_words(hint)}, got ''")


def _config_file(argv: Sequence[str], resumes: bool) -> Path | None:
    """`--config` is looked for ahead of everything else, so that flags win wherever they stand.

    Args:
        argv: see `parse`.
        resumes: `--resume RUN` stands for the settings of that run.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    if resumes:
        finder.add_argument("--resume", type=Path)
    found = finder.parse_known_args(list(argv))[0]
    file: Path | None = found.config
    run: Path | None = getattr(found, "resume", None)
    if run is None:
        return file
    if file is not None:
        raise ConfigError(f"--resume goes on with the settings of {run}, so --config {file} has no place")
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"--resume {run}: not the folder of a run, it has no config.yaml")
    return run / "config.yaml"


def _file_values(parser: ArgumentParser, hints: Mapping[str, Any], file: Path) -> dict[str, Any]:
    try:
        values = load(file.read_text()) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {file}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold a mapping of settings to values")
    return _checked(parser, hints, values, str(file))


def _checked(
    parser: ArgumentParser, hints: Mapping[str, Any], values: Mapping[str, Any], file: str
) -> dict[str, Any]:
    """The values in their types.

    Raises:
        ConfigError: one does not fit; it names the file.
    """
    for name in values:
        if name not in hints:
            raise ConfigError(f"{file}: unknown setting {name!r}{_did_you_mean(str(name), hints)}")
        if not _right_container(hints[name], values[name]):
            raise ConfigError(f"{file}: {name} must be {type_in_words(hints[name])}, got {values[name]!r}")
    mappings = {name: value for name, value in values.items() if get_origin(hints[name]) is Mapping}
    others = {name: value for name, value in values.items() if name not in mappings}
    try:
        checked = parser.parse_object(others).as_dict()
    except argparse.ArgumentError as error:
        raise ConfigError(f"{file}: {_reworded(error.message, hints, parser, in_file=True)}") from None
    return {name: checked[name] for name in others} | mappings


def _right_container(hint: Any, value: Any) -> bool:
    """Check what the parser does not check or cannot handle: nulls, mappings and lists."""
    if value is None:
        return type(None) in get_args(hint)
    if value == "" and Path in (hint, *get_args(hint)):
        return False
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping)
    return get_origin(hint) is not Sequence or isinstance(value, list)


def _key_values(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"{_flag(name)} takes key=value, got {pair!r}")
        if key in result:
            raise ConfigError(f"{_flag(name)} has {key} twice, got {pair!r}")
        try:
            result[key] = load(text)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or " ".join(str(error).split())
            raise ConfigError(
                f"{_flag(name)} takes values in YAML, where quotes make text, got {pair!r}: {problem}"
            ) from None
    return result


def _reworded(message: str, hints: Mapping[str, Any], parser: ArgumentParser, in_file: bool = False) -> str:
    """Jsonargparse's messages in one line and in the user's words."""
    unknown = re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        flag = unknown[1].partition("=")[0]
        kind = "flag" if flag.startswith("-") else "argument"
        return f"unknown {kind} {flag}{_did_you_mean(flag, known)}"
    missing = re.match(r"(?:argument (\S+): )?expected (?:at least )?one argument", message)
    if missing:
        return f"{missing[1] or '--config'} needs a value"
    key = re.match(r'Parser key "(\w+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if key and value and key[1] in hints:
        name = key[1] if in_file else _flag(key[1])
        return f"{name} must be {type_in_words(hints[key[1]])}, got {value[1]!r}"
    return " ".join(message.split())


def _did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
