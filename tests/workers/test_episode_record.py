"""The record of running episodes, against one that works everything out at every step."""

import numpy as np
import pytest

from workers.episode_record import EpisodeRecord
from workers.pool import StepBatch

N = 4


class Slow:
    """Running episodes by env: [seed, actions, rewards, steps before each call]; and what envs show."""

    def __init__(self):
        self.episodes = {}
        self.shown = np.zeros((N, 2))

    def begin(self, env_ids, seeds, obs):
        self.episodes |= {env: [seed, [], [], []] for env, seed in zip(env_ids, seeds, strict=True)}
        self.shown[env_ids] = obs

    def step(self, env_ids, actions, batch, next_seeds):
        for row, env in enumerate(env_ids):
            _, its_actions, rewards, _ = self.episodes[env]
            its_actions.append(actions[row])
            rewards.append(batch.reward[row])
            if batch.ended[row]:
                del self.episodes[env]
                if next_seeds is not None:
                    self.episodes[env] = [next_seeds[row], [], [], []]
        self.shown[env_ids] = batch.obs if next_seeds is None else batch.next_obs

    def called(self, env, count):
        if env in self.episodes:
            _, actions, _, calls = self.episodes[env]
            calls.extend([len(actions)] * count)


def step_of(rng, env_ids):
    """Random actions, answer and seeds of next episodes, which do not always begin."""
    count = len(env_ids)
    ended, goes_on = rng.random(count) < 0.15, rng.random() < 0.7
    none = np.zeros(count, np.bool_)
    obs, next_obs = rng.normal(size=(count, 2)), rng.normal(size=(count, 2))
    reward = rng.normal(size=count).astype(np.float32)
    batch = StepBatch(env_ids, obs, reward, ended, none, none, next_obs if goes_on else None)
    return rng.integers(9, size=count), batch, rng.integers(10**6, size=count) if goes_on else None


def check_same(record, slow, env):
    assert record.plays(env) == (env in slow.episodes)
    np.testing.assert_array_equal(record.shown(env), slow.shown[env])
    if env in slow.episodes:
        seed, actions, rewards, calls = slow.episodes[env]
        found = record.of(env)
        assert (found.seed, found.actions.tolist(), found.rewards.tolist()) == (seed, actions, rewards)
        assert found.calls == tuple(calls)


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_matter_when_ends_are_worked_out(seed):
    rng = np.random.default_rng(seed)
    record, slow = EpisodeRecord(N, np.zeros((N, 2)), np.zeros(N, np.int64), 10**6), Slow()
    for _ in range(600):
        idle = np.array([env for env in range(N) if env not in slow.episodes], np.int64)
        if len(idle) > N // 2:
            seeds, obs = rng.integers(10**6, size=len(idle)), rng.normal(size=(len(idle), 2))
            record.begin(idle, seeds, obs)
            slow.begin(idle.tolist(), seeds, obs)
        env_ids = np.array(sorted(env for env in slow.episodes if rng.random() < 0.8), np.int64)
        if not len(env_ids):
            continue
        actions, batch, next_seeds = step_of(rng, env_ids)
        record.step(actions, batch, next_seeds)
        slow.step(env_ids.tolist(), actions, batch, next_seeds)
        if rng.random() < 0.1:
            record.called(np.array([1, 2]), np.array([1, 2]))
            slow.called(1, 1)
            slow.called(2, 2)
        if rng.random() < 0.1:
            check_same(record, slow, int(rng.integers(N)))
    for env in range(N):
        check_same(record, slow, env)


def test_only_the_episode_that_is_too_long_is_forgotten():
    record, ids = EpisodeRecord(1, np.zeros((1, 2)), np.zeros(1, np.int64), limit=3), np.array([0])
    no, yes = np.zeros(1, np.bool_), np.ones(1, np.bool_)

    def step(ended):
        obs = np.zeros((1, 2))
        batch = StepBatch(ids, obs, np.zeros(1, np.float32), ended, no, no, obs)
        record.step(np.array([1]), batch, np.array([8]))

    record.begin(ids, np.array([7]), np.zeros((1, 2)))
    for forgotten in (False, False, False, True):
        step(no)
        assert record.has_forgotten(0) == forgotten
    step(yes)
    step(no)
    assert not record.has_forgotten(0)
    assert (record.seed(0), record.of(0).actions.tolist()) == (8, [1])
