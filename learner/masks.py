"""Masks of illegal actions: where they lie in observations, and what they do to an actor's outputs."""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
import numpy.typing as npt
from torch import Tensor

from learner.numpy_policy import ILLEGAL
from learner.space_tensors import read_tensor
from learner.spaces import MASK_KEY, Leaf, leaves

Array = npt.NDArray[Any]


def mask_outputs(outputs: Tensor, mask: Tensor) -> Tensor:
    """Outputs with which illegal choices have probability 0, for the methods of a head that is `maskable`.

    The result is the distribution over the legal choices: their probabilities, divided by their sum. It is
    finite, and so is every gradient; the gradient of an illegal output is 0 (Huang and Ontañón 2020, "A
    closer look at invalid action masking in policy gradient algorithms").

    Args:
        outputs: f32[S, K].
        mask: bool[S, K], true where a choice is legal.

    Returns:
        f32[S, K].
    """
    return outputs.masked_fill(~mask, ILLEGAL)


class Masks(Protocol):
    """The action masks of an observation space."""

    leaf: Leaf | None
    """The part of the observation that holds the mask, if there is one."""

    def read(self, rows: Tensor) -> Tensor:
        """The masks bool[S, K] in rows [S, *O]; bool[S, 0] if there are none."""

    def apply(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """The actor's outputs f32[S, K] under masks as `read` returns them."""

    def apply_numpy(self, outputs: Array, masks: Array) -> Array:
        """`apply` for arrays; may change `outputs`."""


class NoMasks:
    """Every action is always legal. Implements `Masks`."""

    leaf: Leaf | None = None

    def read(self, rows: Tensor) -> Tensor:
        """See `Masks`."""
        return rows.new_empty((len(rows), 0)).bool()

    def apply(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """See `Masks`."""
        return outputs

    def apply_numpy(self, outputs: Array, masks: Array) -> Array:
        """See `Masks`."""
        return outputs


class ObservedMasks:
    """Observations say which actions are legal. Implements `Masks`.

    Args:
        leaf: the part of the observation that holds the mask.
    """

    def __init__(self, leaf: Leaf) -> None:
        self.leaf: Leaf | None = leaf
        self._leaf = leaf

    def read(self, rows: Tensor) -> Tensor:
        """See `Masks`."""
        return read_tensor(self._leaf, rows).flatten(start_dim=1) != 0

    def apply(self, outputs: Tensor, masks: Tensor) -> Tensor:
        """See `Masks`."""
        return mask_outputs(outputs, masks)

    def apply_numpy(self, outputs: Array, masks: Array) -> Array:
        """See `Masks`."""
        outputs[~masks] = ILLEGAL
        return outputs


def make_masks(space: gym.Space[Any], width: int) -> Masks:
    """The masks of an observation space.

    Args:
        space: of the observations.
        width: K, the number of choices that can be masked; 0 if the action space has parts that cannot.

    Raises:
        ValueError: there is a mask that does not fit `width`, or is not at the top of the observation.
    """
    everywhere = [leaf for leaf in leaves(space) if MASK_KEY in leaf.path]
    found = [leaf for leaf in everywhere if leaf.path == (MASK_KEY,)]
    if found != everywhere:
        raise ValueError(
            f"{MASK_KEY!r} must be one array at the top of the observation's Dict, not within {space}"
        )
    if not found:
        return NoMasks()
    size = math.prod(found[0].shape)
    if size != width:
        raise ValueError(
            f"the observation's {MASK_KEY!r} has {size} entries, but the action space has "
            + (f"{width} choices" if width else "parts that cannot be masked (Box)")
        )
    return ObservedMasks(found[0])
