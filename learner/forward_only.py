"""Networks as functions without gradient: by NumPy where they are small MLPs on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.numpy_mlp import Floats, NumpyMLP


def is_plain_mlp(network: nn.Module) -> bool:
    """Whether a network is what `learner.networks.mlp` makes: float32, on the CPU."""
    if type(network) is not nn.Sequential or _has_hooks(network) or any(map(_has_hooks, network)):
        return False
    layers, between = list(network)[::2], list(network)[1::2]
    if len(layers) != len(between) + 1 or any(type(layer) is not nn.Linear for layer in layers):
        return False
    tensors = parameters_of(network)
    kinds = {type(activation) for activation in between}
    return (
        len({id(tensor) for tensor in tensors}) == 2 * len(layers)  # also without a bias there are fewer
        and all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and (kinds <= {nn.Tanh} or kinds <= {nn.ReLU})
    )


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def parameters_of(network: nn.Module) -> list[Tensor]:
    """Weight and bias of each layer; unlike in `parameters()`, shared ones count twice."""
    modules = network._modules.values()
    return [p for m in modules if m is not None for p in m._parameters.values() if p is not None]


class ForwardOnly:
    """A network as a function without gradient: by NumPy if it is an MLP on the CPU.

    Everything that needs no gradient goes this way: acting, old log-probabilities, values. The weights are
    those that the network has at each call, even if they were moved or replaced.

    Args:
        network: any module from tensors f32[B, I] to f32[B, O].
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._seen: list[int] | None = None
        self._mlp: NumpyMLP | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        mlp = self._look()
        if mlp is None:
            with torch.no_grad():
                outputs: Tensor = self._network(inputs)
            return outputs
        with np.errstate(all="ignore"):  # the caller looks at what has become of it
            outputs = torch.from_numpy(mlp.forward(inputs.numpy())[-1])
        return outputs

    def _look(self) -> NumpyMLP | None:
        """The present weights as arrays, unless they are the same as before; None if torch has to do it."""
        network = self._network
        seen = [parameter.data_ptr() for parameter in parameters_of(network)]
        seen += [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.children()]
        if seen != self._seen:
            self._seen = seen
            self._mlp = numpy_mlp(network) if is_plain_mlp(network) else None
        return self._mlp


def numpy_mlp(
    network: nn.Module, weights: Sequence[Floats] | None = None, gradients: Sequence[Floats] = ()
) -> NumpyMLP:
    """The network as it is; in-place changes of its weights are seen.

    Args:
        network: one for which `is_plain_mlp` holds.
        weights: views of its parameters in their order; None takes them from it.
        gradients: arrays of the same shapes, which `backward` fills; none if only `forward` is needed.
    """
    views = [p.detach().numpy() for p in parameters_of(network)] if weights is None else weights
    return NumpyMLP(views, gradients, activation_of(network))


def activation_of(network: nn.Module) -> str:
    """The activation of a plain MLP, by its name in `learner.networks.ACTIVATIONS`."""
    return "tanh" if any(isinstance(layer, nn.Tanh) for layer in network.children()) else "relu"
