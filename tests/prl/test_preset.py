"""Presets: found by env id, printed, switched off, and below file and flags."""

import dataclasses

import pytest

from learner.settings import ConfigError
from prl.config.command_line import parse
from prl.config.preset import all_presets, find_preset
from prl.config.train_config import TrainConfig, to_yaml


def config(*argv):
    return parse(TrainConfig, list(argv), prog="train.py")


def same(found, **settings):
    return to_yaml(found) == to_yaml(TrainConfig(**settings))


def test_every_preset_is_a_valid_config_and_changes_something():
    presets = list(all_presets())
    assert len(presets) >= 11
    for preset in presets:
        env_id = preset.pattern.replace("*", "1")
        assert find_preset(env_id) == preset, "an earlier pattern hides it"
        chosen = config("--env-id", env_id)
        for name, value in preset.settings.items():
            got = getattr(chosen, name)
            assert (list(got) if isinstance(value, list) else got) == value, (preset.pattern, name)
        assert preset.settings.keys() <= {field.name for field in dataclasses.fields(TrainConfig)}


def test_the_preset_of_the_env_is_taken_with_or_without_module():
    expected = find_preset("Pendulum-v1").settings["gamma"]
    assert expected != TrainConfig(env_id="x").gamma
    assert config("--env-id", "Pendulum-v1").gamma == expected
    assert config("--env-id", "some.module:Pendulum-v1").gamma == expected


def test_none_switches_it_off():
    assert same(config("--env-id", "Pendulum-v1", "--preset", "none"), env_id="Pendulum-v1", preset="none")


def test_an_env_without_preset_keeps_the_defaults():
    assert same(config("--env-id", "MyOwn-v0"), env_id="MyOwn-v0")


def test_the_preset_of_another_env_can_be_taken():
    assert (
        config("--env-id", "MyOwn-v0", "--preset", "Pendulum-v1").gamma
        == config("--env-id", "Pendulum-v1").gamma
    )


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("env_id: Pendulum-v1\ngamma: 0.5\nseed: 3\n")
    both = config("--config", str(file), "--seed", "4")
    assert (both.gamma, both.seed) == (0.5, 4)
    assert both.rollout == find_preset("Pendulum-v1").settings["rollout"]
    flag = config("--gamma", "0.25", "--config", str(file))
    assert flag.gamma == 0.25


def test_an_unknown_preset_is_named_with_what_there_is():
    with pytest.raises(ConfigError, match=r"no preset for 'Foo-v1'.*auto, none, or match .*CartPole-v\*"):
        config("--env-id", "MyOwn-v0", "--preset", "Foo-v1")


def test_a_preset_says_what_it_sets():
    text = str(find_preset("Pendulum-v1"))
    assert text.startswith("preset Pendulum-v* (classic_control): ")
    assert "gamma=0.95" in text
    assert "\n" not in text


def test_one_more_keyword_of_an_env_does_not_take_those_of_the_preset_away():
    pong = ("--env-id", "ALE/Pong-v5")
    assert config(*pong, "--env-kwargs", "repeat_action_probability=0.0").env_kwargs == {
        "frameskip": 1,
        "repeat_action_probability": 0.0,
    }
    assert config(*pong, "--env-kwargs", "frameskip=2").env_kwargs == {"frameskip": 2}
    assert len(config(*pong).wrappers) == 2
    assert config(*pong, "--wrappers").wrappers == ()


def test_what_flags_have_overruled_is_not_effective():
    preset = find_preset("ALE/Pong-v5")
    assert preset.effective(config("--env-id", "ALE/Pong-v5")) == preset
    flags = ("--wrappers", "--num-envs", "2", "--env-kwargs", "obs_type=ram")
    left = preset.effective(config("--env-id", "ALE/Pong-v5", *flags)).settings
    assert preset.settings.keys() - left.keys() == {"wrappers", "num_envs"}  # frameskip=1 still holds
