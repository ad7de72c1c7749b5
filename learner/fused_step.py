"""One optimiser step of the standard networks with gradients derived by hand, in NumPy.

An eager minibatch step of two 64x64 MLPs is mostly overhead. Here the losses of `learner.losses` and their
gradients are said once more, as arithmetic on a few arrays; tests compare gradients with autograd's for every
head and every branch of the losses, and weights after whole updates.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from learner.adam import FlatAdam, FlatParameters
from learner.forward_only import is_plain_mlp, numpy_mlp
from learner.gradient_step import AutogradStep, GradientStep, StepStatistics, trainable_parameters
from learner.head_gradients import head_gradient
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo_config import PPOConfig
from learner.skips import Skips

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def fits(policy: ActorCritic) -> bool:
    """Whether there is a step by hand for a policy: separate MLPs on the CPU, a head of a single space."""
    parameters = [*policy.actor.parameters(), *policy.head.parameters(), *policy.critic.parameters()]
    return (
        type(policy) is ActorCritic
        and not policy.encoder.is_trainable
        and is_plain_mlp(policy.actor)
        and is_plain_mlp(policy.critic)
        and head_gradient(policy.head, *[[np.zeros(0, np.float32)]] * 2) is not None
        and len({id(parameter) for parameter in parameters}) == len(parameters)  # actor and critic share none
        and all(p.requires_grad and p.dtype is torch.float32 for p in parameters)
    )


def fastest_step(policy: ActorCritic, config: PPOConfig) -> GradientStep:
    """The step by hand where it fits, else the one by autograd, which alone compiles and knows bfloat16."""
    by_hand = fits(policy) and not (config.compile or config.bf16)
    return FusedStep(policy, config) if by_hand else AutogradStep(policy, config)


class FusedStep:
    """Implements `GradientStep` for policies that it `fits`.

    Whoever copies a policy, moves it, or makes a second learner for it parts its tensors from the array. So
    each update begins by looking whether they still are together, and brings them together again.

    Args:
        policy: whose weights are moved; their memory is from now on one array.
        config: hyper-parameters.
    """

    def __init__(self, policy: ActorCritic, config: PPOConfig) -> None:
        self._policy = policy
        self._config = config
        self._bind()
        self._adam = FlatAdam(self._flat.values.size)

    def _bind(self) -> None:
        """Take the policy's tensors into one array."""
        policy = self._policy
        actor, critic = trainable_parameters(policy)
        self._flat = flat = FlatParameters(actor + critic)
        num_actor = sum(parameter.numel() for parameter in actor)
        self._of_actor, self._of_critic = slice(num_actor), slice(num_actor, None)
        modules = (policy.actor, policy.head, policy.critic)  # in the order of their parameters
        bounds = np.cumsum([0, *(len(list(module.parameters())) for module in modules)])
        of_actor, of_head, of_critic = (slice(*pair) for pair in itertools.pairwise(bounds))
        views, gradients = flat.views, flat.gradient_views
        self._actor = numpy_mlp(policy.actor, views[of_actor], gradients[of_actor])
        self._critic = numpy_mlp(policy.critic, views[of_critic], gradients[of_critic])
        head = head_gradient(policy.head, views[of_head], gradients[of_head])
        assert head is not None, "fits() says so"
        self._head = head

    def adapt(self, batch: Batch[torch.Tensor]) -> Batch[Array]:
        """See `GradientStep`.

        Raises:
            ValueError: the networks were replaced by others, or moved, since the step was made.
        """
        actor, critic = trainable_parameters(self._policy)
        if not self._flat.holds(actor + critic):
            size = sum(parameter.numel() for parameter in actor + critic)
            if not fits(self._policy) or size != self._flat.values.size:
                raise ValueError(
                    "the policy's networks were replaced or moved after its learner was made: make a new one"
                )
            self._bind()
        return batch.map(lambda tensor: tensor.numpy())

    def gradient(self, batch: Batch[Array], clip_range: float) -> StepStatistics:
        """See `GradientStep`."""
        with np.errstate(all="ignore"):  # `apply` looks at what has become of it
            return self._gradient(batch, clip_range)

    def _gradient(self, batch: Batch[Array], clip_range: float) -> StepStatistics:
        config = self._config
        of_actor = self._actor.forward(batch.inputs)
        of_critic = self._critic.forward(batch.inputs)
        outputs = self._policy.masks.apply_numpy(of_actor[-1], batch.masks)
        log_probs, entropies = self._head.evaluate(outputs, batch.actions)
        advantages = _normalized(batch.advantages) if config.normalize_advantage else batch.advantages
        log_ratio = log_probs - batch.log_probs
        ratio = np.exp(log_ratio)
        surrogate, of_log_probs = _clipped_surrogate(ratio, advantages, clip_range)
        errors, of_values = _squared_errors(of_critic[-1][:, 0], batch, config.clip_range_vf)
        rows = len(batch)
        of_outputs = self._head.backward(of_log_probs / np.float32(-rows), -config.ent_coef / rows)
        # That of a masked output is 0, as its probability is, and it is never the one that was chosen.
        self._actor.backward(of_actor, of_outputs)
        self._critic.backward(of_critic, of_values[:, None] * np.float32(config.vf_coef / rows))
        deviation = np.abs(ratio - np.float32(1.0))
        return StepStatistics(
            policy_loss=-_mean(surrogate),
            value_loss=0.5 * _mean(errors),
            entropy=_mean(entropies),
            approx_kl=_mean(np.expm1(log_ratio) - log_ratio),
            clip_fraction=np.count_nonzero(deviation > clip_range) / rows,
            ratio_error=float(np.maximum.reduce(deviation)),
        )

    def apply(self, actor_lr: float, critic_lr: float, skips: Skips) -> None:
        """See `GradientStep`."""
        with np.errstate(all="ignore"):  # weights are looked at when the update is over
            is_finite = self._flat.clip_gradients(self._config.max_grad_norm)
            if not skips.note(not is_finite):
                self._adam.step(self._flat, ((self._of_actor, actor_lr), (self._of_critic, critic_lr)))

    def state_dict(self) -> dict[str, Any]:
        """See `GradientStep`."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `GradientStep`."""
        self._adam.load_state_dict(state)


def _mean(numbers: Floats) -> float:
    """As `numbers.mean()`, in a quarter of the time for the size of a minibatch."""
    return float(np.add.reduce(numbers)) / len(numbers)


def _normalized(advantages: Floats) -> Floats:
    """See `learner.losses.normalize`."""
    if len(advantages) < 2:
        return advantages
    centred: Floats = advantages - np.float32(_mean(advantages))
    std = math.sqrt(float(np.dot(centred, centred)) / (len(advantages) - 1))
    centred /= np.float32(std + 1e-8)
    return centred


def _clipped_surrogate(ratio: Floats, advantages: Floats, clip_range: float) -> tuple[Floats, Floats]:
    """min(r A, clip(r) A), f32[B], and its derivative by log r."""
    surrogate = ratio * advantages
    clipped = np.minimum(np.maximum(ratio, np.float32(1.0 - clip_range)), np.float32(1.0 + clip_range))
    clipped *= advantages
    # Where the clipped one is smaller, it does not depend on r; where both are equal, r is in its range.
    # NaN is not larger than anything, and so it stays.
    slope = np.where(surrogate > clipped, np.float32(0.0), surrogate)
    return np.minimum(surrogate, clipped), slope


def _squared_errors(values: Floats, batch: Batch[Array], clip_range: float | None) -> tuple[Floats, Floats]:
    """(V - R)^2, or the larger of that and the one of the clipped value, and half its derivative by V."""
    errors = values - batch.returns
    squares = errors * errors
    if clip_range is None:
        return squares, errors
    clipped = batch.values + np.clip(values - batch.values, np.float32(-clip_range), np.float32(clip_range))
    of_clipped: Floats = np.square(clipped - batch.returns)
    # Within its range a value is not clipped, but old + (V - old) is V only up to rounding.
    is_clipped = (squares < of_clipped) & (np.abs(values - batch.values) > np.float32(clip_range))
    slope = np.where(is_clipped, np.float32(0.0), errors)
    return np.maximum(squares, of_clipped), slope
