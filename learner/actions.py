"""The acting half of action heads: from the actor's outputs to env actions, in NumPy alone.

Pure functions of their arguments and without torch, so whoever plays can use them: the learner, and worker
processes that act beside their envs. `learner.composite_actions` has the kind of Dict and Tuple spaces,
`learner.heads` the other half, log-probabilities and entropies.

There are three forms of an action:

* *outputs* [G, K]: what the actor network computes (logits, or means),
* *action* [G, *A]: what was drawn; it is stored, and it has a log-probability,
* *env action* [G, *A]: what the env receives (shifted, squashed into its bounds).

The caller draws noise for all rows of a group and indexes it, so that the noise of one env does not depend on
which others are still playing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from learner.arrays import Array, Flags


class Actions(Protocol):
    """What acting needs to know about an action space."""

    num_outputs: int
    """K, the width of the actor's last layer."""
    action_space: gym.Space[Any]
    """Of actions, as they are drawn and stored; env actions are in the env's space."""
    maskable: bool
    """Whether every output is the logit of a choice, so that a mask can rule it out; a Box has none.

    `sample` and `mode` then get outputs that are masked already, by `learner.masks`: what is ruled out has
    the logit -1e8. `has_choice` alone sees the mask itself.
    """
    num_weights: int
    """Arrays of weights that `sample` needs: 1 for the log standard deviations of a Box."""

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """Noise f32[rows, K] for `sample`."""

    def sample(self, outputs: Array, noise: Array, weights: Sequence[Array] = ()) -> Array:
        """Actions [G, *A] for outputs f32[G, K] and noise f32[G, K]."""

    def mode(self, outputs: Array) -> Array:
        """The most likely actions [G, *A] for outputs f32[G, K]."""

    def to_env(self, actions: Array) -> Array:
        """Env actions for actions, in the dtype of the space and inside its bounds."""

    def from_env(self, env_actions: Array) -> Array:
        """The inverse of `to_env`, as well as floating point allows."""

    def has_choice(self, mask: Flags) -> Flags:
        """Whether every component of a row has a legal choice left, bool[G], for a mask bool[G, K]."""


class CategoricalActions:
    """Discrete actions. The actor's outputs are logits. Implements `Actions`.

    Args:
        space: `Discrete(n, start)`.

    Attributes:
        start: the first env action.
        env_dtype: of env actions.
    """

    maskable = True
    num_weights = 0

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self.num_outputs = int(space.n)
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(space.n)
        self.start = int(space.start)
        self.env_dtype: np.dtype[Any] = np.dtype(space.dtype or np.int64)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `Actions`."""
        return rng.gumbel(size=(rows, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array, weights: Sequence[Array] = ()) -> Array:
        """See `Actions`. argmax(logits + Gumbel noise) is distributed as softmax(logits) (Gumbel 1954)."""
        actions: Array = (outputs + noise).argmax(axis=1)
        return actions

    def mode(self, outputs: Array) -> Array:
        """See `Actions`."""
        actions: Array = outputs.argmax(axis=1)
        return actions

    def to_env(self, actions: Array) -> Array:
        """See `Actions`."""
        return (actions + self.start).astype(self.env_dtype)

    def from_env(self, env_actions: Array) -> Array:
        """See `Actions`."""
        return np.asarray(env_actions, np.int64) - self.start

    def has_choice(self, mask: Flags) -> Flags:
        """See `Actions`."""
        legal: Flags = np.any(mask, axis=1)
        return legal


class _Segment(NamedTuple):
    """Neighbouring components with the same number n of choices, computed as one array [rows, count, n]."""

    columns: slice
    """Of the outputs."""
    components: slice
    num_components: int
    n: int


class MultiCategoricalActions:
    """Independent categoricals: MultiDiscrete actions, and MultiBinary ones as pairs of logits.

    The actor's outputs are the logits of all components, one after another: K = sum(nvec), or 2 * size.
    Actions are i64[G, *shape] and count from 0. Implements `Actions`.

    Args:
        space: `MultiDiscrete(nvec, start)` or `MultiBinary(n)`, any shape.

    Attributes:
        nvec: i64[*A], choices of each component.
        segments: of them.
        start: i64[*A], the first env action of each.
        env_dtype: of env actions.
    """

    maskable = True
    num_weights = 0

    def __init__(self, space: gym.spaces.MultiDiscrete | gym.spaces.MultiBinary) -> None:
        nvec: Array = np.full(space.shape, 2)
        start: Array = np.zeros(space.shape, np.int64)
        if isinstance(space, gym.spaces.MultiDiscrete):
            nvec = space.nvec
            start = space.start.astype(np.int64)  # int64 + uint64 would be float64
        self.num_outputs = int(nvec.sum())
        self.action_space: gym.Space[Any] = gym.spaces.MultiDiscrete(nvec, dtype=np.int64)
        self.nvec = nvec
        self.segments = segments_of(nvec)
        self.start = start
        self.env_dtype: np.dtype[Any] = np.dtype(space.dtype)
        self._shape = nvec.shape

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `Actions`."""
        return rng.gumbel(size=(rows, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array, weights: Sequence[Array] = ()) -> Array:
        """See `Actions`. The argmax of logits + Gumbel noise of each component."""
        return self.mode(outputs + noise)

    def mode(self, outputs: Array) -> Array:
        """See `Actions`."""
        rows = len(outputs)
        actions = np.empty((rows, math.prod(self._shape)), np.int64)
        for columns, components, count, n in self.segments:
            actions[:, components] = outputs[:, columns].reshape(rows, count, n).argmax(axis=2)
        return actions.reshape(rows, *self._shape)

    def to_env(self, actions: Array) -> Array:
        """See `Actions`."""
        return (actions + self.start).astype(self.env_dtype)

    def from_env(self, env_actions: Array) -> Array:
        """See `Actions`."""
        # Converted first: a small or unsigned dtype would wrap.
        return np.asarray(env_actions, np.int64) - self.start

    def has_choice(self, mask: Flags) -> Flags:
        """See `Actions`."""
        rows = len(mask)
        legal = np.ones(rows, np.bool_)
        for columns, _, count, n in self.segments:
            choosable: Flags = np.any(mask[:, columns].reshape(rows, count, n), axis=2)
            legal &= np.all(choosable, axis=1)
        return legal


def segments_of(nvec: Array) -> list[_Segment]:
    """The components with nvec i64[C] choices, neighbours with equally many of them together."""
    segments, column, component = [], 0, 0
    for n, same in groupby(nvec.ravel().tolist()):
        count = len(list(same))
        segments.append(
            _Segment(slice(column, column + count * n), slice(component, component + count), count, n)
        )
        column, component = column + count * n, component + count
    return segments


class GaussianActions:
    """Box actions, drawn from independent Gaussians. The actor's outputs are the means.

    Bounded dimensions are squashed into their bounds by tanh on the way to the env; other dimensions are
    passed on, clipped where one side is bounded. `sample` takes one array of weights, the log standard
    deviations f32[K]. Implements `Actions`.

    Args:
        space: a Box of floats, any shape.

    Attributes:
        bounded: bool[*A], the dimensions that are squashed.
        centre: f64[*A], of their bounds.
        half_width: f64[*A], of their bounds.
        space: the Box.
    """

    maskable = False
    num_weights = 1

    def __init__(self, space: gym.spaces.Box) -> None:
        self.action_space: gym.Space[Any] = gym.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
        self.num_outputs = int(np.prod(space.shape, dtype=np.int64))
        self.space = space
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.bounded = np.isfinite(low) & np.isfinite(high) & (low < high)
        self._all_bounded = bool(self.bounded.all())
        low, high = np.where(self.bounded, low, -1.0), np.where(self.bounded, high, 1.0)  # no inf - inf
        self.centre = low / 2.0 + high / 2.0
        self.half_width = high / 2.0 - low / 2.0

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `Actions`."""
        return rng.standard_normal((rows, self.num_outputs), dtype=np.float32)

    def sample(self, outputs: Array, noise: Array, weights: Sequence[Array] = ()) -> Array:
        """See `Actions`."""
        actions: Array = (outputs + np.exp(weights[0]) * noise).reshape(len(outputs), *self.space.shape)
        return actions

    def mode(self, outputs: Array) -> Array:
        """See `Actions`."""
        return outputs.reshape(len(outputs), *self.space.shape)

    def to_env(self, actions: Array) -> Array:
        """See `Actions`."""
        wide = actions.astype(np.float64)
        squashed = self.centre + self.half_width * np.tanh(wide)
        if not self._all_bounded:
            squashed = np.where(self.bounded, squashed, wide)
        # Into the bounds after rounding to the space's dtype: an env may compare with them exactly.
        # `maximum` and `minimum` take a third of the time of `clip`, and every step waits for this.
        rounded = squashed.astype(self.space.dtype)
        env_actions: Array = np.minimum(np.maximum(rounded, self.space.low), self.space.high)
        return env_actions

    def from_env(self, env_actions: Array) -> Array:
        """See `Actions`."""
        wide = (np.asarray(env_actions, np.float64) - self.centre) / self.half_width
        below_one = np.nextafter(1.0, 0.0)  # its atanh is 18.7
        unsquashed = np.arctanh(np.clip(wide, -below_one, below_one))
        return np.where(self.bounded, unsquashed, wide).astype(np.float32)

    def has_choice(self, mask: Flags) -> Flags:
        """See `Actions`. Always true: a mask says nothing about a Box."""
        return np.ones(len(mask), np.bool_)


def leaf_actions(space: gym.Space[Any]) -> Actions:
    """The kind for a space that is not made of other spaces.

    Raises:
        ValueError: such a space is not supported.
    """
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalActions(space)
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return MultiCategoricalActions(space)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianActions(space)
    raise unsupported(space)


def unsupported(space: gym.Space[Any]) -> ValueError:
    """The error that says which action spaces there are heads for."""
    name = " ".join(str(space).split())  # NumPy breaks the bounds of large spaces into lines
    return ValueError(
        f"action space {name} is not supported: "
        "it must be Discrete, MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these"
    )
