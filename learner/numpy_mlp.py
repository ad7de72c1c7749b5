"""An MLP's forward and backward pass in NumPy, on arrays that share memory with its torch parameters.

For networks as small as PPO's usual ones, PyTorch spends most of an optimiser step on dispatching a
hundred small operations and recording them for autograd. The same arithmetic by hand takes a quarter to a
third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Floats = npt.NDArray[np.float32]


def is_plain_mlp(network: nn.Module) -> bool:
    """Whether a network is what `learner.networks.mlp` makes: float32, on the CPU."""
    if type(network) is not nn.Sequential or _has_hooks(network) or any(map(_has_hooks, network)):
        return False
    layers, between = list(network)[::2], list(network)[1::2]
    if len(layers) != len(between) + 1 or any(type(layer) is not nn.Linear for layer in layers):
        return False
    tensors = _parameters_of(network)
    kinds = {type(activation) for activation in between}
    return (
        len({id(tensor) for tensor in tensors}) == 2 * len(layers)  # also without a bias there are fewer
        and all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and (kinds <= {nn.Tanh} or kinds <= {nn.ReLU})
    )


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _parameters_of(network: nn.Module) -> list[Tensor]:
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
        seen = [parameter.data_ptr() for parameter in _parameters_of(network)]
        seen += [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.children()]
        if seen != self._seen:
            self._seen = seen
            self._mlp = NumpyMLP.of(network) if is_plain_mlp(network) else None
        return self._mlp


class NumpyMLP:
    """Linear layers with tanh or ReLU between them.

    Args:
        network: one for which `is_plain_mlp` holds.
        weights: views of its parameters, in their order: f32[outputs, inputs] and f32[outputs] of each layer.
        gradients: arrays of the same shapes, which `backward` fills; none if only `forward` is needed.
    """

    def __init__(
        self, network: nn.Module, weights: Sequence[Floats], gradients: Sequence[Floats] = ()
    ) -> None:
        self._layers = list(zip(weights[::2], weights[1::2], strict=True))
        self._gradients = list(zip(gradients[::2], gradients[1::2], strict=True))
        self._is_tanh = any(isinstance(layer, nn.Tanh) for layer in network.children())

    @classmethod
    def of(cls, network: nn.Module) -> NumpyMLP:
        """The network as it is, for `forward` alone; in-place changes of its weights are seen."""
        return cls(network, [parameter.detach().numpy() for parameter in _parameters_of(network)])

    def forward(self, inputs: Floats) -> list[Floats]:
        """The inputs f32[B, I] of each layer, and last the network's outputs f32[B, O]."""
        values = [inputs]
        last = len(self._layers) - 1
        for number, (weight, bias) in enumerate(self._layers):
            value = values[-1] @ weight.T
            value += bias
            if number < last:
                self._activate(value)
            values.append(value)
        return values

    def backward(self, values: list[Floats], gradient: Floats) -> None:
        """Fill the gradients.

        Args:
            values: what `forward` returned.
            gradient: f32[B, O], of the loss by the outputs.
        """
        for number in range(len(self._layers) - 1, -1, -1):
            of_weight, of_bias = self._gradients[number]
            np.matmul(gradient.T, values[number], out=of_weight)
            np.sum(gradient, axis=0, out=of_bias)
            if number > 0:
                gradient = gradient @ self._layers[number][0]
                self._times_slope(gradient, values[number])

    def _activate(self, value: Floats) -> None:
        if self._is_tanh:
            np.tanh(value, out=value)
        else:
            np.maximum(value, 0.0, out=value)

    def _times_slope(self, gradient: Floats, activation: Floats) -> None:
        """Multiply by the activation's derivative, which both kinds have as a function of its value."""
        if self._is_tanh:
            slope = activation * activation
            gradient *= np.subtract(1.0, slope, out=slope)
        else:
            gradient *= activation > 0.0
