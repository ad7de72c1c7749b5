"""Batches of actions, written into rows."""

import numpy as np
import pytest
from gymnasium import spaces

from workers.batches import ActionWriter
from workers.slab import Field

N = 3
PAIR = spaces.Dict(turn=spaces.Discrete(3), push=spaces.Box(-1, 1, (2,), np.float32))


def written(space, actions, ignored=None):
    field = Field.of(space)
    rows = np.zeros((N, *field.shape), field.dtype)
    ActionWriter(space, rows).write(actions, ignored)
    return rows


def pair(turn=0, push=(0.0, 0.0)):
    return {"turn": turn, "push": np.array(push, np.float32)}


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Discrete(2), [0, 2, 0], r"^env 1: the action 2 is not in the action space Discrete\(2\)$"),
        (spaces.Discrete(2, start=-1), [-1, 0, 1], "env 2: the action 1 is not in"),
        (spaces.Discrete(2), [0, -1, 0], "env 1: the action -1 is not in"),
        (spaces.Discrete(2), [0, 0.5, 0], "env 1: .*0.5.* does not fit the action space .*, which has int64"),
        (
            spaces.MultiDiscrete([2, 3]),
            [[0, 0], [1, 2], [2, 0]],
            r"env 2: the action array\(\[2, 0\]\) is not",
        ),
        (spaces.MultiBinary(2), [[0, 1], [0, 2], [0, 0]], "env 1: .* is not in the action space MultiBinary"),
        (
            spaces.Box(-1, 1, (1,)),
            [[0.0], [np.nan], [0.0]],
            r"env 1: the action array\(\[nan\].* is not finite",
        ),
        (spaces.Box(-1, 1, (1,)), [[0.0], [0.0], [np.inf]], "env 2: .* is not finite"),
        (spaces.Box(-1, 1, (1,)), [[0.0], [1e300], [0.0]], r"env 1: .*1.e\+300.* does not fit .* float32"),
        (
            spaces.Box(0, 9, (1,), np.uint8),
            [[0], [300], [0]],
            "env 1: .*300.* does not fit .*, which has uint8",
        ),
        (PAIR, [pair(), pair(3), pair()], "env 1: the action .*'turn': 3.* is not in the action space Dict"),
        (PAIR, [pair(), pair(), pair(push=(0, np.nan))], "env 2: the action .*nan.* is not finite"),
        (PAIR, [pair(), {"turn": 1}, pair()], r"env 1: no action\['push'\], which its space has"),
        (PAIR, [pair(), pair(push=(0, 0, 0)), pair()], r"env 1: action\['push'\] of shape \(3,\)"),
    ],
)
def test_what_is_no_action_is_named(space, actions, message):
    with pytest.raises(ValueError, match=message):
        written(space, actions)


def test_bounds_of_a_box_are_up_to_the_env():
    rows = written(spaces.Box(-1, 1, (1,), np.float32), np.array([[-7.0], [0.5], [7.0]]))
    assert rows.tolist() == [[-7.0], [0.5], [7.0]]


@pytest.mark.parametrize(
    ("space", "actions"),
    [(spaces.Discrete(2), [0, 7, 1]), (PAIR, [pair(), pair(5, (np.nan, 0)), pair(2)])],
)
def test_actions_that_nobody_looks_at_may_be_anything(space, actions):
    written(space, actions, ignored=np.array([False, True, False]))
    with pytest.raises(ValueError, match="env 1"):
        written(space, actions, ignored=np.array([True, False, True]))


def test_numbers_of_other_dtypes_are_converted_if_nothing_is_lost():
    assert written(spaces.Discrete(4), np.array([0.0, 3.0, 1.0])).tolist() == [0, 3, 1]
    assert written(spaces.Discrete(4), np.array([[0], [3], [1]])).tolist() == [0, 3, 1]
    assert written(spaces.MultiBinary(1), np.array([[True], [False], [True]])).tolist() == [[1], [0], [1]]
    assert written(spaces.Box(-1, 1, (1,)), [[0], [1], [-1]]).tolist() == [[0.0], [1.0], [-1.0]]
