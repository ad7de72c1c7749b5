"""Observations and actions as users hold them, one or a batch, and the rows that a policy takes and gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from workers.arrays import Array
from workers.rows import Leaf, RowCodec, RowError
from workers.space_parts import is_composite, leaves, parts


def rows_of(space: gym.Space[Any], value: Any) -> tuple[Array, bool]:
    """The rows [G, *O] of one element of a space (G = 1) or of a batch, and whether it was a batch.

    A batch of a Dict or Tuple is a dict or tuple of batches, as vector envs give it.

    Args:
        space: holds numbers, or is a Dict or Tuple of such.
        value: arrays, lists and numbers in the structure of the space; each has the shape of its part, or
            each has one more dimension in front. Parts of a Dict that its space does not have are left out.

    Raises:
        RowError: another structure, shape or dtype, numbers that are not finite or in no discrete space, or
            parts of a batch that are not equally long.
    """
    described = [Leaf.of(path, part) for path, part in leaves(space)]
    values = list(_flattened(space, value))
    is_batch = _is_batch(described, values)
    count = len(values[0]) if is_batch else 1
    columns = [_column(leaf, part, count, is_batch) for leaf, part in zip(described, values, strict=True)]
    if not is_composite(space):
        return columns[0], is_batch
    flat = [np.ascontiguousarray(column).reshape(count, -1).view(np.uint8) for column in columns]
    return np.concatenate([np.zeros((count, 0), np.uint8), *flat], axis=1), is_batch


def _is_batch(described: Sequence[Leaf], values: Sequence[Any]) -> bool:
    """Whether the parts have one more dimension than their leaves.

    Raises:
        RowError: some have, and others have not.
    """
    shapes = [_shape(leaf, value) for leaf, value in zip(described, values, strict=True)]
    longer = [len(shape) > len(leaf.shape) for shape, leaf in zip(shapes, described, strict=True)]
    if all(longer):
        return bool(longer)
    alone = longer.index(False)
    for leaf, shape, is_longer in zip(described, shapes, longer, strict=True):
        if is_longer and math.prod(shape) != math.prod(leaf.shape):  # one number may stand in any shape
            raise RowError(
                f"{leaf.label} of shape {shape} is a batch, but {described[alone].label} of shape "
                f"{shapes[alone]} is not"
            )
    return False


def _column(leaf: Leaf, value: Any, count: int, is_batch: bool) -> Array:
    """One leaf of all rows, [G, *shape] in its dtype."""
    shape = (count, *leaf.shape) if is_batch else leaf.shape
    found = _shape(leaf, value)
    if found != shape and math.prod(found) != 1:
        batched = ", ".join(["N", *map(str, leaf.shape)])
        raise RowError(f"{leaf.label} of shape {found}: {leaf.shape} is wanted, or [{batched}]")
    wanted = dataclasses.replace(leaf, shape=shape)
    try:
        with np.errstate(over="raise"):
            column = wanted.array(value).astype(leaf.dtype, copy=False)
    except FloatingPointError:  # a float is too large for the dtype
        raise wanted.misfit_error(np.asarray(value)) from None
    if leaf.is_valid is not None and not leaf.is_valid(column):
        raise leaf.error_for(column)
    return column if is_batch else column[None]


def _shape(leaf: Leaf, value: Any) -> tuple[int, ...]:
    """The shape of an array, of a number, or of lists in lists."""
    try:
        return tuple(np.shape(value))
    except ValueError:  # NumPy's, about lists of different lengths
        raise RowError(f"{leaf.label} of parts that have different shapes: {leaf.shape} is wanted") from None


def _flattened(space: gym.Space[Any], value: Any, path: str = "") -> Iterator[Any]:
    """The leaves of a value, in order."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(value, Mapping):
            raise RowError(f"observation{path} of type {type(value).__name__}, its space says dict")
    elif isinstance(space, gym.spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise RowError(f"observation{path} is no tuple of {len(space.spaces)} parts")
    else:
        yield value
    for key, part in parts(space):
        if isinstance(value, Mapping) and key not in value:
            raise RowError(f"no observation{path}[{key!r}], which its space has")
        yield from _flattened(part, value[key], f"{path}[{key!r}]")


def batch_of(space: gym.Space[Any], rows: Array) -> Any:
    """A batch in the structure of a space: arrays [G, *shape], or a dict or tuple of them. Copies of rows."""
    columns = RowCodec(space).columns(np.ascontiguousarray(rows))
    return _structured(space, iter(columns))


def _structured(space: gym.Space[Any], columns: Iterator[Array]) -> Any:
    if not is_composite(space):
        return next(columns).copy()
    inner = {key: _structured(part, columns) for key, part in parts(space)}
    return inner if isinstance(space, gym.spaces.Dict) else tuple(inner.values())


def element_of(space: gym.Space[Any], row: Array) -> Any:
    """The element in a row, as an env takes it: whole numbers of a Discrete are plain ints."""
    return RowCodec(space).unpack(row)
