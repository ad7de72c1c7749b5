"""Rows as the learner reads them: where each leaf lies, and that nothing is changed on the way."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from learner import spaces
from learner.space_tensors import read_tensor, torch_dtype, unpack
from learner.spaces import leaves, row_field
from workers import wrappers
from workers.rows import RowCodec

# Odd numbers of bytes before wide numbers: nothing but the first leaf is aligned.
NESTED = Dict(
    [
        ("flags", Box(0, 1, (3,), np.bool_)),
        (
            "inner",
            Tuple(
                [
                    Box(-np.inf, np.inf, (2, 2), np.float64),
                    Box(0, 255, (5,), np.uint8),
                    Dict([("z", Discrete(9, start=-4)), ("a", MultiBinary([2, 3]))]),
                ]
            ),
        ),
        ("half", Box(-9, 9, (1, 3), np.float16)),
        ("choices", MultiDiscrete([[3, 4], [5, 6]])),
        ("wide", Box(-(2**62), 2**62, (2,), np.int64)),
        ("number", Box(-1.0, 1.0, (), np.float32)),
        ("short", Box(-300, 300, (1,), np.int16)),
    ]
)
# path, offset, shape, dtype: offsets are the sums of the bytes before.
LAYOUT = [
    (("flags",), 0, (3,), "bool"),
    (("inner", 0), 3, (2, 2), "float64"),
    (("inner", 1), 35, (5,), "uint8"),
    (("inner", 2, "z"), 40, (), "int64"),
    (("inner", 2, "a"), 48, (2, 3), "int8"),
    (("half",), 54, (1, 3), "float16"),
    (("choices",), 60, (2, 2), "int64"),
    (("wide",), 92, (2,), "int64"),
    (("number",), 108, (), "float32"),
    (("short",), 112, (1,), "int16"),
]
ROW_BYTES = 114


def elements(space, count):
    space.seed(5)
    return [space.sample() for _ in range(count)]


def flattened(space, element):
    """The arrays of an element, depth first."""
    if isinstance(space, Dict):
        return [array for key, part in space.spaces.items() for array in flattened(part, element[key])]
    if isinstance(space, Tuple):
        pairs = zip(space.spaces, element, strict=True)
        return [array for part, value in pairs for array in flattened(part, value)]
    return [np.asarray(element, space.dtype)]


def rows_of(space, elements):
    """Rows made by hand: the bytes of the arrays, one after the other."""
    rows = [b"".join(array.tobytes() for array in flattened(space, element)) for element in elements]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(elements), row_field(space)[0][0]).copy()


def at(nested, path):
    for key in path:
        nested = nested[key]
    return nested


def test_leaves_lie_depth_first_without_gaps():
    found = [(leaf.path, leaf.offset, leaf.shape, leaf.dtype.name) for leaf in leaves(NESTED)]
    assert found == LAYOUT
    assert [leaf.nbytes for leaf in leaves(NESTED)] == [3, 32, 5, 8, 6, 6, 32, 16, 4, 2]
    assert row_field(NESTED) == ((ROW_BYTES,), np.dtype(np.uint8))


def test_keys_of_a_mapping_come_in_the_order_of_the_space():
    space = Dict({"b": Discrete(2), "a": Box(0, 1, (2,), np.float32)})  # gymnasium sorts them
    assert [(leaf.path, leaf.offset) for leaf in leaves(space)] == [(("a",), 0), (("b",), 8)]
    space = Dict([("b", Discrete(2)), ("a", Box(0, 1, (2,), np.float32))])  # and not these
    assert [(leaf.path, leaf.offset) for leaf in leaves(space)] == [(("b",), 0), (("a",), 8)]


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (Box(0, 1, (2, 3), np.float64), (2, 3), "float64"),
        (Box(0, 1, (), np.float32), (), "float32"),
        (Box(0, 255, (4, 84, 84), np.uint8), (4, 84, 84), "uint8"),
        (Box(0, 1, (2,), np.bool_), (2,), "bool"),
        (Discrete(5, start=2), (), "int64"),
        (MultiDiscrete([[2, 3]]), (1, 2), "int64"),
        (MultiBinary(7), (7,), "int8"),
        (Dict(), (0,), "uint8"),
        (Tuple([]), (0,), "uint8"),
        (Tuple([Discrete(2)]), (8,), "uint8"),
        (Dict(a=Dict(), b=Tuple([Box(0, 1, (0, 3), np.float64), MultiBinary(2)])), (2,), "uint8"),
    ],
)
def test_rows_of_a_plain_space_have_its_shape_and_those_of_others_are_bytes(space, shape, dtype):
    assert row_field(space) == (shape, np.dtype(dtype))


def test_a_plain_space_is_its_own_leaf():
    (leaf,) = leaves(Discrete(3))
    assert (leaf.path, leaf.offset, leaf.shape, leaf.nbytes) == ((), 0, (), 8)
    rows = torch.arange(3)
    assert unpack(Discrete(3), rows) is rows


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_unpacking_gives_every_leaf_bit_for_bit_wherever_it_lies(count):
    """A single row is a special case: it is contiguous, but not aligned."""
    values = elements(NESTED, count)
    found = unpack(NESTED, torch.from_numpy(rows_of(NESTED, values)))
    assert list(found) == list(NESTED.spaces)
    assert type(found["inner"]) is tuple
    assert list(found["inner"][2]) == ["z", "a"]
    for path, _, shape, dtype in LAYOUT:
        tensor = at(found, path)
        assert tensor.shape == (count, *shape), path
        assert tensor.dtype == getattr(torch, dtype), path
        assert tensor.is_contiguous()
        for row, value in zip(tensor.numpy(), values, strict=True):
            np.testing.assert_array_equal(row, np.asarray(at(value, path)), err_msg=str(path))


@pytest.mark.parametrize("space", [Dict(x=Box(0, 1, (2,), np.float32)), Tuple([Box(0, 9, (3,), np.uint8)])])
def test_a_leaf_that_is_the_whole_row_is_a_copy_all_the_same(space):
    rows = torch.zeros(4, *row_field(space)[0], dtype=torch.uint8)
    (leaf,) = leaves(space)
    read_tensor(leaf, rows).fill_(1)
    assert not rows.any()


def test_parts_of_a_batch_and_of_wider_rows_are_read_as_well():
    values = elements(NESTED, 9)
    rows = torch.from_numpy(rows_of(NESTED, values))
    whole = read_tensor(leaves(NESTED)[1], rows)
    strided = torch.zeros(9, 2 * ROW_BYTES + 1, dtype=torch.uint8)
    strided[:, 1 : ROW_BYTES + 1] = rows
    assert torch.equal(read_tensor(leaves(NESTED)[1], strided[:, 1 : ROW_BYTES + 1]), whole)
    assert torch.equal(torch.cat([read_tensor(leaves(NESTED)[1], part) for part in rows.split(4)]), whole)
    order = torch.tensor([8, 0, 3])
    assert torch.equal(read_tensor(leaves(NESTED)[1], rows[order]), whole[order])


def test_rows_are_what_workers_write():
    """The learner does not know the workers' code: the two have to agree byte by byte."""
    codec = RowCodec(NESTED)
    values = elements(NESTED, 5)
    expected = rows_of(NESTED, values)
    for value, row in zip(values, expected, strict=True):
        np.testing.assert_array_equal(codec.pack(value), row)


def test_extreme_numbers_survive():
    space = Dict(
        [
            ("one", Box(0, 255, (1,), np.uint8)),
            ("long", Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64)),
            ("double", Box(-np.inf, np.inf, (3,), np.float64)),
        ]
    )
    longs = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    doubles = np.array([1e308, -5e-324, 1.0 + 2.0**-52])
    rows = rows_of(space, [{"one": [255], "long": longs, "double": doubles}])
    found = unpack(space, torch.from_numpy(rows))
    assert found["one"].tolist() == [[255]]
    np.testing.assert_array_equal(found["long"][0].numpy(), longs)
    np.testing.assert_array_equal(found["double"][0].numpy(), doubles)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float64"])
def test_torch_dtypes_are_those_of_numpy(dtype):
    assert torch_dtype(np.dtype(dtype)) == getattr(torch, dtype)


@pytest.mark.parametrize("order", ["<", ">"])
def test_rows_are_in_native_byte_order_whatever_the_space_says(order):
    leaf = Box(-9, 9, (2,), np.dtype(f"{order}f8"))
    for space in (leaf, Dict([("a", MultiBinary(1)), ("b", leaf)])):
        row = RowCodec(space).pack(np.array([1.5, -2.0]) if space is leaf else {"a": [1], "b": [1.5, -2.0]})
        assert row.dtype == row_field(space)[1]
        found = unpack(space, torch.from_numpy(row)[None])
        found = found if space is leaf else found["b"]
        assert found.dtype == torch.float64
        assert found.tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize(
    "space", [gym.spaces.Text(3), gym.spaces.Sequence(Discrete(2)), gym.spaces.Graph(Discrete(2), None)]
)
def test_what_has_no_numbers_in_a_fixed_shape_is_refused_wherever_it_is(space):
    for holder in (space, Dict(a=Discrete(2), b=space), Tuple([Dict(c=space)])):
        with pytest.raises(ValueError, match="its elements are not numeric arrays"):
            row_field(holder)


def test_envs_and_learner_give_the_mask_the_same_key():
    assert spaces.MASK_KEY == wrappers.MASK_KEY
