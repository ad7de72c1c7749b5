"""Interquartile mean and its bootstrap interval, with numpy alone.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

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


def bootstrap_interval(scores: npt.ArrayLike, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of the interquartile mean: seeds are drawn with replacement.

    Args:
        scores: f64[R], one per seed.
        level: probability that the interval holds.
        seed: of the draws; the same one gives the same interval.
    """
    low, high = bootstrap_band(np.asarray(scores, np.float64)[None], level, seed)
    return float(low[0]), float(high[0])


def bootstrap_band(
    scores: npt.NDArray[np.float64], level: float = 0.95, seed: int = 0, resamples: int = _RESAMPLES
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`bootstrap_interval` at each point of a curve. A draw takes whole curves.

    Args:
        scores: f64[K, R], at K points for R seeds.
        level, seed: see `bootstrap_interval`.
        resamples: how many are drawn.

    Returns:
        The lower and the upper end, f64[K] each.
    """
    seeds = scores.shape[1]
    rows = np.random.default_rng(seed).integers(0, seeds, size=(resamples, seeds))
    tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]
    # Point by point: all at once would take K times the memory.
    ends = [np.percentile(interquartile_mean(point[rows]), tails) for point in scores]
    low, high = np.array(ends).reshape(-1, 2).T
    return low, high
