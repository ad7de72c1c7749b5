"""Lines about observations that are read otherwise than their users may expect."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from learner.observation_notes import observation_notes


def notes(space):
    return observation_notes(space, batch_size=1024)


def floats(low, high, shape):
    return Box(low, high, shape, np.float32)


@pytest.mark.parametrize(
    "space",
    [
        Discrete(9999),
        MultiDiscrete([5000, 4000]),
        MultiBinary(20_000),
        floats(-1.0, 1.0, (27_648,)),
        floats(-1.0, 1.0, (30, 6)),  # some rows of measurements
        floats(-1.0, 1.0, (64, 20)),
        floats(-1.0, 1.0, (20, 20, 7)),
        floats(0.0, 1.0, (96, 96, 3)),
        Box(0, 255, (84, 84, 4), np.uint8),
        Box(0, 255, (7, 7, 3), np.uint8),  # a MiniGrid
        Box(0, 1, (10, 10, 4), np.bool_),  # a MinAtar
        Dict(action_mask=MultiDiscrete(np.full(10_000, 2)), obs=floats(-1.0, 1.0, (3,))),
    ],
    ids=str,
)
def test_nothing_is_said_of_what_is_read_as_expected(space):
    assert notes(space) == []


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (
            floats(-1.0, 1.0, (96, 96, 3)),
            "observation of shape (96, 96, 3) is read as 27,648 numbers by an MLP; "
            "if it is an image: the CNN needs dtype uint8, or the bounds [0, 1] or [0, 255]",
        ),
        (
            Dict(eye=Tuple([Box(-255, 255, (4, 84, 84), np.int16)])),
            "observation['eye'][0] of shape (4, 84, 84) is read as 28,224 numbers by an MLP; "
            "if it is an image: the CNN needs dtype uint8, or the bounds [0, 1] or [0, 255]",
        ),
        (
            Box(0, 255, (32, 32, 3), np.uint8),
            "observation of shape (32, 32, 3) is read as 3,072 numbers by an MLP; "
            "if it is an image: the CNN needs at least 36 pixels on each side",
        ),
        (
            Discrete(200_000),
            "observation has 200,000 choices: one-hot vectors of that length take 819 MB per batch and "
            "make every step slow; a custom encoder (--encoder) with an embedding is faster",
        ),
        (
            Dict(code=MultiDiscrete([6000, 5000])),
            "observation['code'] has 11,000 choices: one-hot vectors of that length take 45 MB per batch and "
            "make every step slow; a custom encoder (--encoder) with an embedding is faster",
        ),
    ],
)
def test_one_line_says_what_a_user_may_not_expect(space, line):
    assert notes(space) == [line]


def test_every_part_has_its_line():
    space = Dict(a=floats(-1.0, 1.0, (40, 40)), b=Discrete(20_000), c=Discrete(30_000), d=Discrete(3))
    assert [note.split()[0] for note in notes(space)] == [
        "observation['b']",
        "observation['c']",
        "observation['a']",
    ]
