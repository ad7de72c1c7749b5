"""`make_head` makes the head of any action space; `CompositeHead` is the one of Dict and Tuple.

The heads of other spaces are in `learner.heads`, which also defines outputs, actions and env actions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, cast

import gymnasium as gym
import numpy as np
from torch import Tensor, nn

from learner.arrays import Array, Flags
from learner.heads import CategoricalHead, GaussianHead, MultiCategoricalHead
from learner.spaces import Leaf, check_choices, is_composite, leaves, row_field, walk

_CHOICES = "actions"


class _Part(NamedTuple):
    """Where a leaf lies in outputs, actions and env actions, and the form of its actions."""

    outputs: slice
    action: slice
    row: slice
    """Of env actions, in bytes."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    """Of the leaf's actions."""
    env_dtype: np.dtype[Any]


class CompositeHead(nn.Module):
    """Dict and Tuple actions: independent heads, one per leaf, depth first in the order of the space.

    * Outputs and noise are those of the leaves, one after another.
    * An action is the vector f32[D] of the leaves' actions, flattened. Choices are exact below 2**24.
    * An env action is u8[B], a row of the composite space as `learner.spaces` describes it.

    Log-probabilities, entropies and log-determinants are sums over the leaves.

    Args:
        space: Dict or Tuple, nested to any depth.
        log_std_init: of every Box in it.

    Raises:
        ValueError: no head for a space in it, or too many choices in all.
    """

    def __init__(self, space: gym.Space[Any], log_std_init: float = 0.0) -> None:
        super().__init__()
        parts = [part for _, part in walk(space)]
        check_choices(parts, _CHOICES)
        heads = [_leaf_head(part, log_std_init) for part in parts]
        self.leaves = nn.ModuleList(heads)
        self._parts = _parts_of(leaves(space), heads)
        (self._row_bytes,), _ = row_field(space)
        self.num_outputs = sum(head.num_outputs for head in heads)
        self.maskable = all(head.maskable for head in heads)
        width = self._parts[-1].action.stop if heads else 0
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def _each(self) -> Iterator[tuple[LeafHead, _Part]]:
        return zip(cast("list[LeafHead]", self.leaves), self._parts, strict=True)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `ActionHead`."""
        noise = np.empty((rows, self.num_outputs), np.float32)
        for head, part in self._each():
            noise[:, part.outputs] = head.draw_noise(rng, rows)
        return noise

    def sample(self, outputs: Array, noise: Array) -> Array:
        """See `ActionHead`."""
        actions = np.empty((len(outputs), *self.action_space.shape), np.float32)
        for head, part in self._each():
            drawn = head.sample(outputs[:, part.outputs], noise[:, part.outputs])
            actions[:, part.action] = _flat(drawn)
        return actions

    def mode(self, outputs: Array) -> Array:
        """See `ActionHead`."""
        actions = np.empty((len(outputs), *self.action_space.shape), np.float32)
        for head, part in self._each():
            actions[:, part.action] = _flat(head.mode(outputs[:, part.outputs]))
        return actions

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        total = outputs.new_zeros(len(outputs))
        for head, part in self._each():
            leaf_actions = actions[:, part.action].reshape(len(actions), *part.shape)
            total = total + head.log_prob(outputs[:, part.outputs], leaf_actions)
        return total

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `ActionHead`."""
        total = outputs.new_zeros(len(outputs))
        for head, part in self._each():
            total = total + head.entropy(outputs[:, part.outputs])
        return total

    def log_det(self, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        total = actions.new_zeros(len(actions))
        for head, part in self._each():
            total = total + head.log_det(actions[:, part.action].reshape(len(actions), *part.shape))
        return total

    def to_env(self, actions: Array) -> Array:
        """Env actions u8[G, B] for actions f32[G, D]."""
        rows = np.empty((len(actions), self._row_bytes), np.uint8)
        for head, part in self._each():
            leaf_actions = actions[:, part.action].reshape(len(actions), *part.shape).astype(part.dtype)
            env_actions = np.ascontiguousarray(_flat(head.to_env(leaf_actions)), part.env_dtype)
            rows[:, part.row] = env_actions.view(np.uint8)
        return rows

    def from_env(self, env_actions: Array) -> Array:
        """Actions f32[G, D] for env actions u8[G, B]."""
        actions = np.empty((len(env_actions), *self.action_space.shape), np.float32)
        for head, part in self._each():
            values = np.ascontiguousarray(env_actions[:, part.row]).view(part.env_dtype)
            actions[:, part.action] = _flat(head.from_env(values.reshape(len(values), *part.shape)))
        return actions

    def has_choice(self, mask: Flags) -> Flags:
        """See `ActionHead`."""
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
        log_std_init: initial log standard deviation of every dimension of a Box.

    Raises:
        ValueError: no head for such a space, or too many choices in it.
    """
    if is_composite(space):
        return CompositeHead(space, log_std_init)
    check_choices([space], _CHOICES)
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


def _parts_of(spaces: list[Leaf], heads: list[LeafHead]) -> list[_Part]:
    parts: list[_Part] = []
    output = action = 0
    for leaf, head in zip(spaces, heads, strict=True):
        size = math.prod(leaf.shape)
        parts.append(
            _Part(
                outputs=slice(output, output + head.num_outputs),
                action=slice(action, action + size),
                row=slice(leaf.offset, leaf.offset + leaf.nbytes),
                shape=leaf.shape,
                dtype=head.action_space.dtype,
                env_dtype=leaf.dtype,
            )
        )
        output, action = output + head.num_outputs, action + size
    return parts


def _flat(rows: Array) -> Array:
    """[G, *A] as [G, size]; -1 would be ambiguous without rows or elements."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))
