"""The acting half of heads of Dict and Tuple actions; `make_actions` makes that of any action space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from learner.actions import Actions, leaf_actions
from learner.arrays import Array, Flags
from learner.spaces import Leaf, check_choices, is_composite, leaves, row_field, walk

_CHOICES = "actions"


class Part(NamedTuple):
    """Where a leaf of a composite space lies in outputs, actions and env actions, and its form.

    Attributes:
        actions: of the leaf.
        outputs, action: columns.
        row: columns of env actions, in bytes.
        weights: which of the weights.
        shape, dtype: of the leaf's actions.
        env_dtype: of its env actions.
    """

    actions: Actions
    outputs: slice
    action: slice
    row: slice
    weights: slice
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    env_dtype: np.dtype[Any]


class CompositeActions:
    """Dict and Tuple actions: one kind per leaf, depth first in the order of the space. Implements `Actions`.

    * Outputs, noise and weights are those of the leaves, one after another.
    * An action is the vector f32[D] of the leaves' actions, flattened. Choices are exact below 2**24.
    * An env action is u8[B], a row of the composite space as `learner.spaces` describes it.

    Args:
        space: Dict or Tuple, nested to any depth.

    Raises:
        ValueError: a space in it is not supported, or there are too many choices in all.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        spaces = [part for _, part in walk(space)]
        check_choices(spaces, _CHOICES)
        kinds = [leaf_actions(part) for part in spaces]
        self.parts = _parts_of(leaves(space), kinds)
        (self._row_bytes,), _ = row_field(space)
        self.num_outputs = sum(part.actions.num_outputs for part in self.parts)
        self.num_weights = sum(part.actions.num_weights for part in self.parts)
        self.maskable = all(part.actions.maskable for part in self.parts)
        self._width = self.parts[-1].action.stop if self.parts else 0
        self.action_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, (self._width,), np.float32)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `Actions`."""
        noise = np.empty((rows, self.num_outputs), np.float32)
        for part in self.parts:
            noise[:, part.outputs] = part.actions.draw_noise(rng, rows)
        return noise

    def sample(self, outputs: Array, noise: Array, weights: Sequence[Array] = ()) -> Array:
        """See `Actions`."""
        actions = np.empty((len(outputs), self._width), np.float32)
        for part in self.parts:
            of_leaf = outputs[:, part.outputs], noise[:, part.outputs], weights[part.weights]
            actions[:, part.action] = _flat(part.actions.sample(*of_leaf))
        return actions

    def mode(self, outputs: Array) -> Array:
        """See `Actions`."""
        actions = np.empty((len(outputs), self._width), np.float32)
        for part in self.parts:
            actions[:, part.action] = _flat(part.actions.mode(outputs[:, part.outputs]))
        return actions

    def to_env(self, actions: Array) -> Array:
        """Env actions u8[G, B] for actions f32[G, D]."""
        rows = np.empty((len(actions), self._row_bytes), np.uint8)
        for part in self.parts:
            leaf_actions = actions[:, part.action].reshape(len(actions), *part.shape).astype(part.dtype)
            env_actions = np.ascontiguousarray(_flat(part.actions.to_env(leaf_actions)), part.env_dtype)
            rows[:, part.row] = env_actions.view(np.uint8)
        return rows

    def from_env(self, env_actions: Array) -> Array:
        """Actions f32[G, D] for env actions u8[G, B]."""
        actions = np.empty((len(env_actions), self._width), np.float32)
        for part in self.parts:
            values = np.ascontiguousarray(env_actions[:, part.row]).view(part.env_dtype)
            actions[:, part.action] = _flat(part.actions.from_env(values.reshape(len(values), *part.shape)))
        return actions

    def has_choice(self, mask: Flags) -> Flags:
        """See `Actions`."""
        legal = np.ones(len(mask), np.bool_)
        for part in self.parts:
            legal &= part.actions.has_choice(mask[:, part.outputs])
        return legal


def make_actions(space: gym.Space[Any]) -> Actions:
    """The acting half of the head for an action space.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these.

    Raises:
        ValueError: such a space is not supported, or there are too many choices in it.
    """
    if is_composite(space):
        return CompositeActions(space)
    check_choices([space], _CHOICES)
    return leaf_actions(space)


def _parts_of(spaces: list[Leaf], kinds: list[Actions]) -> list[Part]:
    parts: list[Part] = []
    output = action = weight = 0
    for leaf, actions in zip(spaces, kinds, strict=True):
        size = math.prod(leaf.shape)
        parts.append(
            Part(
                actions=actions,
                outputs=slice(output, output + actions.num_outputs),
                action=slice(action, action + size),
                row=slice(leaf.offset, leaf.offset + leaf.nbytes),
                weights=slice(weight, weight + actions.num_weights),
                shape=leaf.shape,
                dtype=actions.action_space.dtype,
                env_dtype=leaf.dtype,
            )
        )
        output, action = output + actions.num_outputs, action + size
        weight += actions.num_weights
    return parts


def _flat(rows: Array) -> Array:
    """[G, *A] as [G, size]; -1 would be ambiguous without rows or elements."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))
