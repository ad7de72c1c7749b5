"""Action heads of spaces that are not made of other spaces; `learner.composite_head` has those that are.

A head turns the actor's outputs into actions, by its acting half (`learner.actions`, which also defines
outputs, actions and env actions), and knows their log-probabilities and entropies.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.actions import Actions, CategoricalActions, GaussianActions, MultiCategoricalActions
from learner.arrays import Array, Flags
from learner.space_tensors import torch_dtype
from learner.spaces import row_field

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

    def env_modes(self, outputs: Tensor) -> list[Tensor]:
        """The most likely env actions for outputs f32[G, K], leaf by leaf [G, *A] in the leaf's dtype.

        What `to_env` makes of `mode`, as tensors and up to the rounding of tanh. Exporters trace it, so its
        operations must not depend on G.
        """


class ActingHead(nn.Module):
    """The half of an `ActionHead` that `learner.actions` does, with the weights of this module.

    Args:
        actions: does it.
    """

    def __init__(self, actions: Actions) -> None:
        super().__init__()
        self.actions = actions
        self.num_outputs = actions.num_outputs
        self.action_space = actions.action_space
        self.maskable = actions.maskable

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """See `ActionHead`."""
        return self.actions.draw_noise(rng, rows)

    def sample(self, outputs: Array, noise: Array) -> Array:
        """See `ActionHead`."""
        weights = [parameter.detach().cpu().numpy() for parameter in self.parameters()]
        return self.actions.sample(outputs, noise, weights)

    def mode(self, outputs: Array) -> Array:
        """See `ActionHead`."""
        return self.actions.mode(outputs)

    def to_env(self, actions: Array) -> Array:
        """See `ActionHead`."""
        return self.actions.to_env(actions)

    def from_env(self, env_actions: Array) -> Array:
        """See `ActionHead`."""
        return self.actions.from_env(env_actions)

    def has_choice(self, mask: Flags) -> Flags:
        """See `ActionHead`."""
        return self.actions.has_choice(mask)


class CategoricalHead(ActingHead):
    """Discrete actions. The actor's outputs are logits.

    Args:
        space: `Discrete(n, start)`.
    """

    def __init__(self, space: gym.spaces.Discrete) -> None:
        actions = CategoricalActions(space)
        super().__init__(actions)
        self._start, self._env_dtype = actions.start, actions.env_dtype

    def env_modes(self, outputs: Tensor) -> list[Tensor]:
        """See `ActionHead`."""
        return [(outputs.argmax(dim=1) + self._start).to(torch_dtype(self._env_dtype))]

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        return functional.log_softmax(outputs, dim=1).gather(1, actions.long().unsqueeze(1)).squeeze(1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `ActionHead`."""
        return _entropy(functional.log_softmax(outputs, dim=1))

    def log_det(self, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        return torch.zeros(len(actions), device=actions.device)


class MultiCategoricalHead(ActingHead):
    """Independent categoricals: MultiDiscrete actions, and MultiBinary ones as pairs of logits.

    Args:
        space: `MultiDiscrete(nvec, start)` or `MultiBinary(n)`, any shape.
    """

    def __init__(self, space: gym.spaces.MultiDiscrete | gym.spaces.MultiBinary) -> None:
        actions = MultiCategoricalActions(space)
        super().__init__(actions)
        self.nvec = actions.nvec
        self._segments = actions.segments
        self._num_components = actions.nvec.size
        self._start, self._env_dtype = actions.start, actions.env_dtype

    def env_modes(self, outputs: Tensor) -> list[Tensor]:
        """See `ActionHead`."""
        chosen = [
            outputs[:, columns].reshape(outputs.shape[0], count, n).argmax(dim=2)
            for columns, _, count, n in self._segments
        ]
        actions = torch.cat(chosen, dim=1).reshape(outputs.shape[0], *self.nvec.shape)
        start = torch.from_numpy(np.array(self._start)).to(outputs.device)
        return [(actions + start).to(torch_dtype(self._env_dtype))]

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        rows, total = len(outputs), outputs.new_zeros(len(outputs))
        chosen = actions.reshape(rows, self._num_components).long()
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


def _entropy(log_probs: Tensor) -> Tensor:
    """Of categoricals over the last dimension; log-probabilities must be finite, since 0 * inf is NaN."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


class GaussianHead(ActingHead):
    """Box actions: independent Gaussians with a learnt standard deviation that does not depend on the state.

    The actor's outputs are the means. Stored actions, `log_prob` and `entropy` are those of the Gaussian,
    before squashing (`GaussianActions`): the Jacobian of the squashing cancels in the ratio of PPO.
    `log_prob` minus `log_det` is the log-density of the env action.

    Args:
        space: a Box of floats, any shape.
        log_std_init: initial log standard deviation of every dimension.
    """

    def __init__(self, space: gym.spaces.Box, log_std_init: float = 0.0) -> None:
        actions = GaussianActions(space)
        super().__init__(actions)
        self.log_std = nn.Parameter(torch.full((self.num_outputs,), float(log_std_init)))
        self._bounded, self._centre, self._half_width = actions.bounded, actions.centre, actions.half_width
        self._space = space

    def env_modes(self, outputs: Tensor) -> list[Tensor]:
        """See `ActionHead`."""
        dtype = row_field(self._space)[1]
        low, high, centre, half_width, bounded = (
            torch.from_numpy(np.array(array)).to(outputs.device)  # of a scalar space they are no arrays
            for array in (
                *(self._space.low.astype(dtype), self._space.high.astype(dtype)),
                *(self._centre, self._half_width, self._bounded),
            )
        )
        wide = outputs.reshape(outputs.shape[0], *self._space.shape).double()
        squashed = torch.where(bounded, centre + half_width * torch.tanh(wide), wide)
        # In this order, as `GaussianActions.to_env`: rounding must not lead out of the bounds.
        return [torch.minimum(torch.maximum(squashed.to(low.dtype), low), high)]

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


def log_one_minus_tanh_squared(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), exact where 1 - tanh(u)^2 underflows: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
