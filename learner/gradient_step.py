"""One optimiser step of PPO on a minibatch: the interface, and the implementation by autograd."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from learner.adam import ADAM_EPS, load_adam, step_unless
from learner.losses import approx_kl, clip_fraction, normalize, policy_loss, value_loss
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo_config import PPOConfig
from learner.settings import ConfigError
from learner.skips import Skips

Number = float | Tensor
_Loss = Callable[[tuple[Tensor, ...], float], tuple[Tensor, Tensor]]


class StepStatistics(NamedTuple):
    """Of one minibatch, with the weights before its step: floats, or f64[] on the policy's device.

    Attributes:
        policy_loss, value_loss: see `learner.losses`.
        entropy: mean over the minibatch.
        approx_kl, clip_fraction: see `learner.losses`.
        ratio_error: the largest |ratio - 1|.
    """

    policy_loss: Number
    value_loss: Number
    entropy: Number
    approx_kl: Number
    clip_fraction: Number
    ratio_error: Number


class GradientStep(Protocol):
    """Gradient of the loss and Adam's step, for the weights of one policy."""

    def adapt(self, batch: Batch[torch.Tensor]) -> Batch[Any]:
        """The batch in the form of which `gradient` takes minibatches."""

    def gradient(self, batch: Batch[Any], clip_range: float) -> StepStatistics:
        """Compute the loss's gradient on a minibatch."""

    def apply(self, actor_lr: float, critic_lr: float, skips: Skips) -> None:
        """Clip the gradient and step.

        Args:
            actor_lr, critic_lr: Adam's step sizes.
            skips: is told whether the gradient is finite, and decides whether there is a step; if there is
                none, nothing changes.
        """

    def state_dict(self) -> dict[str, Any]:
        """Adam's state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class AutogradStep:
    """By autograd and `torch.optim.Adam`, for any policy on any device. Implements `GradientStep`.

    Args:
        policy: whose weights are moved.
        config: hyper-parameters.

    Raises:
        ConfigError: `compile` or `bf16` is not possible on the policy's device.
    """

    def __init__(self, policy: ActorCritic, config: PPOConfig) -> None:
        _check_options(config, policy.device)
        self._policy = policy
        self._config = config
        actor, critic = trainable_parameters(policy)
        self._parameters = actor + critic
        groups = [{"params": actor, "lr": config.actor_lr}, {"params": critic, "lr": config.critic_lr}]
        self._optimizer = torch.optim.Adam(groups, eps=ADAM_EPS, fused=True)
        # One program for all sizes: with whole episodes, each update ends with a minibatch of another size.
        self._loss: _Loss = (
            torch.compile(self._eager_loss, dynamic=True) if config.compile else self._eager_loss
        )

    def adapt(self, batch: Batch[torch.Tensor]) -> Batch[torch.Tensor]:
        """See `GradientStep`."""
        return batch

    def gradient(self, batch: Batch[torch.Tensor], clip_range: float) -> StepStatistics:
        """See `GradientStep`."""
        with torch.enable_grad():  # an env in this process may have switched it off
            columns = (
                batch.inputs,
                batch.masks,
                batch.actions,
                batch.log_probs,
                batch.values,
                batch.advantages,
                batch.returns,
            )
            loss, found = self._loss(columns, clip_range)
            self._optimizer.zero_grad()
            loss.backward()
            return StepStatistics(*found)

    def _eager_loss(self, columns: tuple[Tensor, ...], clip_range: float) -> tuple[Tensor, Tensor]:
        """The loss f32[], and the statistics f64[6], of a minibatch's columns; see `Batch`."""
        inputs, masks, actions, old_log_probs, old_values, advantages, returns = columns
        config, head = self._config, self._policy.head
        with self._precision(inputs.device.type):
            outputs, values = self._policy.outputs_and_values(inputs, masks)
        outputs, values = outputs.float(), values.float()
        log_ratio = head.log_prob(outputs, actions) - old_log_probs
        entropy = head.entropy(outputs).mean()
        advantages = normalize(advantages) if config.normalize_advantage else advantages
        actor_loss = policy_loss(log_ratio, advantages, clip_range)
        critic_loss = value_loss(values, returns, old_values, config.clip_range_vf)
        with torch.no_grad():
            # Left on the device: to read a number here would mean waiting for a GPU in each minibatch.
            found = [
                actor_loss,
                critic_loss,
                entropy,
                approx_kl(log_ratio),
                clip_fraction(log_ratio, clip_range),
                (log_ratio.exp() - 1.0).abs().max(),
            ]
            statistics = torch.stack(found).double()
        return actor_loss + config.vf_coef * critic_loss - config.ent_coef * entropy, statistics

    def _precision(self, device: str) -> contextlib.AbstractContextManager[object]:
        """Of the networks; losses and weights are float32 in any case."""
        if not self._config.bf16:
            return contextlib.nullcontext()
        # Each weight is used once per minibatch, so there is nothing to remember its bfloat16 copy for.
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)

    def apply(self, actor_lr: float, critic_lr: float, skips: Skips) -> None:
        """See `GradientStep`."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        actor, critic = self._optimizer.param_groups
        actor["lr"], critic["lr"] = actor_lr, critic_lr
        step_unless(skips.note(~torch.isfinite(norm)), self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """See `GradientStep`."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `GradientStep`."""
        load_adam(self._optimizer, state)


def _check_options(config: PPOConfig, device: torch.device) -> None:
    """Refuse what PyTorch would refuse only in the middle of the first update, or compute slowly."""
    if config.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("bf16 needs a GPU that computes with bfloat16, and this one does not")
    if not config.compile:
        return
    compiler = os.environ.get(
        "CXX", "clang++" if sys.platform == "darwin" else "g++"
    )  # as PyTorch looks for it
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(f"compile on the CPU needs a C++ compiler, and there is no {compiler}")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("compile on a GPU needs the package triton, which is not installed")


def trainable_parameters(policy: ActorCritic) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What moves with the actor's step size (a shared encoder included), and what with the critic's."""
    shared = [parameter for parameter in policy.encoder.parameters() if parameter.requires_grad]
    return [*shared, *policy.actor.parameters(), *policy.head.parameters()], list(policy.critic.parameters())
