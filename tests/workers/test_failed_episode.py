"""What is known of the episode in which an env has failed: put together from parts, sent as bytes."""

import io

import numpy as np
import pytest

from workers.env_call import EnvCall
from workers.failed_episode import BEFORE, FailedEpisode, decode, encode

ROWS = np.arange(10, dtype=np.float32).reshape(5, 2)


def test_the_last_actions_are_those_of_the_episode():
    failed = FailedEpisode(env=1, seed=2, steps=3)
    assert not failed.is_whole
    whole = failed.with_actions(ROWS)
    assert whole.is_whole
    np.testing.assert_array_equal(whole.actions, ROWS[2:])


def test_earlier_ones_come_before_those_that_are_known():
    failed = FailedEpisode(env=1, seed=2, steps=5).with_actions(ROWS[3:])
    assert not failed.is_whole
    np.testing.assert_array_equal(failed.with_earlier(list(ROWS[:3])).actions, ROWS)
    np.testing.assert_array_equal(FailedEpisode(1, 2, 2).with_earlier(list(ROWS)).actions, ROWS[:2])


def test_what_does_not_fit_together_stays_unknown():
    failed = FailedEpisode(env=1, seed=2, steps=5).with_actions(ROWS[3:])
    assert failed.with_earlier(list(ROWS[:2])) is failed


def test_a_reset_that_failed_needs_no_actions():
    failed = FailedEpisode(env=1, seed=2, steps=0)
    assert failed.is_whole
    assert failed.with_actions(ROWS).actions.shape == (0, 2)
    assert failed.with_earlier(list(ROWS)) is failed


def test_calls_came_before_the_episode_unless_they_have_a_place():
    calls = [EnvCall("method", name) for name in "abc"]
    failed = FailedEpisode(env=1, seed=2, steps=0).with_calls(calls, [4])
    assert (list(failed.calls), failed.places) == (calls, (BEFORE, BEFORE, 4))


@pytest.mark.parametrize("actions", [None, ROWS, np.array([3, 1]), np.zeros((0, 4), np.uint8)])
def test_it_comes_back_from_bytes(actions):
    failed = FailedEpisode(env=1, seed=2**40, steps=7, actions=actions)
    found = decode(encode(failed))
    assert (found.env, found.seed, found.steps) == (1, 2**40, 7)
    if actions is None:
        assert found.actions is None
    else:
        assert (found.actions.dtype, found.actions.tolist()) == (actions.dtype, actions.tolist())


def test_nothing_is_no_episode_and_nothing_is_unpickled():
    assert decode(encode(None)) is None
    assert decode(b"something else") is None
    file = io.BytesIO()
    np.save(file, np.array([print], object), allow_pickle=True)
    assert decode(encode(FailedEpisode(1, 2, 3)) + file.getvalue()) is None
    assert decode(encode(FailedEpisode(1, 2, 3)) + b"\x93NUMPY") is None


def test_a_worker_sends_no_more_than_64_mb():
    large = np.broadcast_to(np.zeros(1), (1 << 24,))  # 128 MB, of which one number is in memory
    assert decode(encode(FailedEpisode(1, 2, 1 << 24, large))).actions is None
