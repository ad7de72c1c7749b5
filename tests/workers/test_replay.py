"""Envs brought back to where they were."""

import gymnasium as gym
import numpy as np
import pytest

from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.replay import ActionLog, ReplayError, in_lockstep, replay


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


def test_the_log_keeps_what_running_episodes_need():
    log = ActionLog(3)
    for step in range(4):
        log.add(np.arange(3), np.array([10, 20, 30]) + step)
    log.restart(np.array([1]))
    log.add(np.array([0, 1]), np.array([14, 24]))
    assert [[int(a) for a in env] for env in log.of_envs()] == [
        [10, 11, 12, 13, 14],
        [24],
        [30, 31, 32, 33],
    ]
    log.restart(np.array([0, 2]))
    log.trim()
    assert [len(env) for env in log.of_envs()] == [0, 1, 0]
    log.add(np.array([2]), np.array([35]))
    assert [[int(a) for a in env] for env in log.of_envs()] == [[], [24], [35]]


def test_a_loaded_log_is_the_same_and_goes_on():
    log, other = ActionLog(2), ActionLog(2)
    log.add(np.arange(2), np.array([1, 2]))
    log.add(np.array([1]), np.array([3]))
    other.load(log.of_envs())
    for each in (log, other):
        each.add(np.arange(2), np.array([4, 5]))
    assert log.of_envs() == other.of_envs() == [[1, 4], [2, 3, 5]]


def test_lockstep_takes_envs_as_long_as_they_have_actions():
    steps = in_lockstep([[1, 2], [], [3]])
    assert [(ids.tolist(), rows.tolist()) for ids, rows in steps] == [([0, 2], [1, 3]), ([0], [2])]
    assert in_lockstep([[], []]) == []


@pytest.fixture
def pool():
    with InlinePool(env_factory(Summing, max_episode_steps=50), 2) as pool:
        yield pool


def test_replayed_envs_show_what_they_showed(pool):
    replay(pool, np.array([7, 8]), [[1, 2, 3], [40]], np.array([[7.0, 6.0], [8.0, 40.0]]))
    pool.send(np.arange(2), np.array([4, 5]))
    assert pool.recv().obs.tolist() == [[7.0, 10.0], [8.0, 45.0]]


def test_an_env_that_shows_something_else_is_named(pool):
    with pytest.raises(ReplayError, match=r"envs \[1\] are not what they were"):
        replay(pool, np.array([7, 8]), [[1], [40]], np.array([[7.0, 1.0], [8.0, 41.0]]))


def test_an_episode_that_ends_on_the_way_is_named(pool):
    with pytest.raises(ReplayError, match=r"envs \[0\] end earlier"):
        replay(pool, np.array([7, 8]), [[95, 1], [2]], np.zeros((2, 2)))
