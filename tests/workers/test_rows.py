"""What lies where in a row, and what is refused before it lies there."""

import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple

import learner.spaces
import workers.wrappers
from workers.casts import cast_exactly
from workers.errors import EnvError
from workers.rows import Leaf, RowCodec, RowError, pack, row_bytes, unpack
from workers.slab import Field
from workers.space_parts import leaves, numeric_part, select_numeric

DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")


def some_leaf(rng):
    shape = tuple(rng.integers(0, 4, rng.integers(0, 4)).tolist())
    dtype = np.dtype(DTYPES[rng.integers(len(DTYPES))]).type
    return (
        lambda: Box(0, 100, shape, dtype),
        lambda: Box(0, 1, shape, np.bool_),
        lambda: Discrete(int(rng.integers(1, 9)), start=int(rng.integers(-9, 9))),
        lambda: MultiDiscrete(rng.integers(1, 9, (2, 2)), start=[[-5, 0], [1, 2]]),
        lambda: MultiBinary([2, 3]),
    )[rng.integers(5)]()


def some_space(rng, depth):
    """A random space; composite, if there is depth left."""
    if depth == 0 or rng.random() < 0.2:
        return some_leaf(rng)
    parts = [some_space(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    if rng.random() < 0.5:
        return Tuple(parts)
    # Pairs are not sorted: "c" comes before "b".
    return Dict(list(zip("cab", parts, strict=False)))


def assert_same(space, found, value):
    """Equal in value, structure, shape and dtype; Discrete values are plain ints."""
    if isinstance(space, Dict):
        assert type(found) is dict
        assert list(found) == list(space.spaces)
        for key, part in space.spaces.items():
            assert_same(part, found[key], value[key])
    elif isinstance(space, Tuple):
        assert type(found) is tuple
        for part, *pair in zip(space.spaces, found, value, strict=True):
            assert_same(part, *pair)
    elif isinstance(space, Discrete):
        assert type(found) is int
        assert found == value
    else:
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape) == (space.dtype, space.shape)
        np.testing.assert_array_equal(found, value)


def test_what_is_packed_comes_out_again():
    rng, composite = np.random.default_rng(0), 0
    for case in range(300):
        space = some_space(rng, depth=case % 4)
        if isinstance(space, Dict | Tuple) and not row_bytes(space):  # a few consist of empty boxes
            continue
        field = Field.of(space)
        space.seed(case)
        codec = RowCodec(space)
        for _ in range(3):
            value = space.sample()
            row = pack(space, value)
            assert (row.shape, row.dtype) == (field.shape, field.dtype)
            found = unpack(space, row)
            assert_same(space, found, value)
            assert isinstance(space, Discrete) or space.contains(found)  # Gymnasium agrees
            assert_same(space, codec.unpack(codec.pack(value)), value)
        composite += isinstance(space, Dict | Tuple)
    assert composite > 100


def test_many_rows_at_once_and_copies():
    space = Tuple([Discrete(9), Dict(a=Box(0, 9, (2,), np.int16), b=Box(0, 9, (), np.float32))])
    space.seed(3)
    values = [space.sample() for _ in range(5)]
    rows = np.stack([pack(space, value) for value in values])
    found = RowCodec(space).read(rows[[4, 0, 2]])
    kept = RowCodec(space).read(rows)
    rows[:] = 255
    for element, index in zip(found, (4, 0, 2), strict=True):
        assert_same(space, element, values[index])
    for element, value in zip(kept, values, strict=True):
        assert_same(space, element, value)
    assert len(RowCodec(space).read(rows[:0])) == 0


def test_a_row_is_the_bytes_of_the_leaves_in_order():
    inner = Tuple([MultiBinary(2), Box(-9, 9, (), np.float64)])
    space = Dict([("z", Box(0, 999, (2,), np.uint16)), ("a", inner), ("m", Discrete(7, start=-3))])
    value = {"m": -2, "a": (np.array([1, 0], np.int8), np.array(-0.5)), "z": np.array([1, 515], np.uint16)}
    row = pack(space, value)
    z, bits, box, m = b"\x01\x00\x03\x02", b"\x01\x00", np.float64(-0.5).tobytes(), np.int64(-2).tobytes()
    assert row.tobytes() == z + bits + box + m
    assert Field.of(space) == Field((4 + 2 + 8 + 8,), np.dtype(np.uint8))
    assert [path for path, _ in leaves(space)] == ["['z']", "['a'][0]", "['a'][1]", "['m']"]


def test_columns_are_views_of_the_rows():
    space = Dict(a=Box(0, 9, (3,), np.uint8), b=Discrete(1000))
    rows = np.zeros((4, 11), np.uint8)
    a, b = RowCodec(space).columns(rows[1:3])
    a[1], b[0] = [1, 2, 3], 258
    np.testing.assert_array_equal(rows[1], [0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(rows[2, :3], [1, 2, 3])


def test_numbers_in_foreign_byte_order_lie_in_native_order():
    space = Dict(a=Box(-9, 9, (2,), np.dtype(">i4")))
    assert pack(space, {"a": np.array([1, -2], ">i4")}).tobytes() == np.array([1, -2], "=i4").tobytes()


def test_empty_parts_have_no_bytes():
    space = Dict([("e", Dict()), ("t", Tuple([])), ("n", Box(0, 1, (0, 3))), ("x", Discrete(3))])
    value = {"e": {}, "t": (), "n": np.zeros((0, 3), np.float32), "x": 2}
    row = pack(space, value)
    assert row.shape == (8,)
    assert_same(space, unpack(space, row), value)


def test_both_ends_of_the_rows_call_the_mask_the_same():
    """Neither may import the other (tests/learner/test_spaces.py compares how rows lie)."""
    assert workers.wrappers.MASK_KEY == learner.spaces.MASK_KEY


NESTED = Dict(goal=Tuple([Discrete(4), Box(-1, 1, (2,), np.float32)]), n=MultiDiscrete([2, 300], np.int16))


def nested(**changes):
    return {"goal": (1, np.zeros(2, np.float32)), "n": np.array([0, 299], np.int16)} | changes


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "observation of type list, its space says dict"),
        ({"goal": nested()["goal"]}, r"no observation\['n'\], which its space has"),
        (nested(z=1), r"observation\['z'\], which its space does not have"),
        (nested(goal=None), r"observation\['goal'\] of type NoneType, its space says tuple"),
        (nested(goal=(1,)), r"observation\['goal'\] of length 1, its space says 2"),
        (nested(goal=(1, [0.0])), r"observation\['goal'\]\[1\] of shape \(1,\), its space says \(2,\)"),
        (
            nested(goal=(1, [1j, 0])),
            r"observation\['goal'\]\[1\] of dtype complex128, its space says float32",
        ),
        (nested(goal=(1, [[0.0], 0])), r"observation\['goal'\]\[1\] that is no array"),
        (
            nested(goal=(1, [np.nan, 0])),
            r"observation\['goal'\]\[1\] that is not finite as float32: nan at index \(0,\)",
        ),
        (nested(goal=(4, [0.0, 0.0])), r"observation\['goal'\]\[0\] outside of its space Discrete\(4\): 4"),
        (
            nested(goal=(1.5, [0.0, 0.0])),
            r"observation\['goal'\]\[0\] of dtype float64, its space says int64, which cannot hold 1.5$",
        ),
        (nested(n=[-1, 0]), r"observation\['n'\] outside of its space MultiDiscrete.*: \[-1, 0\]"),
        (nested(n=[1, 300]), r"observation\['n'\] outside of its space"),
        (nested(n=[0, 65536]), r"observation\['n'\] of dtype int64, its space says int16"),
    ],
)
def test_what_is_no_element_is_refused_and_its_path_named(value, message):
    pack(NESTED, nested())
    with pytest.raises(RowError, match=f"^{message}"):
        pack(NESTED, value)


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Discrete(4), [0, 3], [-1, 4]),
        (Discrete(3, start=-1), [-1, 1], [-2, 2]),
        (Discrete(200, dtype=np.uint8, start=56), [56, 255], [55, 0]),
        (MultiDiscrete([2, 3]), [[1, 2], [0, 0]], [[2, 0], [0, 3], [0, -1]]),
        (MultiDiscrete([2, 3], start=[5, -5]), [[5, -5], [6, -3]], [[4, -5], [6, -2]]),
        (MultiDiscrete([256, 2], dtype=np.int16), [[255, 1]], [[256, 0]]),
        (MultiBinary(2), [[0, 1], [True, False]], [[0, 2], [-1, 0]]),
    ],
)
def test_the_limits_of_discrete_spaces(space, inside, outside):
    for value in inside:
        np.testing.assert_array_equal(pack(space, value), value)
    for value in outside:
        with pytest.raises(RowError, match="an observation outside of its space"):
            pack(space, value)


def test_lists_and_wider_floats_are_taken_in_leaves():
    row = pack(NESTED, nested(goal=[np.int8(3), np.array([0.5, 1.0])], n=(1, 2)))
    assert_same(NESTED, unpack(NESTED, row), nested(goal=(3, [0.5, 1.0]), n=[1, 2]))


def test_other_dtypes_that_hold_the_same_values_are_taken_in_leaves():
    row = pack(NESTED, nested(goal=[3.0, np.array([0, 1])], n=np.array([1.0, 2.0])))
    assert_same(NESTED, unpack(NESTED, row), nested(goal=(3, [0.0, 1.0]), n=[1, 2]))


@pytest.mark.parametrize(
    ("space", "value", "is_taken"),
    [
        (Box(-1, 1, (1,)), 0.5, True),  # one element is one element, whatever its shape
        (Box(-1, 1, ()), [[0.5]], True),
        (Box(-1, 1, (1, 1)), np.array([0.5], np.float32), True),
        (Discrete(4), np.array([3]), True),
        (Box(-1, 1, (2,)), 0.5, False),
        (Box(-1, 1, (2,)), [[0.5], [0.5]], False),  # a column may be meant, or a mistake
        (Box(-1, 1, (1,)), [], False),
    ],
)
def test_one_element_is_taken_in_any_shape(space, value, is_taken):
    if is_taken:
        row = pack(space, value)
        assert row.shape == space.shape
        assert row.ravel().tolist() == np.ravel(value).tolist()
    else:
        with pytest.raises(RowError, match=r"^an observation of shape .*, its space says \("):
            pack(space, value)


def test_no_dtype_changes_a_value_unnoticed():
    """Whatever is taken is equal as Python numbers, which are exact; whatever is exact is taken."""
    kinds = ("bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64")
    values = [
        0,
        1,
        2,
        -1,
        127,
        128,
        255,
        256,
        2048,
        2049,
        2**24 + 1,
        2**25,
        2**31,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63),
    ]
    seen = {True: 0, False: 0}
    for source, target in itertools.product(kinds, kinds):
        if {source[:5], target[:5]} == {"float"}:
            continue  # floats are rounded to shorter floats
        for value in [*values, 0.5, math.nan, math.inf]:
            array = array_of(value, source)
            if array is None:
                continue
            is_exact = array_of(value, target) is not None
            found = cast_exactly(array, np.dtype(target))
            assert (found is not None) == is_exact, (value, source, target)
            assert found is None or (found.dtype == target and found.tolist() == [value])
            seen[is_exact] += 1
    assert min(seen.values()) > 100


def array_of(value, dtype):
    """The value in an array, None if the dtype cannot hold it."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = np.array([value]).astype(dtype)
        except OverflowError:
            return None
    is_same = array.tolist() == [value] or (array.dtype.kind == "f" and math.isnan(value))
    return array if is_same else None


def test_floats_are_rounded_but_do_not_overflow():
    assert cast_exactly(np.array([0.1, np.inf]), np.dtype("float32")).tolist() == [np.float32(0.1), np.inf]
    assert cast_exactly(np.array([1e-300]), np.dtype("float32")).tolist() == [0.0]
    assert cast_exactly(np.array([1.0, 1e300]), np.dtype("float32")) is None


def test_what_is_no_array_or_lacks_elements_is_refused():
    class Odd:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("not on\nthis device")

    with pytest.raises(
        RowError, match=r"^an observation that is no array: RuntimeError: not on this device$"
    ):
        pack(Box(-1, 1, (1,)), Odd())
    with pytest.raises(RowError, match=r"^an observation with masked elements, whose values are unknown$"):
        pack(Box(-1, 1, (2,)), np.ma.masked_array([0.5, 0.5], [False, True], np.float32))


@pytest.mark.parametrize("values", [[1, 0.5, 0], [1, 2, 0], [1, np.nan, 0]])
def test_a_mask_in_the_observation_holds_zeros_and_ones(values):
    box = Box(-9, 9, (3,))
    space = Dict(action_mask=box, inner=Dict(action_mask=box))
    for mask in ([0, 1, 1], values):
        obs = {"action_mask": np.float32(mask), "inner": {"action_mask": np.float32([0.5, 2, 0])}}
        if mask is not values:
            pack(space, obs)
            continue
        with pytest.raises(
            RowError, match=r"^observation\['action_mask'\] with other numbers than 0 and 1: \["
        ):
            pack(space, obs)


def test_messages_name_the_first_bad_number_of_many():
    image = np.zeros((40, 40), np.float32)
    image[7, 9], image[8, 0] = np.inf, np.nan
    with pytest.raises(
        RowError, match=r"^an observation that is not finite as float32: inf at index \(7, 9\)$"
    ):
        pack(Box(-1, 1, (40, 40)), image)
    with pytest.raises(RowError, match=r"which cannot hold inf at index \(7, 9\)$"):
        pack(Box(0, 255, (40, 40), np.uint8), image)


# --- what is not made of numbers ----------------------------------------------------------------------------

MIXED = Dict(
    [
        ("text", Text(5)),
        ("pair", Tuple([Sequence(Discrete(2)), Discrete(3), Dict(graph=Graph(Discrete(2), None))])),
        ("box", Box(0, 1, (2,))),
    ]
)


def test_the_numeric_part():
    part = numeric_part(MIXED)
    assert part == Dict(pair=Tuple([Discrete(3)]), box=Box(0, 1, (2,)))
    assert list(part.spaces) == ["pair", "box"]
    assert numeric_part(part) is part
    value = MIXED.sample()
    selected = select_numeric(MIXED, value)
    assert list(selected) == ["pair", "box"]
    assert selected["pair"] == (value["pair"][1],)
    assert selected["box"] is value["box"]


def test_what_is_no_element_is_left_for_the_codec_to_refuse():
    for value in (None, [1], {"box": 1, "other": 2}, {"pair": (1, 2)}):
        assert select_numeric(MIXED, value) == value


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Text(3), "its elements are not numeric arrays"),
        (Sequence(Box(-1, 1, (2,))), "its elements are not numeric arrays"),
        (
            Tuple([Discrete(2), Dict(a=Text(3))]),
            r"the elements of its part \[1\]\['a'\] are not numeric arrays",
        ),
        (Dict(), "it holds no numbers"),
        (Tuple([Box(0, 1, (0,))]), "it holds no numbers"),
    ],
)
def test_a_space_without_rows(space, message):
    with pytest.raises(EnvError, match=f"^the space .* is not supported: {message}$"):
        Field.of(space)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, np.int8])
def test_the_dtype_of_a_space_that_has_travelled_is_numpys_own(kind):
    """A pickled dtype is equal, but another object; `EnvBlock` recognises usual observations by identity."""
    space = pickle.loads(pickle.dumps(Box(0, 1, (2,), kind)))
    assert Leaf.of("", space).dtype is np.dtype(kind)
