"""Action heads of spaces that are not made of other spaces; `learner.composite_head` has those that are.

A head turns the actor's outputs into actions. There are three forms of an action:

* *outputs* [G, K]: what the actor network computes (logits, or means),
* *action* [G, *A]: what was drawn; it is stored, and it has a log-probability,
* *env action* [G, *A]: what the env receives (shifted, squashed into its bounds).

The caller draws noise for all rows of a group and indexes it, so that the noise of one env does not depend on
which others are still playing.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.arrays import Array, Flags

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class ActionHead(Protocol):
    """What a policy needs to know about an action space."""

    num_outputs: int
    """K, the width of the actor's last layer."""
    action_space: gym.Space[Any]
    """Of actions, as they are drawn and stored; env actions are in the env's space."""
    maskable: bool
    """Whether every output is the logit of a choice, so that a mask can rule it out; a Box has none.

    `sample`, `mode`, `log_prob` and `entropy` then get outputs that are masked already, by
    `learner.masks.mask_outputs`: what is ruled out has the logit -1e8. Its probability is exactly 0, and
    unlike -inf it makes no NaN of 0 * log(0) in an entropy. `has_choice` alone sees the mask itself.
    """

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """Noise f32[rows, K] for `sample`."""

    def sample(self, outputs: Array, noise: Array) -> Array:
        """Actions [G, *A] for outputs f32[G, K] and noise f32[G, K]; a pure function."""

    def mode(self, outputs: Array) -> Array:
        """The most likely actions [G, *A] for outputs f32[G, K]."""

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log pi(action), f32[S], for outputs [S, K] and actions [S, *A]."""

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy of the distribution of actions, f32[S]."""

    def log_det(self, actions: Tensor) -> Tensor:
        """Log |d env action / d action|, f32[S], for actions [S, *A]; 0 for discrete actions."""

    def to_env(self, actions: Array) -> Array:
        """Env actions for actions, in the dtype of the space and inside its bounds."""

    def from_env(self, env_actions: Array) -> Array:
        """The inverse of `to_env`, as well as floating point allows."""

    def has_choice(self, mask: Flags) -> Flags:
        """Whether every component of a row has a legal choice left, bool[G], for a mask bool[G, K]."""


class CategoricalHead(nn.Module):
    """Discrete actions. The actor's outputs are logits.

    Args:
        space: `Discrete(n, start)`.
    """

    maskable = True

    def __init__(self, space: gym.spaces.Discrete) -> None:
        super().__init__()
        self.num_outputs = int(space.n)
        self.action_space = gym.spaces.Discrete(space.n)
        self._start = int(space.start)
        self._env_dtype = space.dtype or np.dtype(np.int64)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `ActionHead`."""
        return rng.gumbel(size=(rows, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """See `ActionHead`. argmax(logits + Gumbel noise) is distributed as softmax(logits) (Gumbel 1954)."""
        actions: Array = np.argmax(outputs + noise, axis=1)
        return actions

    def mode(self, outputs: Array) -> Array:
        """See `ActionHead`."""
        actions: Array = np.argmax(outputs, axis=1)
        return actions

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        return functional.log_softmax(outputs, dim=1).gather(1, actions.long().unsqueeze(1)).squeeze(1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `ActionHead`."""
        return _entropy(functional.log_softmax(outputs, dim=1))

    def log_det(self, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        return torch.zeros(len(actions), device=actions.device)

    def to_env(self, actions: Array) -> Array:
        """See `ActionHead`."""
        return (actions + self._start).astype(self._env_dtype)

    def from_env(self, env_actions: Array) -> Array:
        """See `ActionHead`."""
        return np.asarray(env_actions, np.int64) - self._start

    def has_choice(self, mask: Flags) -> Flags:
        """See `ActionHead`."""
        legal: Flags = np.any(mask, axis=1)
        return legal


class _Segment(NamedTuple):
    """Neighbouring components with the same number n of choices, computed as one array [rows, count, n]."""

    columns: slice
    """Of the outputs."""
    components: slice
    num_components: int
    n: int


class MultiCategoricalHead(nn.Module):
    """Independent categoricals: MultiDiscrete actions, and MultiBinary ones as pairs of logits.

    The actor's outputs are the logits of all components, one after another: K = sum(nvec), or 2 * size.
    Actions are i64[G, *shape] and count from 0.

    Args:
        space: `MultiDiscrete(nvec, start)` or `MultiBinary(n)`, any shape.
    """

    maskable = True

    def __init__(self, space: gym.spaces.MultiDiscrete | gym.spaces.MultiBinary) -> None:
        super().__init__()
        nvec: Array = np.full(space.shape, 2)
        start: Array = np.zeros(space.shape, np.int64)
        if isinstance(space, gym.spaces.MultiDiscrete):
            nvec = space.nvec
            start = space.start.astype(np.int64)  # int64 + uint64 would be float64
        self.num_outputs = int(nvec.sum())
        self.action_space = gym.spaces.MultiDiscrete(nvec, dtype=np.int64)
        self._start = start
        self._shape = nvec.shape
        self._env_dtype = space.dtype
        self._segments = segments_of(nvec)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `ActionHead`."""
        return rng.gumbel(size=(rows, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """See `ActionHead`. The argmax of logits + Gumbel noise of each component."""
        return self.mode(outputs + noise)

    def mode(self, outputs: Array) -> Array:
        """See `ActionHead`."""
        rows = len(outputs)
        actions = np.empty((rows, math.prod(self._shape)), np.int64)
        for columns, components, count, n in self._segments:
            actions[:, components] = outputs[:, columns].reshape(rows, count, n).argmax(axis=2)
        return actions.reshape(rows, *self._shape)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        rows, total = len(outputs), outputs.new_zeros(len(outputs))
        chosen = actions.reshape(rows, math.prod(self._shape)).long()
        for columns, components, count, n in self._segments:
            log_probs = functional.log_softmax(outputs[:, columns].reshape(rows, count, n), dim=2)
            total = total + log_probs.gather(2, chosen[:, components].unsqueeze(2)).sum(dim=(1, 2))
        return total

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `ActionHead`."""
        rows, total = len(outputs), outputs.new_zeros(len(outputs))
        for columns, _, count, n in self._segments:
            log_probs = functional.log_softmax(outputs[:, columns].reshape(rows, count, n), dim=2)
            total = total + _entropy(log_probs).sum(dim=1)
        return total

    def log_det(self, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        return torch.zeros(len(actions), device=actions.device)

    def to_env(self, actions: Array) -> Array:
        """See `ActionHead`."""
        return (actions + self._start).astype(self._env_dtype)

    def from_env(self, env_actions: Array) -> Array:
        """See `ActionHead`."""
        # Converted first: a small or unsigned dtype would wrap.
        return np.asarray(env_actions, np.int64) - self._start

    def has_choice(self, mask: Flags) -> Flags:
        """See `ActionHead`."""
        rows = len(mask)
        legal = np.ones(rows, np.bool_)
        for columns, _, count, n in self._segments:
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


def _entropy(log_probs: Tensor) -> Tensor:
    """Of categoricals over the last dimension; log-probabilities must be finite, since 0 * inf is NaN."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


class GaussianHead(nn.Module):
    """Box actions: independent Gaussians with a learnt standard deviation that does not depend on the state.

    The actor's outputs are the means. Bounded dimensions are squashed into their bounds by tanh on the way to
    the env; other dimensions are passed on, clipped where one side is bounded. Stored actions, `log_prob` and
    `entropy` are those of the unsquashed Gaussian: the Jacobian of the squashing cancels in PPO's ratio.
    `log_prob` minus `log_det` is the log-density of the env action.

    Args:
        space: a Box of floats, any shape.
        log_std_init: initial log standard deviation of every dimension.
    """

    maskable = False

    def __init__(self, space: gym.spaces.Box, log_std_init: float = 0.0) -> None:
        super().__init__()
        self._space = space
        self.action_space = gym.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
        self.num_outputs = int(np.prod(space.shape, dtype=np.int64))
        self.log_std = nn.Parameter(torch.full((self.num_outputs,), float(log_std_init)))
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._bounded = np.isfinite(low) & np.isfinite(high) & (low < high)
        low, high = np.where(self._bounded, low, -1.0), np.where(self._bounded, high, 1.0)  # no inf - inf
        self._centre = low / 2.0 + high / 2.0
        self._half_width = high / 2.0 - low / 2.0

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `ActionHead`."""
        return rng.standard_normal((rows, self.num_outputs), dtype=np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """See `ActionHead`."""
        std = np.exp(self.log_std.detach().cpu().numpy())
        actions: Array = (outputs + std * noise).reshape(len(outputs), *self._space.shape)
        return actions

    def mode(self, outputs: Array) -> Array:
        """See `ActionHead`."""
        return outputs.reshape(len(outputs), *self._space.shape)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        z = (actions.reshape(outputs.shape) - outputs) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - _LOG_SQRT_2PI).sum(dim=1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `ActionHead`. Of the unsquashed Gaussian: the same for every state."""
        return (self.log_std + 0.5 + _LOG_SQRT_2PI).sum().expand(len(outputs))

    def log_det(self, actions: Tensor) -> Tensor:
        """See `ActionHead`; only squashed dimensions contribute."""
        log_half_width = torch.as_tensor(np.log(self._half_width)).to(actions)
        log_slope = log_one_minus_tanh_squared(actions) + log_half_width
        bounded = torch.as_tensor(self._bounded, device=actions.device)
        log_slope = torch.where(bounded, log_slope, torch.zeros_like(actions))
        return log_slope.reshape(len(actions), self.num_outputs).sum(dim=1)

    def to_env(self, actions: Array) -> Array:
        """See `ActionHead`."""
        wide = actions.astype(np.float64)
        squashed = np.where(self._bounded, self._centre + self._half_width * np.tanh(wide), wide)
        # Clip after rounding to the space's dtype: an env may compare with its bounds exactly.
        return np.clip(squashed.astype(self._space.dtype), self._space.low, self._space.high)

    def from_env(self, env_actions: Array) -> Array:
        """See `ActionHead`."""
        wide = (np.asarray(env_actions, np.float64) - self._centre) / self._half_width
        below_one = np.nextafter(1.0, 0.0)  # its atanh is 18.7
        unsquashed = np.arctanh(np.clip(wide, -below_one, below_one))
        return np.where(self._bounded, unsquashed, wide).astype(np.float32)

    def has_choice(self, mask: Flags) -> Flags:
        """See `ActionHead`. Always true: a mask says nothing about a Box."""
        return np.ones(len(mask), np.bool_)


def log_one_minus_tanh_squared(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), exact where 1 - tanh(u)^2 underflows: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
