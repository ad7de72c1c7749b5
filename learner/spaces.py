"""How the elements of a Gymnasium space lie in the rows that travel between envs and learner.

A row of Box, Discrete, MultiDiscrete and MultiBinary has the space's own shape and dtype. A row of Dict and
Tuple is u8[B]: the bytes of its leaves one after the other, depth first, in the order of the space, without
gaps. So whatever the space, a batch of observations is *one* array, and one tensor (`learner.space_tensors`).

`workers/rows.py` is the counterpart on the side of the envs. Neither imports the other, so the layout is
written down twice; tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from learner.arrays import Array

MASK_KEY = "action_mask"
"""The key of a Dict observation that says which actions are legal; the networks do not see it."""

MAX_CHOICES = 2**18
"""Of a space whose choices become one-hot vectors or logits: 1 GB of float32 for a batch of 1,024."""


@dataclass(frozen=True)
class Leaf:
    """A part of a space that is neither Dict nor Tuple.

    Attributes:
        path: keys and positions that lead to it.
        space: of the leaf.
        offset: of its first byte in a composite row.
    """

    path: tuple[str | int, ...]
    space: gym.Space[Any]
    offset: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one element."""
        return row_field(self.space)[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """In native byte order."""
        return row_field(self.space)[1]

    @property
    def nbytes(self) -> int:
        """Of one element in a composite row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, rows: Array) -> Array:
        """The leaf's elements [S, *shape], in its dtype, from composite rows u8[S, B]. A copy."""
        part = np.array(rows[:, self.offset : self.offset + self.nbytes], order="C")
        return part.view(self.dtype).reshape(len(rows), *self.shape)


def is_composite(space: gym.Space[Any]) -> bool:
    """Whether the space is a Dict or Tuple."""
    return isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)


def children(space: gym.Space[Any]) -> list[tuple[str | int, gym.Space[Any]]]:
    """The direct parts of a Dict or Tuple in order, with their keys or positions.

    Raises:
        TypeError: the space is neither.
    """
    if isinstance(space, gym.spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, gym.spaces.Tuple):
        return list(enumerate(space.spaces))
    raise TypeError(f"{space} is neither Dict nor Tuple")


def leaves(space: gym.Space[Any]) -> list[Leaf]:
    """The leaves of a space in the order in which they lie in a row."""
    found: list[Leaf] = []
    offset = 0
    for path, part in walk(space):
        leaf = Leaf(path, part, offset)
        offset += leaf.nbytes
        found.append(leaf)
    return found


def observed_leaves(space: gym.Space[Any]) -> list[Leaf]:
    """The leaves that networks see: all but the action mask."""
    return [leaf for leaf in leaves(space) if leaf.path != (MASK_KEY,)]


def num_choices(space: gym.Space[Any]) -> int:
    """The choices of a Discrete, or of all components of a MultiDiscrete; 0 for other spaces."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return sum(map(int, space.nvec.ravel()))  # Python's integers do not overflow
    return 0


def check_choices(spaces: Iterable[gym.Space[Any]], what: str) -> None:
    """Refuse spaces whose one-hot vectors or logits would not fit into memory.

    Args:
        spaces: all of one observation or action.
        what: is limited, for the message.

    Raises:
        ValueError: together they have more than `MAX_CHOICES`.
    """
    choices = sum(num_choices(space) for space in spaces)
    if choices > MAX_CHOICES:
        raise ValueError(f"{choices:,} choices are too many: the limit is {MAX_CHOICES:,} for {what}")


def walk(
    space: gym.Space[Any], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], gym.Space[Any]]]:
    """Paths and spaces of the leaves, depth first, whether or not they hold numbers."""
    if not is_composite(space):
        yield path, space
        return
    for key, part in children(space):
        yield from walk(part, (*path, key))


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
