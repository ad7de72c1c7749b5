"""YAML as prl reads and writes it: numbers like 1e-3 are numbers, and what YAML cannot hold is marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

_INT = re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf)$"
    r"|\.nan$"
    r"|(?i:[-+]?(?:inf|infinity|nan))$"  # as flags of numbers read them
)
_UNWRITTEN_TAG = "!not-written"
_TUPLE_TAG = "!tuple"
_MAX_DESCRIPTION = 120


@dataclass(frozen=True)
class Unwritten:
    """Stands in a file for a value that YAML cannot hold, e.g. a function.

    Attributes:
        description: of the value, in one line.
    """

    description: str


class _Loader(yaml.SafeLoader):
    """Numbers as Python writes them. YAML 1.1 takes 1e-3 for text, 010 for 8 and 12:30 for 750."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("bool", "null")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever text the loader would take for a number. No anchors for equal values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _int(loader: _Loader, node: Any) -> int:
    text = str(node.value).replace("_", "").lower()
    return int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0b") else 10)


def _tuple(loader: _Loader, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789.iInN"))
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor(_TUPLE_TAG, _tuple)
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_sequence(_TUPLE_TAG, value))
_Loader.add_constructor(_UNWRITTEN_TAG, lambda loader, node: Unwritten(str(node.value)))
_Dumper.add_representer(
    Unwritten, lambda dumper, value: dumper.represent_scalar(_UNWRITTEN_TAG, value.description)
)


def load(text: str) -> Any:
    """What a YAML document holds.

    Raises:
        yaml.YAMLError: it is not YAML, or holds objects.
    """
    return yaml.load(text, _Loader)


def dump(values: Mapping[str, Any]) -> str:
    """A YAML document that `load` reads back, keys in alphabetical order.

    Raises:
        yaml.YAMLError: a value cannot be written; see `writable`.
    """
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=True)
    return text


def writable(value: Any) -> Any:
    """A value as YAML can hold it, or `Unwritten`.

    NumPy's numbers become Python's. A tuple is written as `!tuple` and read back as one. An array is not
    written: a list in its place would be another value when the file is read.
    """
    plain = _plain(value)
    try:
        text = dump({"": plain})
        if dump(load(text)) == text:
            return plain
    except (yaml.YAMLError, RecursionError):
        pass
    return Unwritten(_description(value))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if type(value) is tuple:  # a named one cannot be written
        return tuple(_plain(item) for item in value)
    return value


def _description(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a __repr__ is the user's code
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MAX_DESCRIPTION else f"{text[: _MAX_DESCRIPTION - 3]}..."
