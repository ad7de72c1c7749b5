"""How an element of any Gymnasium space lies in a row of numbers, and what is checked before it does.

A *plain* space (Box, Discrete, MultiDiscrete, MultiBinary) has rows of its own shape and dtype. A
*composite* one (Dict, Tuple, nested at will) has rows u8[B]: the bytes of its leaves one after the other,
depth first, in the order in which the space iterates, in native byte order and without gaps.
Rows are packed here, and taken apart in learner/spaces.py; neither imports the other, and tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from workers.arrays import Array, detached
from workers.casts import cast_exactly, has_masked_elements
from workers.errors import describe, shown
from workers.space_parts import is_composite, leaves, parts

MASK_KEY = "action_mask"
"""In `info`, or at the top of a Dict observation: which actions are legal."""

IGNORE_MASKS = "--no-action-masks (use_action_masks=False) ignores masks"

_SMALL = 1 << 14  # bytes
_MASK_PATH = f"[{MASK_KEY!r}]"
Elements: TypeAlias = "list[Any] | Array"


class RowError(ValueError):
    """A value is no element of its space. The message starts with the path: "observation['goal'] of ..."."""


def row_bytes(space: gym.Space[Any]) -> int:
    """B, the length of a row of a composite space."""
    return sum(Leaf.of("", leaf).nbytes for _, leaf in leaves(space))


@dataclass(frozen=True)
class Leaf:
    """One array of an element.

    Attributes:
        label: what messages call it.
        space: its own.
        shape, dtype: of one value.
        is_valid: whether all of [G, *shape] values are valid; None if every value is.
    """

    label: str
    space: gym.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_valid: Callable[[Array], bool] | None

    @classmethod
    def of(cls, path: str, space: gym.Space[Any]) -> Leaf:
        """The leaf of a numeric space."""
        # By its name: a space that was pickled or copied has a dtype that equals NumPy's own but is another
        # object, and the hot path recognises the usual observations by identity.
        dtype: np.dtype[Any] = np.dtype(np.dtype(space.dtype).str)
        if not dtype.isnative:
            dtype = dtype.newbyteorder("=")
        label = f"observation{path}" if path else "an observation"
        is_valid = _zeros_and_ones if path == _MASK_PATH else _check_of(space, dtype)
        return cls(label, space, tuple(space.shape or ()), dtype, is_valid)

    @property
    def nbytes(self) -> int:
        """The length of one value in a row of a composite space, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self, value: Any) -> Array:
        """The value as an array that can be written without changing it.

        Lists, scalars, wider floats (rounded when they are written), and numbers of another dtype that hold
        the same values are taken, and one element in any shape where the space has one element. NumPy would
        broadcast a size-1 observation, and wrap 300 to the uint8 44, silently: what could change a value is
        refused.

        Raises:
            RowError: another shape, or values that the dtype cannot hold.
        """
        if type(value) is not np.ndarray or value.dtype != self.dtype:
            value = self._converted(value)
        if value.shape != self.shape:
            value = self._reshaped(value)
        array: Array = value
        return array

    def error_for(self, value: Any) -> RowError:
        """What is wrong with a value for which `is_valid` is false."""
        array = np.asarray(value)
        if self.label == f"observation{_MASK_PATH}":
            found = shown(array.tolist())
            return RowError(f"{self.label} with other numbers than 0 and 1: {found}; {IGNORE_MASKS}")
        if self.dtype.kind != "f":
            return RowError(f"{self.label} outside of its space {self.space}: {shown(array.tolist())}")
        index = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        return RowError(f"{self.label} that is not finite as {self.dtype}: {array[index]}{_at(index)}")

    def _reshaped(self, array: Array) -> Array:
        if array.size == math.prod(self.shape) == 1:
            return array.reshape(self.shape)
        raise RowError(f"{self.label} of shape {array.shape}, its space says {self.shape}")

    def _converted(self, value: Any) -> Array:
        try:
            array = np.asarray(detached(value))
        except Exception as error:  # `__array__` is the user's code, and lists may be ragged
            raise RowError(f"{self.label} that is no array: {describe(error)}") from error
        if array is not value and has_masked_elements(value) and isinstance(value, np.ma.MaskedArray):
            raise RowError(f"{self.label} with masked elements, whose values are unknown")
        # First what is usual: this is part of the hot path. Wider floats are rounded when they are written.
        if (
            array.dtype is self.dtype
            or array.dtype == self.dtype
            or array.dtype.kind == self.dtype.kind == "f"
        ):
            return array
        array = self._numbers(array, value)
        exact = cast_exactly(array, self.dtype)
        if exact is None:
            raise self.misfit_error(array)
        return exact

    def _numbers(self, array: Array, value: Any) -> Array:
        """The array of numbers or bools; `value` is what it was made of."""
        if array.dtype.kind == "O" and array.shape:  # numbers of several types, as from a data frame
            array = np.asarray(array.tolist())
        if array.dtype.kind not in "biuf":
            found = f"type {type(value).__name__}" if array.shape == () else f"dtype {array.dtype}"
            raise RowError(f"{self.label} of {found}, its space says {self.dtype} of shape {self.shape}")
        return array

    def misfit_error(self, array: Array) -> RowError:
        """Which number the dtype cannot hold."""
        found = f"{self.label} of dtype {array.dtype}, its space says {self.dtype}"
        for index, number in np.ndenumerate(array):
            if cast_exactly(np.asarray(number), self.dtype) is None:
                return RowError(f"{found}, which cannot hold {number}{_at(index)}")
        return RowError(found)


class RowCodec:
    """Writes elements of one space into rows, and reads them out again.

    Args:
        space: all of its leaves are numeric.

    Attributes:
        plain: the only leaf of a plain space; None if the space is composite.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = space
        self._leaves = [Leaf.of(path, leaf) for path, leaf in leaves(space)]
        self._checks = [
            (index, leaf, leaf.is_valid)
            for index, leaf in enumerate(self._leaves)
            if leaf.is_valid is not None
        ]
        self.plain = None if is_composite(space) else self._leaves[0]
        # Fields "0", "1", ... of a record without gaps.
        self._record = np.dtype([(str(i), leaf.dtype, leaf.shape) for i, leaf in enumerate(self._leaves)])

    def columns(self, rows: Array) -> list[Array]:
        """Each leaf of all rows, [G, *shape], in the memory of the rows.

        Args:
            rows: [G, *O] of a plain space, u8[G, B] of a composite one; C-contiguous.
        """
        if self.plain is not None:
            return [rows]
        records = rows.view(self._record)[..., 0]
        return [records[str(index)] for index in range(len(self._leaves))]

    def write(self, value: Any, columns: Sequence[Array], row: int) -> None:
        """Write one element into a row. Does not check that numbers are finite and in range; see `is_valid`.

        Raises:
            RowError: another structure, shape or dtype.
        """
        try:
            if self.plain is not None:
                columns[0][row] = self.plain.array(value)
                return
            values = _flattened(self._space, value)
            for leaf, column, part in zip(self._leaves, columns, values, strict=True):
                column[row] = leaf.array(part)
        except (RuntimeWarning, FloatingPointError):  # a float overflows, and NumPy's warnings are errors
            raise self._overflow(value) from None

    def _overflow(self, value: Any) -> RowError:
        pairs = zip(self._leaves, _flattened(self._space, value), strict=True)
        arrays = ((leaf, np.asarray(part)) for leaf, part in pairs)
        return next(
            leaf.misfit_error(array) for leaf, array in arrays if cast_exactly(array, leaf.dtype) is None
        )

    def is_valid(self, columns: Sequence[Array], index: slice | Array) -> bool:
        """Whether the rows at `index` hold numbers that are finite and within the discrete spaces."""
        for number, _, is_valid in self._checks:  # noqa: SIM110 - a generator takes longer than the checks
            if not is_valid(columns[number][index]):
                return False
        return True

    def check(self, columns: Sequence[Array], row: int) -> None:
        """Check one row.

        Raises:
            RowError: its numbers are not finite, or not in a discrete space.
        """
        for number, leaf, is_valid in self._checks:
            if not is_valid(columns[number][row : row + 1]):
                raise leaf.error_for(columns[number][row])

    def read(self, rows: Array) -> Elements:
        """The elements in rows, as an env takes actions.

        Discrete values are plain ints: every env takes them, and fewer take NumPy scalars. Arrays are
        copies: rows belong to the learner.

        Args:
            rows: as in `columns`.
        """
        if self.plain is not None:
            return _values(self._space, rows)
        return _elements(self._space, iter(self.columns(rows)), len(rows))

    def pack(self, value: Any) -> Array:
        """The row of one element: [*O] of a plain space, u8[B] of a composite one.

        Raises:
            RowError: the value is no element of the space, as far as rows can tell: bounds of a Box are
                not looked at.
        """
        if self.plain is not None:
            rows = np.zeros((1, *self.plain.shape), self.plain.dtype)
        else:
            rows = np.zeros((1, self._record.itemsize), np.uint8)
        columns = self.columns(rows)
        self.write(value, columns, 0)
        self.check(columns, 0)
        row: Array = rows[0, ...]
        return row

    def unpack(self, row: Array) -> Any:
        """The element in one row; the inverse of `pack`."""
        return self.read(np.ascontiguousarray(np.asarray(row)[None]))[0]


def pack(space: gym.Space[Any], value: Any) -> Array:
    """See `RowCodec.pack`, which is faster for many of them."""
    return RowCodec(space).pack(value)


def unpack(space: gym.Space[Any], row: Array) -> Any:
    """See `RowCodec.unpack`, which is faster for many of them."""
    return RowCodec(space).unpack(row)


def _check_of(space: gym.Space[Any], dtype: np.dtype[Any]) -> Callable[[Array], bool] | None:
    if isinstance(space, Discrete):
        return _within(int(space.start), int(space.start) + int(space.n) - 1)
    if isinstance(space, MultiDiscrete):
        return _within(space.start, space.start + (space.nvec - 1))
    if isinstance(space, MultiBinary):
        return _within(0, 1)
    return _finite if dtype.kind == "f" else None


def _finite(values: Array) -> bool:
    finite = np.isfinite(values)
    # A search for a byte takes a fraction of `all`, whose work is in the call; but it copies.
    return bool(finite.all()) if finite.size > _SMALL else b"\0" not in finite.tobytes()


def _within(low: Any, high: Any) -> Callable[[Array], bool]:
    def is_valid(values: Array) -> bool:
        return bool(((values >= low) & (values <= high)).all())

    return is_valid


def _zeros_and_ones(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _at(index: tuple[int, ...]) -> str:
    return f" at index {index}" if index else ""


def _flattened(space: gym.Space[Any], value: Any, path: str = "") -> Iterator[Any]:
    """The leaves of a value, in order."""
    if isinstance(space, Dict):
        _require_keys(space, value, path)
    elif isinstance(space, Tuple):
        _require_length(space, value, path)
    else:
        yield value
    for key, part in parts(space):
        yield from _flattened(part, value[key], f"{path}[{key!r}]")


def _require_keys(space: Dict, value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise RowError(f"observation{path} of type {type(value).__name__}, its space says dict")
    for key in space.spaces:
        if key not in value:
            raise RowError(f"no observation{path}[{key!r}], which its space has")
    if len(value) > len(space.spaces):
        unknown = next(key for key in value if key not in space.spaces)
        raise RowError(f"observation{path}[{unknown!r}], which its space does not have")


def _require_length(space: Tuple[Any], value: Any, path: str) -> None:
    if not isinstance(value, tuple | list):
        raise RowError(f"observation{path} of type {type(value).__name__}, its space says tuple")
    if len(value) != len(space.spaces):
        raise RowError(f"observation{path} of length {len(value)}, its space says {len(space.spaces)}")


def _elements(space: gym.Space[Any], columns: Iterator[Array], count: int) -> Elements:
    """The elements of all rows; takes the columns of the space's leaves from the iterator."""
    if not is_composite(space):
        return _values(space, next(columns))
    keys = [key for key, _ in parts(space)]
    inner = [_elements(part, columns, count) for _, part in parts(space)]
    rows: list[Any] = list(zip(*inner, strict=True)) if inner else [()] * count
    return [dict(zip(keys, row, strict=True)) for row in rows] if isinstance(space, Dict) else rows


def _values(space: gym.Space[Any], column: Array) -> Elements:
    if isinstance(space, Discrete):
        return list(column.tolist())
    copied = column.copy()
    # Iterating over numbers would make NumPy scalars of them.
    return copied if copied.ndim > 1 else [copied[row, ...] for row in range(len(copied))]
