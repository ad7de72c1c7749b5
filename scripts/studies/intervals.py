"""Interquartile mean and its bootstrap interval, with numpy alone.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_RESAMPLES = 10_000


def interquartile_mean(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The mean without the lowest and the highest quarter, each rounded down, along the last axis.

    As rliable and `scipy.stats.trim_mean(scores, 0.25)` have it: below four scores, the plain mean.
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=-1)
    size = ordered.shape[-1]
    cut = size // 4
    return np.asarray(ordered[..., cut : size - cut].mean(axis=-1))


def bootstrap_interval(scores: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of the interquartile mean: seeds are drawn with replacement."""
    values = np.asarray(scores, np.float64)
    rows = np.random.default_rng(seed).integers(0, len(values), size=(_RESAMPLES, len(values)))
    tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]
    low, high = np.percentile(interquartile_mean(values[rows]), tails)
    return float(low), float(high)
