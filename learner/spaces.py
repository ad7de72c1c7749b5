"""How the elements of a Gymnasium space lie in the rows that travel between envs and learner.

A row of Box, Discrete, MultiDiscrete and MultiBinary has the space's own shape and dtype. A row of Dict and
Tuple is u8[B]: the bytes of its leaves one after the other, depth first, in the order of the space, without
gaps. So whatever the space, a batch of observations is *one* array, and one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

Nested: TypeAlias = "Tensor | dict[str, Nested] | tuple[Nested, ...]"

MASK_KEY = "action_mask"
"""The key of a Dict observation that says which actions are legal; it is not shown to the networks."""


@dataclass(frozen=True)
class Leaf:
    """A part of a space that is no Dict or Tuple.

    Attributes:
        path: keys and positions that lead to it.
        space: of the leaf.
        offset: of its first byte in the row.
    """

    path: tuple[str | int, ...]
    space: gym.Space[Any]
    offset: int

    @property
    def shape(self) -> tuple[int, ...]:
        return row_field(self.space)[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        return row_field(self.space)[1]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self, rows: Tensor) -> Tensor:
        """The leaf of composite rows u8[S, B]: [S, *shape] in its dtype."""
        # A copy in every case: a lone row counts as contiguous where it lies, and there it may be unaligned.
        part = rows[:, self.offset : self.offset + self.nbytes].clone(memory_format=torch.contiguous_format)
        return part.view(torch_dtype(self.dtype)).reshape(len(rows), *self.shape)


def is_composite(space: gym.Space[Any]) -> bool:
    """Whether the space is made of others (Dict, Tuple)."""
    return isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)


def children(space: gym.Space[Any]) -> list[tuple[str | int, gym.Space[Any]]]:
    """The parts of a Dict or Tuple in their order, with their keys or positions."""
    if isinstance(space, gym.spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, gym.spaces.Tuple):
        return list(enumerate(space.spaces))
    raise TypeError(f"{space} is neither Dict nor Tuple")


def leaves(space: gym.Space[Any]) -> list[Leaf]:
    """The leaves of a space in the order in which they lie in a row."""
    found: list[Leaf] = []
    offset = 0
    for path, part in _walk(space, ()):
        leaf = Leaf(path, part, offset)
        offset += leaf.nbytes
        found.append(leaf)
    return found


def _walk(
    space: gym.Space[Any], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], gym.Space[Any]]]:
    if not is_composite(space):
        yield path, space
        return
    for key, part in children(space):
        yield from _walk(part, (*path, key))


def row_field(space: gym.Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one row.

    Raises:
        ValueError: elements of the space have no fixed shape or are not numbers.
    """
    if is_composite(space):
        return (sum(leaf.nbytes for leaf in leaves(space)),), np.dtype(np.uint8)
    numeric = space.dtype is not None and (space.dtype.kind in "biuf")
    if space.shape is None or not numeric:
        raise ValueError(f"the space {space} is not supported: its elements are not numeric arrays")
    return tuple(space.shape), np.dtype(space.dtype).newbyteorder("=")


def unpack(space: gym.Space[Any], rows: Tensor) -> Nested:
    """Rows [S, ...] as the space describes them: a tensor, or a dict or tuple of what its parts are."""
    if not is_composite(space):
        return rows
    return _assemble(space, iter(leaves(space)), rows)


def _assemble(space: gym.Space[Any], remaining: Iterator[Leaf], rows: Tensor) -> Nested:
    if not is_composite(space):
        return next(remaining).read(rows)
    if isinstance(space, gym.spaces.Dict):
        return {key: _assemble(part, remaining, rows) for key, part in space.spaces.items()}
    return tuple(_assemble(part, remaining, rows) for _, part in children(space))


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch dtype of the same width and kind."""
    return torch.from_numpy(np.zeros(0, dtype)).dtype
