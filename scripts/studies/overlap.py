"""Overlap beside the synchronous schedule: the same seeds, the same number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plans import OVERLAP

from prl.run.curves import Curve
from prl.run.intervals import bootstrap_interval, interquartile_mean

HEADER = (
    "env",
    "seeds",
    "IQM",
    "IQM with overlap",
    "mean of the curve",
    "with overlap",
)
_BASE = "prl"

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # by variant
Curves = Mapping[str, Mapping[int, Curve]]  # by variant and seed


def row(env: str, results: Results, curves: Curves) -> list[str] | None:
    """One row of `HEADER`, of the seeds that have a result and a curve of both; None if there are none.

    Args:
        env: for the first column.
        results: of all variants.
        curves: of the same.
    """
    scores = {
        variant: {int(each["seed"]): float(each["evaluation"]["mean"]) for each in results.get(variant, ())}
        for variant in (_BASE, OVERLAP)
    }
    drawn: list[set[int]] = [
        {seed for seed, curve in curves.get(variant, {}).items() if len(curve.steps) > 1}
        for variant in scores
    ]
    seeds = sorted(scores[_BASE].keys() & scores[OVERLAP].keys() & drawn[0] & drawn[1])
    if not seeds:
        return None
    finals = [interval([scores[variant][seed] for seed in seeds]) for variant in (_BASE, OVERLAP)]
    means = [
        interval([mean_over_steps(curves[variant][seed]) for seed in seeds]) for variant in (_BASE, OVERLAP)
    ]
    return [env, str(len(seeds)), *finals, *means]


def interval(values: Sequence[float]) -> str:
    """The interquartile mean and its interval."""
    middle, (low, high) = float(interquartile_mean(values)), bootstrap_interval(values)
    return f"{middle:.1f} ({low:.1f} .. {high:.1f})"


def mean_over_steps(curve: Curve) -> float:
    """The area under a curve of two points or more, divided by its steps: how fast a run has learnt."""
    steps, returns = curve.steps, curve.returns
    return float(np.sum((returns[1:] + returns[:-1]) * np.diff(steps)) / (2 * (steps[-1] - steps[0])))
