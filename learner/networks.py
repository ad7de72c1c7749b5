"""Layers and networks with the initial weights that PPO needs."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights (W^T W = gain^2 I on the smaller side) and zero bias.

    Huang et al., "The 37 implementation details of PPO", detail 2.

    Raises:
        ValueError: its weights do not fit into memory.
    """
    try:
        # skip_init: nn.Linear's own initialisation would draw from torch's global generator.
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    except (RuntimeError, TypeError) as error:
        # A failed allocation, a size in bytes beyond int64, and one of `inputs` and `outputs` beyond it.
        if not (isinstance(error, TypeError) or re.search("alloc|overflow|out of memory", str(error))):
            raise
        raise ValueError(
            f"a layer with {inputs:,} inputs and {outputs:,} outputs does not fit into memory"
        ) from error
    _initialize(layer, gain, generator)
    return layer


def _initialize(layer: Any, gain: float, generator: torch.Generator) -> None:
    with _one_thread():
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The factorisation behind orthogonal weights has other last bits with another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mlp(
    sizes: Sequence[int], output_gain: float, generator: torch.Generator, activation: str = "tanh"
) -> nn.Sequential:
    """Linear layers of the given sizes with an activation between them.

    Args:
        sizes: inputs, hidden sizes, outputs.
        output_gain: of the last layer; that of hidden layers is sqrt(2).
        generator: draws the weights.
        activation: a name in `ACTIVATIONS`.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [linear(inputs, outputs, math.sqrt(2.0), generator), ACTIVATIONS[activation]()]
    layers.append(linear(sizes[-2], sizes[-1], output_gain, generator))
    return nn.Sequential(*layers)


class NatureCNN(nn.Module):
    """Three convolutions and a linear layer (Mnih et al. 2015, "Human-level control ...", methods).

    Images and filters lie in memory with the channels last, which is faster on a CPU and changes neither
    shapes nor results beyond rounding.

    Args:
        channels, height, width: of the images; height and width are at least `MIN_SIZE`.
        generator: draws the weights.
    """

    FEATURES = 512
    """Width of the output."""

    MIN_SIZE = 36
    """Smaller images leave nothing for the third convolution."""

    def __init__(self, channels: int, height: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        shapes = [(channels, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in shapes:
            layer = nn.utils.skip_init(nn.Conv2d, inputs, outputs, kernel, stride=stride)
            _initialize(layer, math.sqrt(2.0), generator)
            layers += [layer, nn.ReLU()]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        layers.append(nn.Flatten())
        layers += [linear(64 * height * width, self.FEATURES, math.sqrt(2.0), generator), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Features f32[S, FEATURES] of images f32[S, C, H, W]."""
        features: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return features
