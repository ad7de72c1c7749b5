"""The networks of Random Network Distillation and their inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from learner.encoders import CompositeEncoder, Encoder, make_encoder
from learner.forward_only import ForwardOnly
from learner.images import channel_count_and_sides, channels_first, is_image
from learner.networks import NatureCNN, mlp
from learner.normalize import ObservationNormalizer
from learner.spaces import is_composite

_VECTOR_WIDTH = 64  # of the target's output if there are no hidden sizes
_SEED_KEY = 0x524E44  # "RND": the policy draws its weights with the bare seed


class RNDNetworks(nn.Module):
    """The encoder of observations with its statistics, the target, its predictor, and the critic.

    Args:
        space: of the observations.
        hidden_sizes: of all three networks; those of images have none. The predictor has two layers more than
            the target, as in the authors' code.
        seed: of all weights.
    """

    def __init__(self, space: gym.Space[Any], hidden_sizes: Sequence[int], seed: int) -> None:
        super().__init__()
        own_seed = int(np.random.SeedSequence([seed, _SEED_KEY]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(own_seed)
        self.encoder = flat_encoder(space)
        hidden = tuple(hidden_sizes) if self.encoder.needs_hidden_layers else ()
        width = hidden[-1] if hidden else _VECTOR_WIDTH
        if self.sees_images:
            width = NatureCNN.FEATURES
        gain = math.sqrt(2.0)
        self.target = RNDNetwork(self.encoder, [*hidden, width], gain, generator).requires_grad_(False)
        self.predictor = RNDNetwork(self.encoder, [*hidden, width, width, width], gain, generator)
        self.critic = RNDNetwork(self.encoder, [*hidden, 1], 1.0, generator)

    @property
    def has_statistics(self) -> bool:
        """Whether every normaliser has counted observations; true if there is no normaliser."""
        normalizers = [part for part in self.encoder.modules() if isinstance(part, ObservationNormalizer)]
        return all(float(normalizer.count) > 0.0 for normalizer in normalizers)

    @property
    def sees_images(self) -> bool:
        """Whether there is an image in an observation."""
        return any(isinstance(part, PixelEncoder) for part in self.encoder.modules())

    def preprocess(self, rows: Tensor) -> Tensor:
        """The networks' inputs f32[S, P] for rows [S, *O]."""
        return self.encoder.preprocess(rows)

    def update_statistics(self, chunks: Iterable[Tensor]) -> None:
        """Count rows [S, *O], chunk after chunk, in the statistics."""
        for rows in chunks:
            self.encoder.update_statistics(rows)


class RNDNetwork(nn.Module):
    """Linear layers behind the vector of an observation; the images in it go through a NatureCNN first.

    Args:
        encoder: produces the vectors.
        sizes: of the linear layers: hidden sizes and outputs.
        output_gain: of the last layer.
        generator: draws the weights.
    """

    def __init__(
        self, encoder: Encoder, sizes: Sequence[int], output_gain: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        leaves = list(encoder.parts) if isinstance(encoder, CompositeEncoder) else [encoder]
        parts = [part for part in leaves if isinstance(part, Encoder)]
        self._widths = [part.features for part in parts]
        self.stems = nn.ModuleList(
            _image_stem(part.image_shape, generator) if isinstance(part, PixelEncoder) else nn.Identity()
            for part in parts
        )
        features = sum(part.features if part.needs_hidden_layers else NatureCNN.FEATURES for part in parts)
        self.layers = mlp([features, *sizes], output_gain, generator, "relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """F32[S, outputs] for vectors f32[S, P]."""
        outputs: Tensor = self.layers(self._features(inputs))
        return outputs

    def without_grad(self) -> Callable[[Tensor], Tensor]:
        """`forward` of the present layers as a function without gradient; see `ForwardOnly`."""
        layers = ForwardOnly(self.layers)

        def forward(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return layers(self._features(inputs))

        return forward

    def _features(self, inputs: Tensor) -> Tensor:
        """What the layers see, f32[S, F]."""
        pieces = inputs.split(self._widths, dim=1)
        features = [stem(piece) for stem, piece in zip(self.stems, pieces, strict=True)]
        return torch.cat(features, dim=1)


def _image_stem(shape: tuple[int, int, int], generator: torch.Generator) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, shape), NatureCNN(*shape, generator))


def flat_encoder(space: gym.Space[Any]) -> Encoder:
    """Any observation as one vector of normalised numbers and one-hot choices; it has no weights.

    Raises:
        ValueError: the space is not supported.
    """
    if is_composite(space):
        return CompositeEncoder(space, flat_encoder)
    if isinstance(space, gym.spaces.Box) and is_image(space):
        return PixelEncoder(space)
    return make_encoder(space, torch.Generator(), _normalizer)


class PixelEncoder(Encoder):
    """Images as vectors of pixels, each by its own running mean and standard deviation.

    Args:
        space: a Box for which `learner.images.is_image` holds.

    Attributes:
        image_shape: (C, H, W), the order in which the pixels lie.
    """

    needs_hidden_layers = False

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self._to_channels = channels_first(space.shape)
        self.image_shape = channel_count_and_sides(space.shape)
        self.features = math.prod(self.image_shape)
        self.normalizer = _normalizer((self.features,))

    def preprocess(self, rows: Tensor) -> Tensor:
        """F32[S, C * H * W] for images [S, ...]."""
        pixels: Tensor = self.normalizer(self._to_channels(rows).flatten(start_dim=1))
        return pixels

    def update_statistics(self, rows: Tensor) -> None:
        """See `Encoder`."""
        self.normalizer.update(self._to_channels(rows).flatten(start_dim=1))


def _normalizer(shape: tuple[int, ...]) -> ObservationNormalizer:
    return ObservationNormalizer(shape, clip=5.0)  # section 2.4
