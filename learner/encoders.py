"""From rows of observations to the features that actor and critic see: one encoder per kind of space.

An encoder has two stages: `preprocess` has no weights (one-hot, normalising) and is computed once per batch;
`forward` has weights and is computed in every minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from learner.arrays import Array
from learner.images import channel_count_and_sides, channels_first, is_image
from learner.inputs import CompositeInputs, Inputs, OneHotInputs, VectorInputs
from learner.networks import NatureCNN
from learner.normalize import ObservationNormalizer
from learner.space_tensors import assemble, read_tensor, unpack
from learner.spaces import Leaf, check_choices, is_composite, leaves, observed_leaves, row_field

Normalizer = Callable[[tuple[int, ...]], ObservationNormalizer]

_CHOICES = "one-hot observations (a custom encoder, --encoder without --rnd, can read others)"


class Encoder(nn.Module):
    """Turns rows of observations into features. The base class returns the rows themselves.

    Attributes:
        features: F.
        is_trainable: whether `forward` has weights; actor and critic share them.
        needs_hidden_layers: whether actor and critic put hidden layers behind the features; false for images.
        in_numpy: `preprocess` for acting without torch, bit for bit; None where only tensors will do.
    """

    features: int
    in_numpy: Inputs | None = None
    is_trainable = False
    needs_hidden_layers = True

    def preprocess(self, rows: Tensor) -> Tensor:
        """The stage without weights: [S, ...] for rows [S, *O]."""
        return rows

    def forward(self, inputs: Tensor) -> Tensor:
        """Features f32[S, F] of preprocessed rows."""
        return inputs

    def encode(self, parts: Sequence[Tensor]) -> Tensor:
        """Features f32[S, F] of observations that lie leaf by leaf, [S, *shape] in the dtype of each.

        The same as of rows. Exporters trace it, so its operations must not depend on S.
        """
        (rows,) = parts
        return self(self.preprocess(rows))  # type: ignore[no-any-return]

    def update_statistics(self, rows: Tensor) -> None:
        """Count rows [S, *O] in the running statistics, if there are any."""


class VectorEncoder(Encoder):
    """Numbers, flattened. Integers with finite bounds are scaled to [0, 1], each by its own bounds.

    Args:
        space: a Box or MultiBinary.
        normalizer: makes the running normaliser of the vector; None leaves it as it is.
    """

    low: Tensor
    width: Tensor

    def __init__(self, space: gym.Space[Any], normalizer: Normalizer | None = None) -> None:
        super().__init__()
        normalizes = normalizer is not None and isinstance(space, gym.spaces.Box)
        self.features = math.prod(space.shape or ())
        self.normalizer = normalizer((self.features,)) if normalizer is not None and normalizes else None
        self.in_numpy = read = VectorInputs(space, self.normalizer.clip if self.normalizer else None)
        self._scales = read.low is not None
        if read.low is not None and read.width is not None:
            self.register_buffer("low", torch.from_numpy(read.low), persistent=False)
            self.register_buffer("width", torch.from_numpy(read.width), persistent=False)

    def preprocess(self, rows: Tensor) -> Tensor:
        """See `Encoder`."""
        flat = rows.reshape(rows.shape[0], self.features)  # an exporter would make a constant of `len`
        if self.normalizer is not None:
            normalized: Tensor = self.normalizer(flat)
            return normalized
        if self._scales:
            # In float64: large numbers in narrow bounds would all be the same float32.
            return ((flat.double() - self.low) / self.width).float()
        return flat.float()

    def update_statistics(self, rows: Tensor) -> None:
        """See `Encoder`."""
        if self.normalizer is not None:
            self.normalizer.update(rows.reshape(len(rows), self.features))


class OneHotEncoder(Encoder):
    """Choices, each as a one-hot vector.

    Args:
        space: Discrete or MultiDiscrete.

    Raises:
        ValueError: there are too many choices.
    """

    def __init__(self, space: gym.spaces.Discrete | gym.spaces.MultiDiscrete) -> None:
        super().__init__()
        check_choices([space], _CHOICES)
        self.in_numpy = read = OneHotInputs(space)
        self._sizes, self._start = read.sizes, read.start
        self.features = read.size

    def preprocess(self, rows: Tensor) -> Tensor:
        """See `Encoder`."""
        choices = rows.reshape(rows.shape[0], len(self._sizes)).long()
        # Each becomes floats at once: one_hot makes int64, which take twice the memory.
        parts = [
            functional.one_hot(choices[:, column] - start, size).float()
            for column, (size, start) in enumerate(zip(self._sizes, self._start, strict=True))
        ]
        return torch.cat(parts, dim=1)


class ImageEncoder(Encoder):
    """Images through a NatureCNN, scaled by their upper bound.

    Args:
        space: a Box for which `learner.images.is_image` holds.
        generator: draws the weights.
    """

    is_trainable = True
    needs_hidden_layers = False

    def __init__(self, space: gym.spaces.Box, generator: torch.Generator) -> None:
        super().__init__()
        self._to_channels = channels_first(space.shape)
        channels, height, width = channel_count_and_sides(space.shape)
        self._scale = float(np.max(space.high)) or 1.0
        self.cnn = NatureCNN(channels, height, width, generator)
        self.features = NatureCNN.FEATURES

    def forward(self, inputs: Tensor) -> Tensor:
        """See `Encoder`."""
        # A single copy: images are large, and allocating memory for them takes most of the time.
        images = self._to_channels(inputs).to(torch.float32, copy=True, memory_format=torch.channels_last)
        features: Tensor = self.cnn(images.div_(self._scale))
        return features


class CompositeEncoder(Encoder):
    """Dict and Tuple: one encoder per leaf, features side by side. The action mask is left out.

    Args:
        space: Dict or Tuple.
        make: makes the encoder of a leaf.

    Raises:
        ValueError: there is nothing to learn from, or too many choices in all.
    """

    def __init__(self, space: gym.Space[Any], make: Callable[[gym.Space[Any]], Encoder]) -> None:
        super().__init__()
        self._leaves = observed_leaves(space)
        if not self._leaves:
            raise ValueError(f"observation space {space} is not supported: it holds nothing to learn from")
        self._is_seen = [leaf in self._leaves for leaf in leaves(space)]
        check_choices((leaf.space for leaf in self._leaves), _CHOICES)
        parts = [make(leaf.space) for leaf in self._leaves]
        self.parts = nn.ModuleList(parts)
        self.features = sum(part.features for part in parts)
        self.is_trainable = any(part.is_trainable for part in parts)
        self.needs_hidden_layers = any(part.needs_hidden_layers for part in parts)
        in_numpy = [part.in_numpy for part in parts]
        if all(read is not None for read in in_numpy):
            self.in_numpy = CompositeInputs(list(zip(self._leaves, in_numpy, strict=True)))  # type: ignore[arg-type]

    def _pairs(self) -> list[tuple[Leaf, Encoder]]:
        return [(leaf, part) for leaf, part in zip(self._leaves, self.parts, strict=True)]  # type: ignore[misc]

    def preprocess(self, rows: Tensor) -> Tensor:
        """All features; but if a part has weights, the rows, and `forward` computes everything."""
        return rows if self.is_trainable else self._encoded(rows)

    def forward(self, inputs: Tensor) -> Tensor:
        """See `Encoder`."""
        return self._encoded(inputs) if self.is_trainable else inputs

    def _encoded(self, rows: Tensor) -> Tensor:
        return self._together(read_tensor(leaf, rows) for leaf in self._leaves)  # copies, one at a time

    def _together(self, observed: Iterable[Tensor]) -> Tensor:
        """Features of the observed leaves, side by side."""
        pairs = zip(self._pairs(), observed, strict=True)
        return torch.cat([part.encode([rows]) for (_, part), rows in pairs], dim=1)

    def encode(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Encoder`."""
        return self._together(part for part, seen in zip(parts, self._is_seen, strict=True) if seen)

    def update_statistics(self, rows: Tensor) -> None:
        """See `Encoder`."""
        for leaf, part in self._pairs():
            part.update_statistics(read_tensor(leaf, rows))


class CustomEncoder(Encoder):
    """A custom module.

    Args:
        space: of the observations; the module gets tensors in their shapes and dtypes, [S, *O], or a dict
            or tuple of them.
        module: returns features, f32[S, F].

    Raises:
        ValueError: the module fails or returns something else.
    """

    is_trainable = True

    def __init__(self, space: gym.Space[Any], module: nn.Module) -> None:
        super().__init__()
        self._space = space
        self.module = module
        # Tried with 1, too: the last minibatch may have a single row.
        self.features = {self._try(count) for count in (3, 1)}.pop()

    def _try(self, count: int) -> int:
        """F, of features of `count` observations."""
        state = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        try:
            with torch.no_grad():
                probe = self.module(unpack(self._space, some_rows(self._space, count)))
        except Exception as error:  # the module is the user's code
            raise ValueError(f"for {count} observations it raised {type(error).__name__}: {error}") from error
        finally:
            self.module.load_state_dict(state)  # batch statistics have counted rows that are no observations
        if not isinstance(probe, Tensor):
            raise ValueError(f"it must return a tensor of features f32[S, F], not a {type(probe).__name__}")
        if probe.dim() != 2 or len(probe) != count or not probe.is_floating_point():
            found = f"{probe.dtype} of shape {tuple(probe.shape)}"
            raise ValueError(f"it must return features f32[S, F]; for {count} observations it gave {found}")
        return int(probe.shape[1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Features f32[S, F] of rows [S, *O]."""
        # Copies, which the module may change in place: the rows themselves are needed again.
        rows = inputs if is_composite(self._space) else inputs.clone()
        features: Tensor = self.module(unpack(self._space, rows))
        return features.float()

    def encode(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Encoder`."""
        features: Tensor = self.module(assemble(self._space, [part.clone() for part in parts]))
        return features.float()


def some_rows(space: gym.Space[Any], count: int) -> Tensor:
    """Rows [count, *O] that all hold the element of the space that is nearest to 0."""
    row = b"".join(_nearest_to_zero(leaf.space).tobytes() for leaf in leaves(space))
    shape, dtype = row_field(space)
    return torch.from_numpy(np.frombuffer(row * count, dtype).reshape(count, *shape).copy())


def _nearest_to_zero(space: gym.Space[Any]) -> Array:
    shape, dtype = row_field(space)
    low: Any = 0
    high: Any = 0
    if isinstance(space, gym.spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, gym.spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, gym.spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    nearest: Array = np.minimum(np.maximum(np.zeros(shape, dtype), low), high).astype(dtype)
    return nearest


def make_encoder(
    space: gym.Space[Any], generator: torch.Generator, normalizer: Normalizer | None = None
) -> Encoder:
    """The encoder for an observation space.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.
        generator: draws initial weights.
        normalizer: makes running normalisers for vectors of numbers; None leaves them as they are.

    Raises:
        ValueError: no encoder for such a space, or too many choices in it.
    """
    if is_composite(space):
        return CompositeEncoder(space, lambda leaf: make_encoder(leaf, generator, normalizer))
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return OneHotEncoder(space)
    if isinstance(space, gym.spaces.Box) and is_image(space):
        return ImageEncoder(space, generator)
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return VectorEncoder(space, normalizer)
    raise ValueError(
        f"observation space {space} is not supported: it must be Box, Discrete, MultiDiscrete, MultiBinary, "
        "or a Dict or Tuple of them"
    )
