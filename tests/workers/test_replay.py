"""Envs brought back to where they were."""

import gymnasium as gym
import numpy as np
import pytest

from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.replay import in_lockstep, replay


class Summing(gym.Env):
    """Shows (seed, sum of actions); `drift` is what another process might have changed."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(100)
    drift = 0.0

    def reset(self, *, seed=None, options=None):
        self.seed, self.sum = seed, 0.0
        return np.array([seed, self.sum + self.drift]), {}

    def step(self, action):
        self.sum += action
        return np.array([self.seed, self.sum + self.drift]), 0.0, self.sum > 90, False, {}


def test_lockstep_takes_envs_as_long_as_they_have_actions():
    steps = in_lockstep([[1, 2], [], [3]])
    assert [(ids.tolist(), rows.tolist()) for ids, rows in steps] == [([0, 2], [1, 3]), ([0], [2])]
    assert in_lockstep([[], []]) == []


@pytest.fixture
def pool():
    with InlinePool(env_factory(Summing, max_episode_steps=50), 2) as pool:
        yield pool


def test_replayed_envs_show_what_they_showed(pool):
    expected = np.array([[7.0, 6.0], [8.0, 40.0]])
    assert replay(pool, np.array([7, 8]), [[1, 2, 3], [40]], expected).tolist() == []
    pool.send(np.arange(2), np.array([4, 5]))
    assert pool.recv().obs.tolist() == [[7.0, 10.0], [8.0, 45.0]]


def test_an_env_that_shows_something_else_is_lost(pool):
    assert replay(pool, np.array([7, 8]), [[1], [40]], np.array([[7.0, 1.0], [8.0, 41.0]])).tolist() == [1]


def test_an_episode_that_ends_on_the_way_is_lost_and_takes_no_more_steps(pool):
    expected = np.array([[7.0, 96.0], [8.0, 5.0]])
    assert replay(pool, np.array([7, 8]), [[95, 1], [2, 3]], expected).tolist() == [0]


def test_an_episode_that_nobody_knows_is_lost(pool):
    assert replay(pool, np.array([7, 8]), [None, [2]], np.array([[7.0, 0.0], [8.0, 2.0]])).tolist() == [0]
    assert replay(pool, np.array([7, 8]), [None, None], np.zeros((2, 2))).tolist() == [0, 1]
