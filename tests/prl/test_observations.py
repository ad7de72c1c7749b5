"""Observations that a run reads otherwise than its user may expect, or cannot read."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from probe_envs import Tiny
from torch import nn

from learner.encoders import ImageEncoder
from prl.cli import train_main
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory, build_learner, build_policy


class Sees(Tiny):
    """One step per episode; every observation is an element of a given space."""

    def __init__(self, space):
        self.observation_space = space
        space.seed(0)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}


class LowBits(nn.Module):
    """Codes as the numbers of their three low bits."""

    def __init__(self, space):
        super().__init__()

    def forward(self, codes):
        return codes.reshape(-1, 1).bitwise_right_shift(codes.new_tensor([0, 1, 2])).remainder(2).float()


@pytest.fixture
def env_id():
    """Registers an env with a given observation space."""
    name = "test/Sees-v0"

    def register(space):
        gym.register(name, Sees, kwargs={"space": space}, max_episode_steps=5)
        return name

    yield register
    del gym.registry[name]


def train(env_id, folder, *flags):
    flags = ("--num-envs", "4", "--num-workers", "0", "--total-timesteps", "8", "--batch-size", "8", *flags)
    return train_main(["--env-id", env_id, "--run-folder", str(folder), *flags])


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (Box(0, 255, (20, 20, 3), np.uint8), "observation of shape (20, 20, 3) is read as 1,200 numbers"),
        (Dict(code=Discrete(10_000)), "observation['code'] has 10,000 choices"),
    ],
)
def test_a_run_begins_with_what_its_user_may_not_expect(space, line, env_id, tmp_path, capsys):
    assert train(env_id(space), tmp_path / "run") == 0
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith(f"train: {line}")


def test_an_encoder_of_the_users_is_not_commented_on(env_id, tmp_path, capsys):
    assert train(env_id(Discrete(10_000)), tmp_path / "run", "--encoder", f"{__name__}:LowBits") == 0
    assert capsys.readouterr().err == ""


def test_what_has_too_many_choices_ends_in_one_line(env_id, tmp_path, capsys):
    assert train(env_id(Discrete(2**40)), tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: test/Sees-v0: 1,099,511,627,776 choices are too many")
    assert not (tmp_path / "run").exists()


def test_a_custom_encoder_may_read_them_but_rnd_may_not(env_id, tmp_path, capsys):
    flags = ("--encoder", f"{__name__}:LowBits")
    space = Discrete(2**40)
    assert train(env_id(space), tmp_path / "run", *flags) == 0
    capsys.readouterr()
    assert train("test/Sees-v0", tmp_path / "other", *flags, "--rnd") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: rnd cannot be used: 1,099,511,627,776 choices are too many")


def test_images_of_floats_train_through_the_cnn(env_id):
    config = TrainConfig(env_id=env_id(Box(0.0, 1.0, (36, 36), np.float32)), num_workers=0)
    policy = build_policy(build_factory(config), config)
    assert isinstance(policy.encoder, ImageEncoder)
    assert build_learner(policy, config).policy is policy
