"""Arguments of Gymnasium's vector envs."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from adapter_envs import assert_same
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from prl import VectorEnv
from prl.adapters.arguments import check_workers
from workers.env_lists import is_alike
from workers.errors import WorkerEnvFailed

pytestmark = pytest.mark.usefixtures("leaves_nothing")


class Bounded(gym.Env):
    """Shows random numbers within the bounds of its space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def box(high):
    return spaces.Box(0, high, (2,))


def nested(high):
    return spaces.Dict(a=box(high), b=spaces.Tuple([spaces.Discrete(3), box(2 * high)]))


def fns(found):
    return [functools.partial(Bounded, space) for space in found]


@pytest.mark.parametrize("kind", [box, nested])
def test_envs_with_other_bounds_are_taken_as_gymnasium_takes_them(kind):
    functions = fns([kind(1), kind(5), kind(9)])
    theirs = SyncVectorEnv(functions, observation_mode="different")
    ours = VectorEnv(functions, observation_mode="different", num_workers=1)
    assert ours.observation_space == theirs.observation_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert_same(theirs.reset(seed=3), ours.reset(seed=3))
    for _ in range(5):
        assert_same(theirs.step([0, 1, 0]), ours.step([0, 1, 0]))
    ours.close()
    theirs.close()


def test_spaces_can_be_given_by_hand():
    wide = spaces.Box(0, 9, (2, 2)), box(9)
    env = VectorEnv(fns([box(1), box(5)]), observation_mode=wide, num_workers=0)
    assert (env.observation_space, env.single_observation_space) == wide
    assert env.reset(seed=0)[0] in env.observation_space
    env.close()


@pytest.mark.parametrize(
    ("found", "mode", "error", "message"),
    [
        ([box(1), box(2)], "same", WorkerEnvFailed, "env 1: its observation_space is Box"),
        (
            [box(1), spaces.Box(0, 1, (3,))],
            "different",
            WorkerEnvFailed,
            "env 1: its observation_space is Box",
        ),
        ([box(1), spaces.Discrete(2)], "different", WorkerEnvFailed, "env 1: its observation_space is Disc"),
        ([nested(1), box(1)], "different", WorkerEnvFailed, "env 1: its observation_space is Box"),
        ([box(1)], (box(1), spaces.Box(0, 1, (3,))), RuntimeError, "do not share a common shape and dtype"),
        ([box(1)], (box(1), 3), TypeError, "observation_mode has to hold two spaces"),
        ([box(1)], "other", ValueError, "Invalid `observation_mode`, expected: 'same' or .* got other"),
    ],
)
def test_what_does_not_fit_is_refused(found, mode, error, message):
    with pytest.raises(error, match=message):
        VectorEnv(fns(found), observation_mode=mode, num_workers=0)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (nested(1), nested(2), True),
        (box(1), spaces.Box(0, 1, (2,), np.float64), False),
        (spaces.Discrete(2), spaces.Discrete(3), False),
        (spaces.Dict(a=box(1)), spaces.Dict(b=box(1)), False),
        (spaces.Tuple([box(1)]), spaces.Tuple([box(1), box(1)]), False),
        (spaces.Tuple([]), spaces.Dict({}), False),
    ],
)
def test_spaces_that_are_alike_differ_in_bounds_only(one, other, expected):
    assert is_alike(one, other) is expected


@pytest.mark.parametrize(
    ("max_concurrency", "num_workers", "expected"),
    [(None, None, None), (2, None, 2), (2, 3, 2), (3, 2, 2), (2, 0, 0)],
)
def test_max_concurrency_is_a_bound_on_the_workers(max_concurrency, num_workers, expected):
    assert check_workers(None, max_concurrency, num_workers) == expected
