"""Where the time of an iteration went: shares that add up to 1, whoever acts."""

import types

import pytest

from prl.training.group_round import PlayingTime
from prl.training.phases import phase_shares
from prl.training.players import LearnerPlayers


def shares(playing, collecting, update, seconds, *, acting_workers=0, num_workers=0):
    collected = types.SimpleNamespace(seconds=collecting, playing=PlayingTime(*playing))
    pool = types.SimpleNamespace(num_envs=2, num_workers=acting_workers or num_workers)
    players = LearnerPlayers(pool)
    if acting_workers:
        players = types.SimpleNamespace(num_processes=acting_workers, pool=pool)
    found = phase_shares(collected, update, seconds, players)
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(share >= 0.0 for share in found.values())
    return {name.removeprefix("time/").removesuffix("_share"): share for name, share in found.items()}


def test_the_learner_steps_and_acts_by_itself():
    assert shares((2.0, 1.0, 0.5), 3.6, 6.0, 10.0) == pytest.approx(
        {"env": 0.2, "act": 0.1, "store": 0.05, "wait": 0.01, "update": 0.6, "other": 0.04}
    )


def test_an_acting_learner_waits_for_workers_that_step():
    assert shares((2.0, 1.0, 0.5), 3.5, 6.0, 10.0, num_workers=4) == pytest.approx(
        {"env": 0.0, "act": 0.1, "store": 0.05, "wait": 0.2, "update": 0.6, "other": 0.05}
    )


def test_workers_that_act_share_their_time():
    """Two of them have played for 8 s together, and the learner has waited for 5 s."""
    assert shares((4.0, 3.0, 1.0), 5.0, 4.0, 10.0, acting_workers=2) == pytest.approx(
        {"env": 0.2, "act": 0.15, "store": 0.05, "wait": 0.1, "update": 0.4, "other": 0.1}
    )


def test_a_single_worker_that_acts_is_not_waited_for_while_it_steps():
    assert shares((2.0, 1.0, 0.5), 4.0, 5.0, 10.0, acting_workers=1) == pytest.approx(
        {"env": 0.2, "act": 0.1, "store": 0.05, "wait": 0.05, "update": 0.5, "other": 0.1}
    )


def test_what_was_played_during_the_update_is_not_counted_twice():
    """4 s each, of which the learner has waited for 1 s: a quarter of each kind is shown."""
    assert shares((4.0, 3.0, 1.0), 1.0, 8.0, 10.0, acting_workers=2) == pytest.approx(
        {"env": 0.05, "act": 0.0375, "store": 0.0125, "wait": 0.0, "update": 0.8, "other": 0.1}
    )


def test_nothing_was_played():
    assert shares((0.0, 0.0, 0.0), 0.5, 0.5, 1.0)["wait"] == pytest.approx(0.5)
