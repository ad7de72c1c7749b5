"""Log-probabilities and entropies of action heads with their gradients, in NumPy.

The formulas of `learner.heads` again, for `learner.fused_step`; a test compares both with autograd.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from learner.actions import segments_of
from learner.heads import CategoricalHead, GaussianHead, MultiCategoricalHead

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class HeadGradient(Protocol):
    """One minibatch at a time: `evaluate`, then `backward`."""

    def evaluate(self, outputs: Floats, actions: Array) -> tuple[Floats, Floats]:
        """Log pi(action) f32[B] and entropies f32[B], for outputs f32[B, K] and actions [B, *A]."""

    def backward(self, of_log_probs: Floats, of_entropy: float) -> Floats:
        """The gradient of the loss by the outputs, f32[B, K]; that by the head's parameters is written.

        Args:
            of_log_probs: f32[B], gradient of the loss by each log-probability.
            of_entropy: gradient of the loss by each entropy.
        """


class CategoricalGradient:
    """Of one or several independent categoricals. Implements `HeadGradient`.

    Args:
        nvec: i64[C], choices of each component; the outputs are their logits, one component after the other.
    """

    def __init__(self, nvec: npt.NDArray[np.int64]) -> None:
        self._segments = segments_of(nvec)
        starts = np.cumsum(nvec) - nvec
        self._starts = starts  # of each component's logits

    def evaluate(self, outputs: Floats, actions: Array) -> tuple[Floats, Floats]:
        """See `HeadGradient`."""
        # Choices first, [K, B]: sums over a short last axis take several times as long.
        rows = len(outputs)
        self._rows = np.arange(rows)
        self._chosen = (actions.reshape(rows, len(self._starts)) + self._starts).T
        self._log_probs = np.ascontiguousarray(outputs.T)
        self._probs = np.empty_like(self._log_probs)
        self._entropies = np.empty((len(self._starts), rows), np.float32)
        for columns, components, count, n in self._segments:
            log_probs = self._log_probs[columns].reshape(count, n, rows)  # views, both
            probs = self._probs[columns].reshape(count, n, rows)
            log_probs -= np.maximum.reduce(log_probs, axis=1, keepdims=True)
            np.exp(log_probs, out=probs)
            total = np.add.reduce(probs, axis=1, keepdims=True)
            log_probs -= np.log(total)
            probs /= total
            np.add.reduce(probs * log_probs, axis=1, out=self._entropies[components])
        np.negative(self._entropies, out=self._entropies)
        chosen = self._log_probs[self._chosen, self._rows]
        return np.add.reduce(chosen, axis=0), np.add.reduce(self._entropies, axis=0)

    def backward(self, of_log_probs: Floats, of_entropy: float) -> Floats:
        """See `HeadGradient`."""
        # d log p(a) / d logits = onehot(a) - p;  d H / d logits = -p (log p + H)
        gradient = np.empty_like(self._probs)
        for columns, components, count, n in self._segments:
            shape = (count, n, len(self._rows))
            surprise = self._log_probs[columns].reshape(shape) + self._entropies[components, None]
            surprise *= np.float32(-of_entropy)
            surprise -= of_log_probs
            np.multiply(self._probs[columns].reshape(shape), surprise, out=gradient[columns].reshape(shape))
        gradient[self._chosen, self._rows] += of_log_probs
        return gradient.T


class GaussianGradient:
    """Of independent Gaussians whose standard deviation does not depend on the state. A `HeadGradient`.

    Args:
        log_std: f32[K], the head's parameter.
        gradient: f32[K], which `backward` fills.
    """

    def __init__(self, log_std: Floats, gradient: Floats) -> None:
        self._log_std = log_std
        self._gradient = gradient

    def evaluate(self, outputs: Floats, actions: Array) -> tuple[Floats, Floats]:
        """See `HeadGradient`."""
        self._inverse_std = np.exp(-self._log_std)
        self._z = (actions.reshape(outputs.shape) - outputs) * self._inverse_std
        self._squares = self._z * self._z
        constant = self._log_std.sum() + np.float32(len(self._log_std) * _LOG_SQRT_2PI)
        log_prob = np.dot(self._squares, np.full(len(self._log_std), -0.5, np.float32))
        log_prob -= constant
        return log_prob, np.full(len(outputs), constant + np.float32(0.5 * len(self._log_std)), np.float32)

    def backward(self, of_log_probs: Floats, of_entropy: float) -> Floats:
        """See `HeadGradient`."""
        # d log p / d mean = z / std;  d log p / d log std = z^2 - 1;  d H / d log std = 1
        self._gradient[:] = of_log_probs @ (self._squares - np.float32(1.0))
        self._gradient += np.float32(of_entropy * len(of_log_probs))
        gradient: Floats = self._z * self._inverse_std * of_log_probs[:, None]
        return gradient


def head_gradient(head: nn.Module, weights: list[Floats], gradients: list[Floats]) -> HeadGradient | None:
    """The gradients of a head; None if there are none by hand for it.

    Args:
        head: of a policy.
        weights, gradients: views of its parameters, and arrays of the same shapes.
    """
    if type(head) is CategoricalHead:
        return CategoricalGradient(np.array([head.num_outputs]))
    if type(head) is MultiCategoricalHead:
        return CategoricalGradient(head.nvec.ravel())
    if type(head) is GaussianHead:
        return GaussianGradient(weights[0], gradients[0])
    return None
