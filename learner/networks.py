"""Networks and their initial weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights (W^T W = gain^2 I on the smaller side) and zero bias.

    Huang et al., "The 37 implementation details of PPO", detail 2.
    """
    # skip_init: nn.Linear's own initialisation would draw from torch's global generator.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(sizes: Sequence[int], output_gain: float, generator: torch.Generator) -> nn.Sequential:
    """Linear layers of the given sizes with tanh between them.

    Args:
        sizes: inputs, hidden sizes, outputs.
        output_gain: of the last layer; hidden layers have sqrt(2).
        generator: draws the weights.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [linear(inputs, outputs, math.sqrt(2.0), generator), nn.Tanh()]
    layers.append(linear(sizes[-2], sizes[-1], output_gain, generator))
    return nn.Sequential(*layers)


class FlatInput(nn.Module):
    """[*, *O] of any dtype -> [*, prod(O)] f32."""

    def forward(self, obs: Tensor) -> Tensor:
        return obs.flatten(start_dim=1).float()
