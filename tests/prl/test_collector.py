"""Rounds until a batch is full, and who begins the next batch when: against players that only take notes."""

import numpy as np
import pytest
from learner_helpers import make_policy

from learner.store import Rollout
from prl.training.active import ActiveEnvs
from prl.training.collector import Collector
from prl.training.group_round import Episodes, GroupRollout, PlayingTime
from prl.training.players import Weights
from prl.training.rounds import split_groups
from workers.seeding import Stream

OLD, NEW = (Weights(version, make_policy()) for version in (1, 2))
NO_ENVS = np.zeros(0, np.int64)


def part_of(group, env_ids, steps):
    rollout = Rollout(
        env_ids=np.repeat(env_ids, steps),
        obs=np.zeros((len(env_ids) * steps, 1)),
        actions=np.zeros(len(env_ids) * steps, np.int64),
        rewards=np.zeros(len(env_ids) * steps, np.float32),
        ends=np.tile(np.arange(steps) == steps - 1, len(env_ids)),
        terminated=np.ones(len(env_ids), bool),
        continues=np.zeros(len(env_ids), bool),
        final_obs=np.zeros((len(env_ids), 1)),
        extra={},
    )
    episodes = Episodes(
        env_ids, np.zeros(len(env_ids)), np.full(len(env_ids), steps), np.zeros((len(env_ids), 0))
    )
    zeros = np.zeros(len(env_ids))
    return GroupRollout(group, rollout, episodes, env_ids, zeros, env_ids * 0, None, steps, 0)


class Notes:
    """Players whose groups play so many steps per env, and are done in a given order.

    Attributes:
        given: (version of the weights, round, group) of each task.
        abandoned: how often.
    """

    def __init__(self, num_envs, steps, order):
        self.active, self.seconds = ActiveEnvs(num_envs), PlayingTime()
        self._steps, self._order = steps, order
        self.given, self.abandoned = [], 0
        self._open = {}

    def play(self, weights, tasks):
        for task in tasks:
            self.given.append((weights.version, *task))
            self._open.setdefault(weights.version, set()).add(task[1])
        return self._play(weights.version)

    def _play(self, version):
        while open_groups := self._open.get(version):
            group = next(group for group in self._order if group in open_groups)
            open_groups.remove(group)
            yield part_of(group, split_groups(6, 3)[group], self._steps)

    def abandon(self):
        self._open.clear()
        self.abandoned += 1


class Rounds:
    """Tasks are (round, group)."""

    def __init__(self, least_steps):
        self.taken, self._least_steps = [], least_steps

    def least_steps(self, env_ids):
        return self._least_steps * len(env_ids)

    def task(self, group, env_ids, noise, calls=0):
        stream, number = noise
        assert stream is Stream.NOISE
        assert env_ids.tolist() == split_groups(6, 3)[group].tolist()
        return number, group

    def take(self, env_ids, part):
        self.taken.append((part.group, env_ids.tolist()))


def collector_of(batch_size, steps=5, order=(2, 0, 1), least=0):
    """Six envs in three groups: a round has 6 x 5 steps, of which 6 x `least` are certain."""
    return Collector(Notes(6, steps, order), Rounds(least), split_groups(6, 3), batch_size)


@pytest.mark.parametrize(("batch_size", "rounds"), [(1, 1), (30, 1), (31, 2), (90, 3)])
def test_so_many_rounds_as_a_batch_needs(batch_size, rounds):
    collector = collector_of(batch_size)
    played = list(collector.collect(OLD))
    assert [round_.steps for round_ in played] == [30] * rounds
    assert collector.players.given == [(1, number, group) for number in range(rounds) for group in range(3)]
    assert collector.next_round == rounds
    assert collector.begun == set()


def test_parts_come_in_the_order_of_groups_whoever_is_done_first():
    (played,) = collector_of(1).collect(OLD)
    assert [part.env_ids[0] for part in played.parts] == [0, 2, 4]
    assert played.lengths.tolist() == [5] * 6


def test_each_group_goes_on_where_its_own_part_has_ended():
    collector = collector_of(1)
    list(collector.collect(OLD))
    assert collector.rounds.taken == [(2, [4, 5]), (0, [0, 1]), (1, [2, 3])]


def test_the_following_batch_begins_only_once_this_one_is_certain_to_be_full():
    """After 20 of the 30 steps of the round; groups that are done begin at once, the last one as well."""
    collector = collector_of(20)
    list(collector.collect(OLD, NEW))
    given = collector.players.given
    assert given[:3] == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]
    assert sorted(given[3:5]) == [(2, 1, 0), (2, 1, 2)]  # two of them are done by then
    assert given[5] == (2, 1, 1)
    assert collector.begun == {0, 1, 2}


@pytest.mark.parametrize("least", [0, 3, 5])
def test_where_steps_are_known_before_nobody_waits_for_others(least):
    collector = collector_of(30, least=least)
    open_parts = collector.players.play
    begun_at = {}

    def play(weights, tasks):
        if weights is NEW:
            begun_at.update({group: len(collector.rounds.taken) for _, group in tasks})
        return open_parts(weights, tasks)

    collector.players.play = play
    list(collector.collect(OLD, NEW))
    assert begun_at == ({2: 1, 0: 2, 1: 3} if least == 5 else {2: 3, 0: 3, 1: 3})


def test_nobody_begins_the_following_batch_while_a_round_is_missing():
    collector = collector_of(31)
    rounds = collector.collect(OLD, NEW)
    next(rounds)
    assert {version for version, *_ in collector.players.given} == {1}
    next(rounds)
    assert [task for task in collector.players.given if task[0] == 2] == [(2, 2, 2), (2, 2, 0), (2, 2, 1)]


def test_who_has_begun_is_not_given_the_same_round_again():
    collector = collector_of(30)
    list(collector.collect(OLD, NEW))
    collector.begin(NEW)
    assert sorted(task for task in collector.players.given if task[0] == 2) == [(2, 1, g) for g in range(3)]
    list(collector.collect(NEW))
    assert sorted(task for task in collector.players.given if task[0] == 2) == [(2, 1, g) for g in range(3)]
    assert collector.next_round == 2


def test_what_is_abandoned_has_not_begun():
    collector = collector_of(30)
    list(collector.collect(OLD))
    collector.begin(NEW)
    collector.abandon()
    assert (collector.players.abandoned, collector.begun, collector.next_round) == (1, set(), 1)
    list(collector.collect(NEW))
    assert collector.players.given[-3:] == [(2, 1, group) for group in range(3)]
