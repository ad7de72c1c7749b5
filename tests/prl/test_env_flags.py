"""Flags about the env itself: how its episodes end, its masks, how long it may take to start, wrappers."""

import gymnasium as gym
import numpy as np
import pytest

from prl.cli import play_main, train_main
from prl.commands.main import _warnings_in_one_line
from prl.run.periodic_evaluation import evaluation_seeds

SMALL = ("--num-envs", "2", "--num-workers", "0", "--total-timesteps", "60", "--batch-size", "30")


class EndsByItself(gym.Env):
    """Ten steps, but nothing outside says so; `slips` makes the evaluation's episodes endless."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(3)

    def __init__(self, slips=False):
        self.slips = slips

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        self.endless = self.slips and seed in evaluation_seeds(0, 2)
        return self.obs(), {}

    def step(self, action):
        self.steps += 1
        return self.obs(), 1.0, False, self.steps >= 10 and not self.endless, {}

    def obs(self):
        return np.full(2, self.steps / 100, np.float32)


class OnlyOne(EndsByItself):
    """Its mask allows action 1 alone, and every other one costs 10."""

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        return obs, self.info()

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward if action == 1 else -10.0, terminated, truncated, self.info()

    def info(self):
        return {"action_mask": np.array([0, 1, 0], np.int8)}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    gym.register("test/EndsByItself-v0", EndsByItself)
    gym.register("test/OnlyOne-v0", OnlyOne, max_episode_steps=10)
    yield
    del gym.registry["test/EndsByItself-v0"]
    del gym.registry["test/OnlyOne-v0"]


def trained(folder, env_id, *flags):
    return train_main(["--env-id", env_id, *SMALL, "--run-folder", str(folder), *flags])


def test_an_env_that_ends_by_itself_needs_no_limit(tmp_path, capsys):
    assert trained(tmp_path / "a", "test/EndsByItself-v0") == 2
    err = capsys.readouterr().err
    assert "--max-episode-steps" in err
    assert "--ends-by-itself" in err
    assert len(err.splitlines()) == 1
    flags = ("--ends-by-itself", "--eval-freq", "30", "--eval-episodes", "2")
    assert trained(tmp_path / "a", "test/EndsByItself-v0", *flags) == 0
    assert "mean return 10.0" in capsys.readouterr().out
    assert play_main([str(tmp_path / "a"), "--episodes", "2"]) == 0  # the run remembers it
    assert "mean return 10.00 over 2 episodes" in capsys.readouterr().out


def test_an_evaluation_does_not_rely_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr("prl.run.build.LONGEST_EPISODE", 40)
    flags = ("--ends-by-itself", "--eval-freq", "60", "--eval-episodes", "2", "--env-kwargs", "slips=true")
    with pytest.warns(UserWarning, match="2 of 2 episodes did not end within 40 steps and were cut"):
        assert trained(tmp_path / "a", "test/EndsByItself-v0", *flags) == 0


def test_a_limit_of_the_users_is_the_limit_of_evaluations(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prl.run.build.LONGEST_EPISODE", 5)
    assert trained(tmp_path / "a", "test/EndsByItself-v0", "--max-episode-steps", "8") == 0
    assert play_main([str(tmp_path / "a"), "--episodes", "1"]) == 0
    assert "return 8.00, 8 steps" in capsys.readouterr().out


def test_masks_can_be_ignored(tmp_path, capsys):
    assert trained(tmp_path / "a", "test/OnlyOne-v0") == 0
    assert "mean return 10.0" in capsys.readouterr().out  # nothing but the legal action
    assert trained(tmp_path / "b", "test/OnlyOne-v0", "--no-action-masks") == 0
    assert "mean return -" in capsys.readouterr().out
    assert play_main([str(tmp_path / "b"), "--episodes", "1"]) == 0


def test_a_worker_that_starts_too_slowly_is_named_with_the_setting(tmp_path, capsys):
    flags = ("--num-workers", "1", "--start-timeout", "0.001")
    assert trained(tmp_path / "a", "CartPole-v1", *flags) == 1
    err = capsys.readouterr().err
    assert "start_timeout" in err or "start-timeout" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "a").exists()
    assert trained(tmp_path / "a", "CartPole-v1", "--start-timeout", "0") == 2
    assert "start_timeout must be a positive number of seconds" in capsys.readouterr().err


def wrapped_inside():
    return gym.wrappers.NormalizeReward(gym.wrappers.TimeLimit(EndsByItself(), 10))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("NormalizeObservation", ["--normalize-obs"]),
        ("NormalizeReward", ["--normalize-reward"]),
    ],
)
def test_a_wrapper_with_statistics_of_its_own_is_named(kind, settings, tmp_path, capsys):
    flags = ("--wrappers", f"gymnasium.wrappers:{kind}", "--max-episode-steps", "10")
    assert trained(tmp_path / "a", "test/EndsByItself-v0", *flags) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train: test/EndsByItself-v0 is wrapped in {kind}: its statistics differ")
    assert all(setting in line for setting in settings)


def test_a_wrapper_inside_the_envs_own_constructor_is_named_too(tmp_path, capsys):
    gym.register("test/Inside-v0", wrapped_inside)
    try:
        assert trained(tmp_path / "a", "test/Inside-v0") == 0
    finally:
        del gym.registry["test/Inside-v0"]
    assert "is wrapped in NormalizeReward" in capsys.readouterr().err
    assert trained(tmp_path / "b", "CartPole-v1") == 0
    assert capsys.readouterr().err == ""


def test_warnings_of_prl_are_printed_like_other_messages():
    import warnings

    import prl.run.sinks

    with _warnings_in_one_line("train"):
        mine = warnings.formatwarning("disk full", UserWarning, prl.run.sinks.__file__, 3)
        others = warnings.formatwarning("old", DeprecationWarning, prl.run.sinks.__file__, 3, "")
        elsewhere = warnings.formatwarning("odd", UserWarning, "/env/env.py", 3, "")
    assert mine == "train: disk full\n"
    assert others.endswith("DeprecationWarning: old\n")
    assert elsewhere == "/env/env.py:3: UserWarning: odd\n"
    assert "UserWarning" in warnings.formatwarning("disk full", UserWarning, prl.run.sinks.__file__, 3, "")
