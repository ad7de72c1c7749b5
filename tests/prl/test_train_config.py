"""Command lines and YAML files: what they become, and the one line that each mistake ends in."""

import dataclasses
import datetime
import importlib
import math
from collections.abc import Sequence
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest

from prl.commands.main import COMMANDS
from prl.config.command_line import parse, read_config
from prl.config.train_config import ConfigError, TrainConfig, to_yaml, unwritable_settings
from prl.config.yaml_format import dump, load


def read(*argv):
    return parse(TrainConfig, argv, prog="train.py")


def test_flags_become_fields_of_the_right_type(tmp_path):
    config = read(
        *("--env-id", "A", "--num-envs", "8", "--gamma", "1e-1", "--anneal-lr", "--no-normalize-advantage"),
        *(
            "--env-kwargs",
            "a=1",
            "b=x",
            "c=[1, 2]",
            "d=",
            "--hidden-sizes",
            "32",
            "16",
            "--target-kl",
            "null",
        ),
        *("--run-folder", str(tmp_path), "--transport", "pipe", "--num-workers", "0"),
    )
    assert config == TrainConfig(
        env_id="A",
        num_envs=8,
        gamma=0.1,
        anneal_lr=True,
        normalize_advantage=False,
        env_kwargs={"a": 1, "b": "x", "c": [1, 2], "d": None},
        hidden_sizes=[32, 16],
        run_folder=tmp_path,
        transport="pipe",
        num_workers=0,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_has_a_flag_and_a_help_text(name, capsys):
    command = importlib.import_module(f"prl.commands.{name.replace('-', '_')}").COMMAND
    with pytest.raises(SystemExit) as stop:
        parse(command.config_class, ["--help"], prog="x", positional=command.positional)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for item in dataclasses.fields(command.config_class):
        flag = item.name if item.name == command.positional else "--" + item.name.replace("_", "-")
        _, found, text = shown.partition(f"\n  {flag} ")
        if not found:
            _, found, text = shown.partition(f"\n  {flag},")
        assert found, flag
        described = text.partition("\n  --")[0].split("(type:")[0].split("(default:")[0]
        assert len(described.split()) > 1, flag
    assert "None" not in shown.partition("options:")[2]  # which is called null in files and flags
    assert "<class" not in shown


@dataclasses.dataclass
class NoDefault:
    """A command.

    Attributes:
        a: with a help text.
    """

    a: int


@dataclasses.dataclass
class NoHelp:
    """A command.

    Attributes:
        a: with a help text.
    """

    a: int = 1
    b: int = 2


@pytest.mark.parametrize(
    ("config_class", "message"),
    [(NoDefault, r"NoDefault\.a needs a default"), (NoHelp, r"NoHelp\.b needs a line under `Attributes:`")],
)
def test_who_writes_a_command_is_told_what_a_field_lacks(config_class, message):
    with pytest.raises(TypeError, match=message):
        parse(config_class, [], prog="x")


def test_the_positional_field_needs_no_default():
    assert parse(NoDefault, ["3"], prog="x", positional="a") == NoDefault(3)


def _numbers():
    """Every setting that is a number or numbers, each with a value that no setting may have."""
    for name, hint in get_type_hints(TrainConfig).items():
        kinds = {hint, *get_args(hint)}
        if int in kinds or float in kinds:
            bad = -(10**9)
            yield name, (bad,) if get_origin(hint) is Sequence else bad
        if float in kinds:
            yield name, math.nan


@pytest.mark.parametrize(("name", "value"), list(_numbers()))
def test_every_number_has_a_rule(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        TrainConfig(**{"env_id": "A", name: value})


def test_help_texts_are_inherited(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "anything gymnasium.make takes" in shown
    assert "Adam's step size for the actor" in shown  # stands at PPOConfig alone
    assert "20 %." in shown or "20 percent." in shown


FOLDER_WITHOUT_HOME = "run_folder ~nobody-of-this-name/a: Could not determine home directory."

NUMBERS = [
    ("1e-3", 0.001),
    ("1E5", 100000.0),
    ("-2e+3", -2000.0),
    (".5e1", 5.0),
    ("3", 3),
    ("1.5", 1.5),
    ("no", False),
    ("on", True),
    ("'1e-3'", "1e-3"),
    ('"no"', "no"),
    ("1e-3x", "1e-3x"),
    ("e3", "e3"),
    ("1_000", 1000),
    ("010", 10),
    ("089", 89),
    ("0x1F", 31),
    ("12:30", "12:30"),
    ("2020-01-01", "2020-01-01"),
    ("-.inf", -np.inf),
    ("inf", np.inf),
    ("-Infinity", -np.inf),
    ("infinite", "infinite"),
    ("!tuple [1, [2]]", (1, [2])),
    ("null", None),
    ("", None),
    ("[1e-3, a]", [0.001, "a"]),
    ("{x: 2e1}", {"x": 20.0}),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_arguments_of_the_env_are_read_alike_from_flags_and_files(text, value, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"env_id: A\nenv_kwargs:\n  x: {text}\n")
    for found in (read("--env-id", "A", "--env-kwargs", f"x={text}"), read("--config", str(file))):
        assert found.env_kwargs == {"x": value}
        assert type(found.env_kwargs["x"]) is type(value)
        assert load(to_yaml(found))["env_kwargs"] == {"x": value}


@pytest.mark.parametrize(
    "text", ["1e-3", "089", "12:30", "no", "", "null", "0x1F", ".5", "2020-01-01", "~", "inf", "NaN"]
)
def test_text_that_looks_like_something_else_stays_text(text):
    config = TrainConfig(env_id="A", env_kwargs={"x": text, "y": [text]})
    assert load(to_yaml(config))["env_kwargs"] == {"x": text, "y": [text]}


def test_a_run_is_read_without_presets(tmp_path):
    config = TrainConfig(env_id="Pendulum-v1", gamma=0.5)  # there is a preset with another gamma
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert to_yaml(read_config(TrainConfig, tmp_path / "c.yaml")) == to_yaml(config)
    (tmp_path / "c.yaml").write_text("env_id: Pendulum-v1\n")
    assert read_config(TrainConfig, tmp_path / "c.yaml") == TrainConfig(env_id="Pendulum-v1")
    (tmp_path / "c.yaml").write_text("env_id: A\ngama: 1\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown setting 'gama'; did you mean gamma"):
        read_config(TrainConfig, tmp_path / "c.yaml")


ASKED_FOR = ("array", "function", "inside", "day", "rude")


class Rude:
    def __repr__(self):
        raise RuntimeError


KWARGS = {
    "number": np.float64(0.5),
    "flags": (np.bool_(True), 2),
    "nested": {"a": [1, {"b": None}]},
    "array": np.ones(3),
    "function": len,
    "inside": [1, [Rude]],
    "day": datetime.date(2020, 1, 1),
    "rude": Rude(),
}


def test_what_yaml_cannot_hold_is_marked_and_asked_for(tmp_path):
    config = TrainConfig(env_id="A", env_kwargs=KWARGS)
    assert unwritable_settings(config) == {
        "env_kwargs.array": "array([1., 1., 1.])",
        "env_kwargs.function": "<built-in function len>",
        "env_kwargs.inside": f"[1, [{Rude!r}]]",
        "env_kwargs.day": "datetime.date(2020, 1, 1)",
        "env_kwargs.rude": "a Rude",
    }
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config))
    with pytest.raises(ConfigError) as error:
        read("--config", str(file))
    assert str(error.value).startswith(f"{file}: env_kwargs.array was an object that YAML cannot hold")
    given = [f"{name}=1" for name in ASKED_FOR]
    again = read("--config", str(file), "--env-kwargs", *given)
    expected = {"number": 0.5, "flags": (True, 2), "nested": {"a": [1, {"b": None}]}}
    assert again.env_kwargs == expected | dict.fromkeys(ASKED_FOR, 1)
    assert unwritable_settings(again) == {}


def test_equal_values_are_written_in_full():
    shared = [1, 2]
    assert load(dump({"a": shared, "b": shared})) == {"a": shared, "b": shared}
    assert "&" not in dump({"a": shared, "b": shared})


@pytest.mark.parametrize("first", [True, False])
def test_flags_win_over_the_file_wherever_they_stand(tmp_path, first):
    file = tmp_path / "c.yaml"
    file.write_text("env_id: A\ngamma: 0.5\nseed: 7\nenv_kwargs: {x: 1}\n")
    flags, config = ["--seed", "9"], ["--config", str(file)]
    found = read(*(flags + config if first else config + flags))
    assert (found.env_id, found.gamma, found.seed, found.env_kwargs) == ("A", 0.5, 9, {"x": 1})


def test_yaml_round_trip(tmp_path):
    config = TrainConfig(
        env_id="A",
        env_kwargs={"a": 1.5, "b": [1]},
        actor_lr=1e-5,
        target_kl=None,
        hidden_sizes=(3,),
        num_workers=2,
    )
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert to_yaml(read("--config", str(tmp_path / "c.yaml"))) == to_yaml(config)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-wrokers", "3"], "unknown flag --num-wrokers; did you mean --num-workers?"),
        (["--xyzzy=3"], "unknown flag --xyzzy"),
        (["--num_envs", "3"], "unknown flag --num_envs; did you mean --num-envs?"),
        (["CartPole-v1"], "unknown argument CartPole-v1"),
        (["--num-envs"], "--num-envs needs a value"),
        (["--num-envs", "abc"], "--num-envs must be an integer or auto, got 'abc'"),
        (["--num-envs", "3.5"], "--num-envs must be an integer or auto, got '3.5'"),
        (["--num-workers", "x"], "--num-workers must be an integer or auto or null, got 'x'"),
        (["--transport", "foo"], "--transport must be shared or pipe, got 'foo'"),
        (["--env-kwargs", "foo"], "--env-kwargs takes key=value, got 'foo'"),
        (["--env-kwargs", "a=1", "a=2"], "--env-kwargs has a twice, got 'a=2'"),
        (
            ["--env-kwargs", "a=[1,"],
            "--env-kwargs takes values in YAML, where quotes make text, got 'a=[1,': "
            "expected the node content, but found '<stream end>'",
        ),
        (["--run-folder", ""], "--run-folder must be a path or null, got ''"),
        (["--run-folder="], "--run-folder must be a path or null, got ''"),
        (["--run-folder", "~nobody-of-this-name/a"], FOLDER_WITHOUT_HOME),
        (["--hidden-sizes", "a"], "--hidden-sizes must be a list, each an integer, got 'a'"),
        (["--hidden-sizes", "0"], "hidden_sizes must be sizes of at least 1, got (0,)"),
        (["--gamma", "2"], "gamma must be between 0 and 1, got 2.0"),
        (["--num-envs", "0"], "num_envs must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be 0 or more, below 2**63, got -1"),
        (["--num-groups", "33"], "num_groups must be at most num_envs (32), got 33"),
        (["--config"], "--config needs a value"),
        (
            ["--config", "nope.yaml"],
            "cannot read nope.yaml: [Errno 2] No such file or directory: 'nope.yaml'",
        ),
    ],
)
def test_each_mistake_ends_in_one_line(argv, message):
    with pytest.raises(ConfigError) as error:
        read("--env-id", "A", *argv)
    assert str(error.value) == message


def test_the_folder_may_lie_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("env_id: A\nrun_folder: ~/runs/a\n")
    assert read("--config", str(tmp_path / "c.yaml")).run_folder == tmp_path / "runs/a"
    assert read("--env-id", "A", "--run-folder=~/a").run_folder == tmp_path / "a"
    for wrong in ("", "a\0b"):
        with pytest.raises(ConfigError, match=r"^run_folder must be the path of a folder, got "):
            TrainConfig(env_id="A", run_folder=wrong)


def test_the_env_is_required():
    with pytest.raises(ConfigError, match="env_id is required"):
        read("--seed", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_wrokers: 3", "unknown setting 'num_wrokers'; did you mean num_workers?"),
        ("num_envs: abc", "num_envs must be an integer or auto, got 'abc'"),
        ("num_envs: true", "num_envs must be an integer or auto, got 'True'"),
        ("gamma: null", "gamma must be a number, got None"),
        ("env_kwargs: 3", "env_kwargs must be a mapping, got 3"),
        ("hidden_sizes: 3", "hidden_sizes must be a list, each an integer, got 3"),
        ("- 1", "must hold a mapping of settings to values"),
        (": {", "cannot read"),
    ],
)
def test_each_mistake_in_a_file_names_the_file(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read("--env-id", "A", "--config", str(file))
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
