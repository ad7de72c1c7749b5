"""From rows of observations to the inputs of small networks, in NumPy: the encoders that have no weights.

`learner.encoders` computes the same numbers, bit for bit, as tensors on any device; these are for acting, in
the learner or in a worker process, and do without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from learner.arrays import Array
from learner.spaces import Leaf

Floats32 = npt.NDArray[np.float32]

EPSILON = 1e-8
"""Added to a variance before its root is taken."""


class Inputs(Protocol):
    """What an encoder without weights makes of rows."""

    size: int
    """F."""
    num_statistics: int
    """Arrays of running statistics that `read` needs: mean f64 and variance f64 of each normaliser."""

    def read(self, rows: Array, statistics: Sequence[Array] = ()) -> Floats32:
        """Inputs f32[S, F] of rows [S, *O]."""


class VectorInputs:
    """Numbers, flattened: scaled to [0, 1] if they are integers with bounds, normalised, or as they are.

    Implements `Inputs`.

    Args:
        space: a Box or MultiBinary.
        clip: the bound of normalised numbers; None does not normalise.

    Attributes:
        low, width: f64[F], of the bounds of integers; None if numbers are not scaled.
    """

    def __init__(self, space: gym.Space[Any], clip: float | None = None) -> None:
        self.size = math.prod(space.shape or ())
        self.num_statistics = 0 if clip is None else 2
        self._clip = clip
        self.low: Array | None = None
        self.width: Array | None = None
        is_box = isinstance(space, gym.spaces.Box)
        if is_box and clip is None and space.dtype is not None and space.dtype.kind in "iu":
            self._scale_to_unit(space)

    def _scale_to_unit(self, space: Any) -> None:
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        bounded = high - low < 2.0**31 - 1.0  # integers "without bounds" have those of their dtype
        if bounded.any():
            self.low = np.where(bounded, low, 0.0)
            self.width = np.where(bounded, np.maximum(high - low, 1.0), 1.0)

    def read(self, rows: Array, statistics: Sequence[Array] = ()) -> Floats32:
        """See `Inputs`."""
        flat = rows.reshape(len(rows), self.size)
        if self._clip is not None:
            # In float64: an offset of 1e4 would cost half the digits of a float32.
            mean, var = statistics
            wide = (flat.astype(np.float64) - mean) / np.sqrt(var + EPSILON)
            return np.minimum(np.maximum(wide, -self._clip), self._clip).astype(np.float32)
        if self.low is not None and self.width is not None:
            # In float64: large numbers in narrow bounds would all be the same float32.
            return ((flat.astype(np.float64) - self.low) / self.width).astype(np.float32)
        return flat.astype(np.float32)


class OneHotInputs:
    """Choices, each as a one-hot vector. Implements `Inputs`.

    Args:
        space: Discrete or MultiDiscrete.

    Attributes:
        sizes: choices of each component.
        start: the first choice of each.
    """

    num_statistics = 0

    def __init__(self, space: gym.spaces.Discrete | gym.spaces.MultiDiscrete) -> None:
        sizes = np.atleast_1d(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec).ravel()
        self.sizes = [int(size) for size in sizes]
        self.start = [int(start) for start in np.broadcast_to(np.ravel(space.start), sizes.shape)]
        self.size = sum(self.sizes)
        self._offset = np.cumsum([0, *self.sizes[:-1]]) - np.array(self.start, np.int64)

    def read(self, rows: Array, statistics: Sequence[Array] = ()) -> Floats32:
        """See `Inputs`."""
        columns = rows.reshape(len(rows), len(self.sizes)).astype(np.int64) + self._offset
        inputs = np.zeros((len(rows), self.size), np.float32)
        np.put_along_axis(inputs, columns, np.float32(1.0), axis=1)
        return inputs


class CompositeInputs:
    """Dict and Tuple: the inputs of their leaves side by side. Implements `Inputs`.

    Args:
        parts: the leaves that are read, and what is made of them.
    """

    def __init__(self, parts: Sequence[tuple[Leaf, Inputs]]) -> None:
        self._parts = list(parts)
        self.size = sum(inputs.size for _, inputs in parts)
        self.num_statistics = sum(inputs.num_statistics for _, inputs in parts)

    def read(self, rows: Array, statistics: Sequence[Array] = ()) -> Floats32:
        """See `Inputs`."""
        remaining = list(statistics)
        read = []
        for leaf, inputs in self._parts:
            own, remaining = remaining[: inputs.num_statistics], remaining[inputs.num_statistics :]
            read.append(inputs.read(leaf.read(rows), own))
        return np.concatenate(read, axis=1)
