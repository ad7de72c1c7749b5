"""Action distributions: a head for every action space, and masks of illegal actions.

`make_head` makes the head of a space. The heads of single spaces are in `learner.heads`, which also says
what outputs, actions and env actions are; here is the one for spaces that are made of several.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from learner.heads import (
    ActionHead,
    CategoricalHead,
    GaussianHead,
    MultiCategoricalHead,
    log_one_minus_tanh_squared,
)

__all__ = [
    "ActionHead",
    "CategoricalHead",
    "CompositeHead",
    "GaussianHead",
    "Head",
    "LeafHead",
    "MultiCategoricalHead",
    "log_one_minus_tanh_squared",
    "make_head",
]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


class _Part(NamedTuple):
    """Where a leaf's share lies, and what its actions look like."""

    outputs: slice
    action: slice
    wire: slice
    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    """Of the leaf's actions."""
    env_dtype: npt.DTypeLike


class CompositeHead(nn.Module):
    """Dict and Tuple actions: independent heads, one per leaf, depth first in the order of the space.

    * Outputs, and noise, are those of the leaves, one after the other.
    * An action is the vector f32[D] of the leaves' actions, flattened. Choices are exact below 2**24.
    * An env action is u8[B], the *wire format* of composite spaces: the bytes of the leaves' env actions, one
      after the other, in native byte order and without gaps, each in the dtype of its space.

    Log-probabilities, entropies and log-determinants are sums over the leaves.

    Args:
        space: Dict or Tuple, nested at will.
        log_std_init: of every Box in it.

    Raises:
        ValueError: no head for a space in it.
    """

    def __init__(self, space: gym.spaces.Dict | gym.spaces.Tuple[Any], log_std_init: float = 0.0) -> None:
        super().__init__()
        spaces = list(_leaf_spaces(space))
        heads = [_leaf_head(leaf, log_std_init) for leaf in spaces]
        self.leaves = nn.ModuleList(heads)
        self._parts = _parts_of(spaces, heads)
        self._wire_bytes = self._parts[-1].wire.stop if heads else 0
        self.num_outputs = sum(head.num_outputs for head in heads)
        self.maskable = all(head.maskable for head in heads)
        width = self._parts[-1].action.stop if heads else 0
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def _each(self) -> Iterator[tuple[LeafHead, _Part]]:
        return zip(cast("list[LeafHead]", self.leaves), self._parts, strict=True)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        noise = np.empty((rows, self.num_outputs), np.float32)
        for head, part in self._each():
            noise[:, part.outputs] = head.draw_noise(rng, rows)
        return noise

    def sample(self, outputs: Array, noise: Array) -> Array:
        actions = np.empty((len(outputs), *self.action_space.shape), np.float32)
        for head, part in self._each():
            drawn = head.sample(outputs[:, part.outputs], noise[:, part.outputs])
            actions[:, part.action] = _flat(drawn)
        return actions

    def mode(self, outputs: Array) -> Array:
        actions = np.empty((len(outputs), *self.action_space.shape), np.float32)
        for head, part in self._each():
            actions[:, part.action] = _flat(head.mode(outputs[:, part.outputs]))
        return actions

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        total = outputs.new_zeros(len(outputs))
        for head, part in self._each():
            leaf_actions = actions[:, part.action].reshape(len(actions), *part.shape)
            total = total + head.log_prob(outputs[:, part.outputs], leaf_actions)
        return total

    def entropy(self, outputs: Tensor) -> Tensor:
        total = outputs.new_zeros(len(outputs))
        for head, part in self._each():
            total = total + head.entropy(outputs[:, part.outputs])
        return total

    def log_det(self, actions: Tensor) -> Tensor:
        total = actions.new_zeros(len(actions))
        for head, part in self._each():
            total = total + head.log_det(actions[:, part.action].reshape(len(actions), *part.shape))
        return total

    def to_env(self, actions: Array) -> Array:
        """Env actions u8[G, B], in the wire format, for actions f32[G, D]."""
        wire = np.empty((len(actions), self._wire_bytes), np.uint8)
        for head, part in self._each():
            leaf_actions = actions[:, part.action].reshape(len(actions), *part.shape).astype(part.dtype)
            env_actions = np.ascontiguousarray(_flat(head.to_env(leaf_actions)), part.env_dtype)
            wire[:, part.wire] = env_actions.view(np.uint8)
        return wire

    def from_env(self, env_actions: Array) -> Array:
        """Actions f32[G, D] for env actions u8[G, B] in the wire format."""
        actions = np.empty((len(env_actions), *self.action_space.shape), np.float32)
        for head, part in self._each():
            values = np.ascontiguousarray(env_actions[:, part.wire]).view(part.env_dtype)
            actions[:, part.action] = _flat(head.from_env(values.reshape(len(values), *part.shape)))
        return actions

    def has_choice(self, mask: Flags) -> Flags:
        legal = np.ones(len(mask), np.bool_)
        for head, part in self._each():
            legal &= head.has_choice(mask[:, part.outputs])
        return legal


LeafHead: TypeAlias = CategoricalHead | MultiCategoricalHead | GaussianHead
Head: TypeAlias = LeafHead | CompositeHead


def make_head(space: gym.Space[Any], log_std_init: float = 0.0) -> Head:
    """The head for an action space.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these.
        log_std_init: the logarithm of the standard deviation to begin with, in every dimension of a Box.

    Raises:
        ValueError: no head for such a space.
    """
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return CompositeHead(space, log_std_init)
    return _leaf_head(space, log_std_init)


def _leaf_head(space: gym.Space[Any], log_std_init: float) -> LeafHead:
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalHead(space)
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return MultiCategoricalHead(space)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianHead(space, log_std_init)
    name = " ".join(str(space).split())  # NumPy breaks the bounds of large spaces into lines
    raise ValueError(
        f"action space {name} is not supported: "
        "it must be Discrete, MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these"
    )


def _leaf_spaces(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    if isinstance(space, gym.spaces.Dict):
        children = list(space.spaces.values())
    elif isinstance(space, gym.spaces.Tuple):
        children = list(space.spaces)
    else:
        yield space
        return
    for child in children:
        yield from _leaf_spaces(child)


def _parts_of(spaces: list[gym.Space[Any]], heads: list[LeafHead]) -> list[_Part]:
    parts: list[_Part] = []
    output = action = byte = 0
    for space, head in zip(spaces, heads, strict=True):
        shape, dtype = space.shape or (), head.action_space.dtype
        env_dtype = np.dtype(space.dtype)
        size = math.prod(shape)
        ends = output + head.num_outputs, action + size, byte + size * env_dtype.itemsize
        parts.append(
            _Part(
                slice(output, ends[0]),
                slice(action, ends[1]),
                slice(byte, ends[2]),
                shape,
                dtype,
                env_dtype.newbyteorder("="),
            )
        )
        output, action, byte = ends
    return parts


def _flat(rows: Array) -> Array:
    """[G, *A] as [G, size]; -1 would be ambiguous without rows or elements."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))
