"""Rows of spaces as tensors; `learner.spaces` says how they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from learner.spaces import Leaf, children, is_composite, leaves

Nested: TypeAlias = "Tensor | dict[str, Nested] | tuple[Nested, ...]"


def read_tensor(leaf: Leaf, rows: Tensor) -> Tensor:
    """The leaf's elements [S, *shape], in its dtype, from composite rows u8[S, B]."""
    # Always a copy: torch calls a single row contiguous, so it would stay where it may be unaligned.
    part = rows[:, leaf.offset : leaf.offset + leaf.nbytes].clone(memory_format=torch.contiguous_format)
    return part.view(torch_dtype(leaf.dtype)).reshape(len(rows), *leaf.shape)


def unpack(space: gym.Space[Any], rows: Tensor) -> Nested:
    """Rows [S, *O] in the structure of the space: a tensor, or a dict or tuple of the parts, unpacked."""
    if not is_composite(space):
        return rows
    return assemble(space, [read_tensor(leaf, rows) for leaf in leaves(space)])


def assemble(space: gym.Space[Any], parts: Sequence[Tensor]) -> Nested:
    """The leaves [S, *shape] of a space, depth first, in its structure."""
    return _assemble(space, iter(parts))


def _assemble(space: gym.Space[Any], remaining: Iterator[Tensor]) -> Nested:
    if not is_composite(space):
        return next(remaining)
    if isinstance(space, gym.spaces.Dict):
        return {key: _assemble(part, remaining) for key, part in space.spaces.items()}
    return tuple(_assemble(part, remaining) for _, part in children(space))


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch dtype of the same width and kind."""
    return torch.from_numpy(np.zeros(0, dtype.newbyteorder("="))).dtype
