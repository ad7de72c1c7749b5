"""One optimiser step of Random Network Distillation with gradients derived by hand, in NumPy.

As in `learner.fused_step`, for the same reasons.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from learner.adam import FlatAdam, FlatParameters
from learner.arrays import Ids
from learner.forward_only import is_plain_mlp, numpy_mlp
from learner.rnd_networks import RNDNetworks
from learner.rnd_step import AutogradRNDStep, RNDBatch, RNDLosses, RNDStep

Floats = npt.NDArray[np.float32]


class RNDColumns(NamedTuple):
    """An `RNDBatch` of vectors in arrays.

    Attributes:
        inputs: f32[S + E, P], of all observations.
        following: i64[S], the number of the observation after each step.
        targets: f32[S, K].
        returns: f32[S, 1].
    """

    inputs: Floats
    following: Ids
    targets: Floats
    returns: Floats


def fits(networks: RNDNetworks) -> bool:
    """Whether there is a step by hand for these networks: MLPs on the CPU, of vectors."""
    parameters = _parameters_of(networks)
    return (
        type(networks) is RNDNetworks
        and not networks.sees_images
        and all(is_plain_mlp(network.layers) for network in (networks.predictor, networks.critic))
        and len({id(parameter) for parameter in parameters}) == len(parameters)  # the two share none
        and all(parameter.requires_grad for parameter in parameters)
    )


def fastest_rnd_step(networks: RNDNetworks, lr: float, max_grad_norm: float) -> RNDStep:
    """The step by hand where it fits, else the one by autograd."""
    return (FusedRNDStep if fits(networks) else AutogradRNDStep)(networks, lr, max_grad_norm)


def _parameters_of(networks: RNDNetworks) -> list[nn.Parameter]:
    return [*networks.predictor.layers.parameters(), *networks.critic.layers.parameters()]


class FusedRNDStep:
    """Implements `RNDStep` for networks that it `fits`.

    Each update begins by looking whether the tensors of the networks still lie in the one array; see
    `learner.fused_step.FusedStep`.

    Args:
        networks: predictor and critic are moved; their memory is from now on one array.
        lr: Adam's step size.
        max_grad_norm: bound on the gradient's norm over predictor and critic together.
    """

    def __init__(self, networks: RNDNetworks, lr: float, max_grad_norm: float) -> None:
        self._networks = networks
        self._lr = lr
        self._max_grad_norm = max_grad_norm
        self._bind()
        self._adam = FlatAdam(self._flat.values.size)

    def _bind(self) -> None:
        """Take the networks' tensors into one array."""
        predictor, critic = self._networks.predictor.layers, self._networks.critic.layers
        self._flat = flat = FlatParameters(_parameters_of(self._networks))
        count = len(list(predictor.parameters()))
        self._predictor = numpy_mlp(predictor, flat.views[:count], flat.gradient_views[:count])
        self._critic = numpy_mlp(critic, flat.views[count:], flat.gradient_views[count:])

    def adapt(self, batch: RNDBatch) -> RNDColumns:
        """See `RNDStep`.

        Raises:
            ValueError: the networks were replaced by others, or moved, since the step was made.
        """
        parameters = _parameters_of(self._networks)
        if not self._flat.holds(parameters):
            size = sum(parameter.numel() for parameter in parameters)
            if not fits(self._networks) or size != self._flat.values.size:
                raise ValueError(
                    "the networks of RND were replaced or moved after its learner was made: make a new one"
                )
            self._bind()
        inputs = batch.inputs
        tensors = (inputs.of(slice(None)), inputs.following, batch.targets, batch.returns[:, None])
        return RNDColumns(*(tensor.numpy() for tensor in tensors))

    def step(self, batch: RNDColumns, rows: Ids) -> RNDLosses:
        """See `RNDStep`."""
        with np.errstate(all="ignore"):  # the norm tells what has become of the gradient
            of_predictor = self._predictor.forward(batch.inputs.take(batch.following[rows], axis=0))
            of_critic = self._critic.forward(batch.inputs.take(rows, axis=0))
            errors = of_predictor[-1] - batch.targets.take(rows, axis=0)
            value_errors = of_critic[-1] - batch.returns[rows]
            losses = RNDLosses(_mean_square(errors), 0.5 * _mean_square(value_errors))
            errors *= np.float32(2.0 / errors.size)
            value_errors /= np.float32(len(rows))
            self._predictor.backward(of_predictor, errors)
            self._critic.backward(of_critic, value_errors)
            if self._flat.clip_gradients(self._max_grad_norm):
                self._adam.step(self._flat, ((slice(None), self._lr),))
        return losses

    def state_dict(self) -> dict[str, Any]:
        """See `RNDStep`."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `RNDStep`."""
        self._adam.load_state_dict(state)


def _mean_square(errors: Floats) -> float:
    flat = errors.ravel()
    return float(np.dot(flat, flat)) / flat.size
