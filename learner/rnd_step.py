"""One optimiser step of Random Network Distillation: its batch, the interface, and it by autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from learner.adam import ADAM_EPS, load_adam, step_unless
from learner.arrays import Ids
from learner.gradient_step import Number
from learner.losses import value_loss
from learner.rnd_networks import RNDNetworks
from learner.store import Rollout

_CHUNK = 512  # states per forward pass without gradients: bounds the memory that images take


class RNDStates:
    """The observations of a rollout on a device, each kept once.

    Those of the steps [S, *O] come first, then the final ones [E, *O].

    Args:
        rollout: S steps and E ends.
        device: of all tensors.

    Attributes:
        following: i64[S], the number of the observation after each step, before any reset.
    """

    def __init__(self, rollout: Rollout, device: torch.device) -> None:
        self._rows = torch.cat([torch.as_tensor(rollout.obs), torch.as_tensor(rollout.final_obs)]).to(device)
        following = np.arange(1, len(rollout) + 1)
        following[rollout.ends] = len(rollout) + np.arange(len(rollout.final_obs))
        self.following = torch.as_tensor(following, device=device)

    def of(self, numbers: Tensor | slice) -> Tensor:
        """The observations [B, *O] with the numbers i64[B], or of a slice of all."""
        return self._rows[numbers]

    def all(self) -> Iterator[Tensor]:
        """The numbers of all observations, in chunks."""
        yield from torch.arange(len(self._rows), device=self._rows.device).split(_CHUNK)

    def next(self) -> Iterator[Tensor]:
        """The numbers of the observations after each of the S steps, in chunks."""
        yield from self.following.split(_CHUNK)


class RNDInputs:
    """What the networks see of a rollout's observations.

    Vectors are computed once. Images, of which floats would take four times the memory, are computed anew
    each time.

    Args:
        networks: have statistics.
        states: S + E observations.

    Attributes:
        following: i64[S], the number of the observation after each step.
    """

    def __init__(self, networks: RNDNetworks, states: RNDStates) -> None:
        self.following = states.following
        self._networks = networks
        self._states = states
        self._vectors: Tensor | None = None
        if not networks.sees_images:
            self._vectors = torch.cat([networks.preprocess(states.of(numbers)) for numbers in states.all()])

    def of(self, numbers: Tensor | slice) -> Tensor:
        """The inputs f32[B, P] of the observations with the numbers i64[B], or of a slice of all."""
        if self._vectors is None:
            return self._networks.preprocess(self._states.of(numbers))
        return self._vectors[numbers]


class RNDBatch(NamedTuple):
    """What the networks learn from.

    Attributes:
        inputs: of S steps.
        targets: f32[S, K], the target's outputs for the observation after each.
        returns: f32[S], intrinsic.
    """

    inputs: RNDInputs
    targets: Tensor
    returns: Tensor


class RNDLosses(NamedTuple):
    """Of one minibatch, before its step: floats, or f64[] on the networks' device.

    Attributes:
        distillation: mean squared error of the predictor.
        critic: see `learner.losses.value_loss`.
    """

    distillation: Number
    critic: Number


class RNDStep(Protocol):
    """Gradients of both losses and Adam's step, for one set of networks."""

    def adapt(self, batch: RNDBatch) -> Any:
        """The batch in the form in which `step` takes it."""

    def step(self, batch: Any, rows: Ids) -> RNDLosses:
        """One step on the rows i64[B] of a batch; as in PPO's update, none if a gradient is not finite."""

    def state_dict(self) -> dict[str, Any]:
        """Adam's state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class AutogradRNDStep:
    """By autograd and `torch.optim.Adam`, for all observations on any device. Implements `RNDStep`.

    Args:
        networks: predictor and critic are moved.
        lr: Adam's step size.
        max_grad_norm: bound on the gradient's norm over predictor and critic together.
    """

    def __init__(self, networks: RNDNetworks, lr: float, max_grad_norm: float) -> None:
        self._networks = networks
        self._max_grad_norm = max_grad_norm
        self._parameters = [p for p in networks.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=lr, eps=ADAM_EPS, fused=True)

    def adapt(self, batch: RNDBatch) -> RNDBatch:
        """See `RNDStep`."""
        return batch

    def step(self, batch: RNDBatch, rows: Ids) -> RNDLosses:
        """See `RNDStep`."""
        numbers = torch.as_tensor(rows, device=batch.returns.device)
        with torch.enable_grad():  # an env in this process may have switched it off
            predicted = self._networks.predictor(batch.inputs.of(batch.inputs.following[numbers]))
            distillation = (predicted - batch.targets[numbers]).square().mean()
            values = self._networks.critic(batch.inputs.of(numbers)).squeeze(1)
            critic_loss = value_loss(values, batch.returns[numbers])
            self._optimizer.zero_grad()
            (distillation + critic_loss).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        step_unless(~torch.isfinite(norm), self._optimizer)
        return RNDLosses(*torch.stack([distillation.detach(), critic_loss.detach()]).double())

    def state_dict(self) -> dict[str, Any]:
        """See `RNDStep`."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `RNDStep`."""
        load_adam(self._optimizer, state)
