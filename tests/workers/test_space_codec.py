"""Spaces as plain data: the same spaces come back, and nothing else can."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from workers.errors import EnvError
from workers.space_codec import OtherSpace, decode, encode

RAGGED = np.array([[-1.5, -np.inf], [0.1, 3.0]], np.float32)
SPACES = [
    Box(-1.0, 1.0, (3,), np.float32),
    Box(RAGGED, RAGGED + 2, dtype=np.float32),
    Box(-np.inf, np.inf, (), np.float64),
    Box(0, 255, (84, 84, 4), np.uint8),
    Box(-np.inf, 7, (2,), np.int32),
    Box(0, 1, (2, 2), np.bool_),
    Box(np.zeros(0, np.float16), np.ones(0, np.float16), (0,), np.float16),
    Discrete(5),
    Discrete(3, start=-1, dtype=np.int32),
    MultiDiscrete([3, 2]),
    MultiDiscrete([[3, 2], [1, 9]], dtype=np.int8, start=[[0, -4], [2, 1]]),
    MultiBinary(4),
    MultiBinary([2, 3]),
    Tuple([Discrete(2), Dict({"z": MultiBinary(1), "a": Box(0, 1)})]),
    Dict([("z", Discrete(2)), ("a", Tuple([])), ("m", Dict({}))]),
    Dict([(2, Discrete(2)), (1, Discrete(3))]),
]


def through_text(space):
    return decode(json.loads(json.dumps(encode(space))))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_as_it_was(space):
    found = through_text(space)
    assert found == space
    assert type(found) is type(space)
    assert (found.shape, found.dtype) == (space.shape, space.dtype)
    if isinstance(space, Box):
        for manner in ("below", "above", "both"):
            assert found.is_bounded(manner) == space.is_bounded(manner)
    if isinstance(space, Dict):
        assert list(found.spaces) == list(space.spaces)
    found.seed(1)
    assert space.contains(found.sample())


def test_equal_bounds_are_one_number():
    assert len(json.dumps(encode(Box(0, 255, (84, 84, 4), np.uint8)))) < 600


def test_a_subclass_counts_as_the_space_that_it_extends():
    class Evens(Discrete):
        def contains(self, x):
            return super().contains(x) and int(x) % 2 == 0

    found = through_text(Evens(6))
    assert type(found) is Discrete
    assert found == Discrete(6)


def test_of_another_space_shape_dtype_and_looks_are_kept():
    class Angles(gym.Space):
        def __init__(self):
            super().__init__((2,), np.float32)

        def __repr__(self):
            return "Angles of\n a clock"

    found = through_text(Dict(a=Angles()))["a"]
    assert (found.shape, found.dtype, str(found)) == ((2,), np.float32, "Angles of a clock")
    assert found == OtherSpace((2,), np.dtype(np.float32), "Angles of a clock")
    assert found != OtherSpace((3,), np.dtype(np.float32), "Angles of a clock")


def test_odd_keys_are_refused():
    space = Dict(a=Discrete(2))
    space.spaces = {("a", 1): Discrete(2)}
    with pytest.raises(EnvError, match=r"keys of a Dict space must be text, got \('a', 1\)"):
        encode(space)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "os.system"},
        {"dtype": "|O"},
        {"low": {"dtype": "|O", "shape": [1], "same": False, "data": "AAAAAAAAAAA="}},
        {"low": {"dtype": "<f4", "shape": [1], "same": False, "data": "AAAA"}},
        {"shape": [2]},
    ],
)
def test_what_is_no_space_is_refused(change):
    with pytest.raises((ValueError, TypeError, AssertionError)):
        decode(encode(Box(0, 1, (1,))) | change)
