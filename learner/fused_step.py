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
from torch import nn

from learner.forward_only import is_plain_mlp, numpy_mlp
from learner.gradient_step import (
    ADAM_EPS,
    AutogradStep,
    GradientStep,
    StepStatistics,
    trainable_parameters,
)
from learner.head_gradients import head_gradient
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo_config import PPOConfig

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_BETA1, _BETA2 = 0.9, 0.999  # Kingma and Ba 2015, as in torch.optim.Adam


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
    """The step by hand where it fits, else the one by autograd."""
    return FusedStep(policy, config) if fits(policy) else AutogradStep(policy, config)


class FlatParameters:
    """Tensors of a policy, and their gradients, moved into two arrays that share their memory.

    Args:
        parameters: f32, on the CPU; their `data` and `grad` are replaced by views.

    Attributes:
        values: f32[P], all numbers.
        gradients: f32[P].
        views, gradient_views: of each parameter, in its shape.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        size = sum(parameter.numel() for parameter in parameters)
        self.values = np.empty(size, np.float32)
        self.gradients = np.zeros(size, np.float32)
        self.views: list[Floats] = []
        self.gradient_views: list[Floats] = []
        stop = 0
        for parameter in parameters:
            start, stop = stop, stop + parameter.numel()
            view = self.values[start:stop].reshape(parameter.shape)
            view[...] = parameter.detach().numpy()
            parameter.data = torch.from_numpy(view)
            self.views.append(view)
            self.gradient_views.append(self.gradients[start:stop].reshape(parameter.shape))
            parameter.grad = torch.from_numpy(self.gradient_views[-1])

    def holds(self, parameters: list[nn.Parameter]) -> bool:
        """Whether these are the parameters, and their memory is still the one array."""
        return len(parameters) == len(self._parameters) and all(
            one is other and one.data_ptr() == view.ctypes.data
            for one, other, view in zip(parameters, self._parameters, self.views, strict=True)
        )


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
        self._adam = _Adam(self._flat.values.size)

    def _bind(self) -> None:
        """Take the policy's tensors into one array."""
        policy = self._policy
        actor, critic = trainable_parameters(policy)
        self._flat = flat = FlatParameters(actor + critic)
        self._num_actor = sum(parameter.numel() for parameter in actor)
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
            policy_loss=-float(surrogate.mean()),
            value_loss=0.5 * float(errors.mean()),
            entropy=float(entropies.mean()),
            approx_kl=float((np.expm1(log_ratio) - log_ratio).mean()),
            clip_fraction=np.count_nonzero(deviation > clip_range) / rows,
            ratio_error=float(deviation.max()),
        )

    def apply(self, actor_lr: float, critic_lr: float) -> bool:
        """See `GradientStep`."""
        gradients = self._flat.gradients
        with np.errstate(all="ignore"):  # weights are looked at when the update is over
            norm = math.sqrt(float(np.dot(gradients, gradients)))
            if not math.isfinite(norm):
                return False
            scale = self._config.max_grad_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
            if scale < 1.0:
                gradients *= np.float32(scale)
            self._adam.step(self._flat, self._num_actor, actor_lr, critic_lr)
        return True

    def state_dict(self) -> dict[str, Any]:
        """See `GradientStep`."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `GradientStep`."""
        self._adam.load_state_dict(state)


def _normalized(advantages: Floats) -> Floats:
    """See `learner.losses.normalize`."""
    if len(advantages) < 2:
        return advantages
    centred: Floats = advantages - advantages.mean()
    std = math.sqrt(float(np.dot(centred, centred)) / (len(advantages) - 1))
    centred /= np.float32(std + 1e-8)
    return centred


def _clipped_surrogate(ratio: Floats, advantages: Floats, clip_range: float) -> tuple[Floats, Floats]:
    """min(r A, clip(r) A), f32[B], and its derivative by log r."""
    surrogate = ratio * advantages
    clipped = np.clip(ratio, np.float32(1.0 - clip_range), np.float32(1.0 + clip_range)) * advantages
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


class _Adam:
    """Kingma and Ba 2015, with one step size for the first parameters and another for the rest.

    Args:
        size: P, of the parameters.
    """

    def __init__(self, size: int) -> None:
        self._steps = 0
        self._mean = np.zeros(size, np.float32)
        self._square = np.zeros(size, np.float32)
        self._scratch = np.empty(size, np.float32)

    def step(self, flat: FlatParameters, num_first: int, first_lr: float, rest_lr: float) -> None:
        """Move `flat.values` by `flat.gradients`."""
        self._steps += 1
        gradients, scratch = flat.gradients, self._scratch
        self._mean *= np.float32(_BETA1)
        self._mean += np.multiply(gradients, np.float32(1.0 - _BETA1), out=scratch)
        self._square *= np.float32(_BETA2)
        np.multiply(gradients, gradients, out=scratch)
        scratch *= np.float32(1.0 - _BETA2)
        self._square += scratch
        np.sqrt(self._square, out=scratch)
        scratch *= np.float32(1.0 / math.sqrt(1.0 - _BETA2**self._steps))
        scratch += np.float32(ADAM_EPS)
        np.divide(self._mean, scratch, out=scratch)
        unbiased = 1.0 - _BETA1**self._steps
        scratch[:num_first] *= np.float32(first_lr / unbiased)
        scratch[num_first:] *= np.float32(rest_lr / unbiased)
        flat.values -= scratch

    def state_dict(self) -> dict[str, Any]:
        """Moments and the number of steps."""
        moments = {"mean": torch.from_numpy(self._mean), "square": torch.from_numpy(self._square)}
        return {"steps": self._steps, **moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._steps = state["steps"]
        self._mean[:] = state["mean"].numpy()
        self._square[:] = state["square"].numpy()
