"""Curves of runs: thinned out for a picture, and put together over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prl.report.reading import EVALUATED_AT, STEPS, Column, Run
from prl.run.intervals import bootstrap_band, interquartile_mean

_GRID_POINTS = 120  # of a curve over seeds
_RESAMPLES = 2_000  # per point; the ends of a band move by less than a pixel with more
_BUCKETS = 150
_LARGEST = 1e150  # beyond it, sums and differences may not be numbers any more
MIN_SEEDS = 3  # with fewer, an interval would say nothing


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        x: f64[K], ascending, env steps.
        y: f64[K], finite.
    """

    x: Column
    y: Column


@dataclass(frozen=True)
class Summary:
    """A curve over several seeds.

    Attributes:
        middle: interquartile mean over the seeds.
        low, high: f64[K], the ends of the 95 % bootstrap interval; None with fewer than `MIN_SEEDS`.
    """

    middle: Series
    low: Column | None
    high: Column | None


def series(run: Run, column: str) -> Series | None:
    """A column of a run over env steps; None if the run does not have it, or nothing in it can be drawn.

    Args:
        run: see `Run`.
        column: of its progress, or of its evaluations.
    """
    table, steps = (run.evaluations, EVALUATED_AT) if column in run.evaluations else (run.progress, STEPS)
    if column not in table or steps not in table:
        return None
    x, y = table[steps], table[column]
    known = np.isfinite(x) & (np.abs(y) < _LARGEST)
    return Series(x[known], y[known]) if known.any() else None


def thinned(curve: Series, buckets: int = _BUCKETS) -> Series:
    """The curve with at most two points per bucket, its lowest and its highest: no spike gets lost.

    Args:
        curve: see `Series`.
        buckets: how many, of equally many points; a curve that has no more than twice as many is kept.
    """
    if len(curve.x) <= 2 * buckets:
        return curve
    edges = np.linspace(0, len(curve.x), buckets + 1).astype(np.int64)
    kept = {0, len(curve.x) - 1}
    for start, end in itertools.pairwise(edges):
        part = curve.y[start:end]
        kept |= {start + int(part.argmin()), start + int(part.argmax())}
    rows = np.array(sorted(kept))
    return Series(curve.x[rows], curve.y[rows])


def over_seeds(curves: Sequence[Series], point_by_point: bool = False) -> Summary | None:
    """Curves of several seeds as one, over the steps that all of them have seen; None if there are none.

    Between its points a curve is interpolated.

    Args:
        curves: at least one.
        point_by_point: if they have equally many points, put together the first points of all, the second,
            and so on: evaluations are due at the same steps, and come with the update that follows.
    """
    if point_by_point and len({len(curve.x) for curve in curves}) == 1:
        grid = np.mean([curve.x for curve in curves], axis=0)
        return _summary(grid, np.stack([curve.y for curve in curves], axis=1))
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if first > last:
        return None
    longest = max(curves, key=lambda curve: len(curve.x)).x
    shared = longest[(longest >= first) & (longest <= last)]
    grid = shared if 0 < len(shared) <= _GRID_POINTS else np.linspace(first, last, _GRID_POINTS)
    return _summary(grid, np.stack([np.interp(grid, curve.x, curve.y) for curve in curves], axis=1))


def _summary(grid: Column, values: Column) -> Summary:
    middle = Series(grid, interquartile_mean(values))
    if values.shape[1] < MIN_SEEDS:
        return Summary(middle, None, None)
    return Summary(middle, *bootstrap_band(values, resamples=_RESAMPLES))
