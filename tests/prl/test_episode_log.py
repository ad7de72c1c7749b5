"""The actions of running episodes, whatever the rounds were in which they were played."""

import numpy as np

from learner.store import Rollout
from prl.training.episode_log import EpisodeLog


def part(env_ids, actions, ends=()):
    """Steps of a group; `ends` are the rows after which an episode is over."""
    rows = len(env_ids)
    last = [row + 1 == rows or env_ids[row] != env_ids[row + 1] for row in range(rows)]
    over = np.isin(np.arange(rows), ends)
    closed = over | np.array(last)
    zeros = np.zeros((rows, 1))
    return Rollout(
        env_ids=np.array(env_ids), obs=zeros, actions=np.array(actions), rewards=np.zeros(rows, np.float32),
        ends=closed, terminated=over[closed], continues=~over[closed], final_obs=zeros[closed], extra={},
    )  # fmt: skip


def numbers(log):
    return [[] if env is None else env.tolist() for env in log.of_envs()]


def times_ten(actions):
    return actions * 10


def test_the_log_keeps_what_running_episodes_need():
    log = EpisodeLog(3, times_ten)
    log.add(part([0, 0, 1, 1], [1, 2, 3, 4]))
    log.add(part([2, 2], [5, 6]))
    assert numbers(log) == [[10, 20], [30, 40], [50, 60]]
    log.add(part([0, 0, 1, 1], [7, 8, 9, 10], ends=[2]))  # env 1's first step ended its episode
    assert numbers(log) == [[10, 20, 70, 80], [100], [50, 60]]
    log.add(part([2, 2, 2], [11, 12, 13], ends=[0, 2]))  # the next episode has not begun
    assert numbers(log) == [[10, 20, 70, 80], [100], []]


def test_memory_is_given_back_when_no_running_episode_needs_it():
    log = EpisodeLog(2, times_ten)
    for step in range(50):
        log.add(part([0, 1], [step, step], ends=[0, 1] if step % 5 == 4 else [0]))
        assert len(log._parts) <= 6
    assert numbers(log) == [[], []]


def test_a_loaded_log_is_the_same_and_goes_on():
    log, other = EpisodeLog(2, times_ten), EpisodeLog(2, times_ten)
    log.add(part([0, 1, 1], [1, 2, 3]))
    other.load(log.of_envs())
    assert numbers(other) == numbers(log) == [[10], [20, 30]]
    for each in (log, other):
        each.add(part([0, 1], [4, 5], ends=[1]))
    assert numbers(other) == numbers(log) == [[10, 40], []]
    other.add(part([0, 1], [6, 7], ends=[0]))
    assert numbers(other) == [[], [70]]
