"""Action distributions: one head per kind of action space.

A head turns the actor's outputs into actions. Three forms of an action are told apart:

* *outputs* [G, K]: what the actor network computes (logits, or means),
* *action* [G, *A]: what was drawn; this is what is stored and what has a log-probability,
* *env action* [G, *A]: what the env gets (shifted, squashed into its bounds).

Noise is drawn by the caller for all rows of a group and indexed, so that the noise of one env does not depend
on which others are still playing.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

Array = npt.NDArray[Any]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class ActionHead(Protocol):
    """What a policy needs to know about an action space."""

    num_outputs: int
    """K, the width of the actor's last layer."""
    action_space: gym.Space[Any]
    """Of actions, as they are drawn and stored; env actions have the env's own space."""

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """The noise of `rows` rows: f32[rows, K]."""

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


class CategoricalHead(nn.Module):
    """Discrete actions. The actor's outputs are logits.

    Args:
        space: `Discrete(n, start)`.
    """

    def __init__(self, space: gym.spaces.Discrete) -> None:
        super().__init__()
        self.num_outputs = int(space.n)
        self.action_space = gym.spaces.Discrete(space.n)
        self._start = int(space.start)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        return rng.gumbel(size=(rows, self.num_outputs)).astype(np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """argmax(logits + Gumbel noise) is distributed as softmax(logits) (Gumbel 1954)."""
        actions: Array = np.argmax(outputs + noise, axis=1)
        return actions

    def mode(self, outputs: Array) -> Array:
        actions: Array = np.argmax(outputs, axis=1)
        return actions

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        return functional.log_softmax(outputs, dim=1).gather(1, actions.long().unsqueeze(1)).squeeze(1)

    def entropy(self, outputs: Tensor) -> Tensor:
        log_probs = functional.log_softmax(outputs, dim=1)
        return -(log_probs.exp() * log_probs).sum(dim=1)

    def log_det(self, actions: Tensor) -> Tensor:
        return torch.zeros(len(actions), device=actions.device)

    def to_env(self, actions: Array) -> Array:
        return actions + self._start

    def from_env(self, env_actions: Array) -> Array:
        return np.asarray(env_actions, np.int64) - self._start


class GaussianHead(nn.Module):
    """Box actions: independent Gaussians with a learnt standard deviation that does not depend on the state.

    The actor's outputs are the means. Bounded dimensions are squashed into their bounds by tanh on the way to
    the env; other dimensions are passed on, clipped where one side is bounded. What is stored, and what
    `log_prob` and `entropy` speak of, is the unsquashed action: the Jacobian of the squashing cancels in
    PPO's ratio. `env_log_prob` gives the density of the env action itself.

    Args:
        space: a Box of floats, any shape.
    """

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self._space = space
        self.action_space = gym.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
        self.num_outputs = int(np.prod(space.shape, dtype=np.int64))
        self.log_std = nn.Parameter(torch.zeros(self.num_outputs))
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._bounded = np.isfinite(low) & np.isfinite(high) & (low < high)
        low, high = np.where(self._bounded, low, -1.0), np.where(self._bounded, high, 1.0)  # no inf - inf
        self._centre = low / 2.0 + high / 2.0
        self._half_width = high / 2.0 - low / 2.0

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        return rng.standard_normal((rows, self.num_outputs), dtype=np.float32)

    def sample(self, outputs: Array, noise: Array) -> Array:
        std = np.exp(self.log_std.detach().cpu().numpy())
        actions: Array = (outputs + std * noise).reshape(-1, *self._space.shape)
        return actions

    def mode(self, outputs: Array) -> Array:
        return outputs.reshape(-1, *self._space.shape)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        z = (actions.flatten(start_dim=1) - outputs) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - _LOG_SQRT_2PI).sum(dim=1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Of the unsquashed Gaussian; the same for every state."""
        return (self.log_std + 0.5 + _LOG_SQRT_2PI).sum().expand(len(outputs))

    def log_det(self, actions: Tensor) -> Tensor:
        """Log |d env action / d action|, [S], for actions [S, *A]."""
        log_slope = log_one_minus_tanh_squared(actions) + torch.as_tensor(np.log(self._half_width)).to(
            actions
        )
        bounded = torch.as_tensor(self._bounded, device=actions.device)
        return torch.where(bounded, log_slope, torch.zeros_like(actions)).flatten(start_dim=1).sum(dim=1)

    def env_log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-density of the env action that belongs to `actions`, [S] (change of variables)."""
        return self.log_prob(outputs, actions) - self.log_det(actions)

    def to_env(self, actions: Array) -> Array:
        wide = actions.astype(np.float64)
        squashed = np.where(self._bounded, self._centre + self._half_width * np.tanh(wide), wide)
        # Clip after rounding to the space's dtype: an env may compare with its bounds exactly.
        return np.clip(squashed.astype(self._space.dtype), self._space.low, self._space.high)

    def from_env(self, env_actions: Array) -> Array:
        wide = (np.asarray(env_actions, np.float64) - self._centre) / self._half_width
        below_one = np.nextafter(1.0, 0.0)  # its atanh is 18.7
        unsquashed = np.arctanh(np.clip(wide, -below_one, below_one))
        return np.where(self._bounded, unsquashed, wide).astype(np.float32)


def log_one_minus_tanh_squared(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), exact where 1 - tanh(u)^2 underflows: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))


def action_head(space: gym.Space[Any]) -> CategoricalHead | GaussianHead:
    """The head for an action space.

    Raises:
        ValueError: no head for such a space.
    """
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalHead(space)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianHead(space)
    raise ValueError(f"action space {space} is not supported: it must be Discrete or a Box of floats")
