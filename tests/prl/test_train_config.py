"""Command lines and YAML files: what they become, and the one line that each mistake ends in."""

import dataclasses

import pytest

from prl.config.command_line import parse
from prl.config.train_config import ConfigError, TrainConfig, to_yaml


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


def test_every_field_has_a_flag_and_a_help_text(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for item in dataclasses.fields(TrainConfig):
        assert "--" + item.name.replace("_", "-") in shown
    assert "anything gymnasium.make takes" in shown


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
        (["--num-envs", "abc"], "--num-envs must be an integer, got 'abc'"),
        (["--num-envs", "3.5"], "--num-envs must be an integer, got '3.5'"),
        (["--num-workers", "x"], "--num-workers must be an integer or null, got 'x'"),
        (["--transport", "foo"], "--transport must be shared or pipe, got 'foo'"),
        (["--env-kwargs", "foo"], "--env-kwargs takes key=value, got 'foo'"),
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


def test_the_env_is_required():
    with pytest.raises(ConfigError, match="env_id is required"):
        read("--seed", "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_wrokers: 3", "unknown setting 'num_wrokers'; did you mean num_workers?"),
        ("num_envs: abc", "num_envs must be an integer, got 'abc'"),
        ("num_envs: true", "num_envs must be an integer, got 'True'"),
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
