"""Random observations that look like those of an env, to try a policy with."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from learner.policy import ActorCritic
from learner.spaces import MASK_KEY, Leaf, is_composite, leaves
from workers.arrays import Array

_NARROW = 1e3


def plausible_rows(policy: ActorCritic, space: gym.Space[Any], count: int, seed: int = 0) -> Array:
    """Rows [count, *O] of an observation space, in which a mask always leaves a choice.

    Numbers are drawn evenly from narrow bounds, and else from a standard normal distribution: bounds may be
    those of the dtype, and no network has seen such numbers.

    Args:
        policy: whose actions the mask is of.
        space: of the rows.
        count: of them.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for leaf in leaves(space):
        is_mask = leaf.path == (MASK_KEY,)
        columns.append(_masks(policy, leaf, count, rng) if is_mask else _values(leaf, count, rng))
    if not is_composite(space):
        return columns[0]
    flat = [column.reshape(count, -1).view(np.uint8) for column in columns]
    return np.concatenate(flat, axis=1)


def _masks(policy: ActorCritic, leaf: Leaf, count: int, rng: np.random.Generator) -> Array:
    masks = rng.integers(0, 2, (count, *leaf.shape))
    masks[~policy.head.has_choice(masks.reshape(count, -1) != 0)] = 1
    return masks.astype(leaf.dtype)


def _values(leaf: Leaf, count: int, rng: np.random.Generator) -> Array:
    space = leaf.space
    if isinstance(space, gym.spaces.Box) and leaf.dtype.kind == "f":
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        with np.errstate(over="ignore"):
            width = high - low
        is_narrow = width < _NARROW
        uniform = low + rng.random((count, *leaf.shape)) * np.where(is_narrow, width, 0.0)
        normal = np.clip(rng.standard_normal((count, *leaf.shape)), low, high)
        return np.where(is_narrow, uniform, normal).astype(leaf.dtype)
    space.seed(int(rng.integers(2**31)))
    return np.ascontiguousarray([space.sample() for _ in range(count)], leaf.dtype)
