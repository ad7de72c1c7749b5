"""What runs came to, in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from prl.report.numbers import decimals_for, fixed
from prl.report.reading import EVALUATED_AT, EVALUATION, RETURN, STEPS, Run
from prl.report.series import MIN_SEEDS
from prl.run.intervals import bootstrap_interval, interquartile_mean

SUCCESS = ("eval/success_rate", "rollout/success_rate")
SPEED = "time/iteration_fps"
PHASES = ("env", "act", "store", "wait", "update", "other")


@dataclass(frozen=True)
class Statistic:
    """A number over several seeds.

    Attributes:
        middle: interquartile mean; the mean with fewer than four.
        interval: 95 %, by the bootstrap; None with fewer than `MIN_SEEDS`.
        size: how many seeds.
    """

    middle: float
    interval: tuple[float, float] | None
    size: int

    def text(self, decimals: int) -> str:
        """Such as "254.3"."""
        return fixed(self.middle, decimals)

    def interval_text(self, decimals: int) -> str:
        """Such as "243.1 to 268.4"; "" without one."""
        return "" if self.interval is None else " to ".join(fixed(end, decimals) for end in self.interval)


def statistic(runs: Sequence[Run], of: Callable[[Run], float]) -> Statistic | None:
    """A number of each run, put together; runs that do not have it are left out, None if none has.

    Args:
        runs: with equal settings.
        of: the number of a run; NaN if it does not have it.
    """
    values = [value for run in runs if math.isfinite(value := of(run))]
    if not values:
        return None
    interval = bootstrap_interval(values) if len(values) >= MIN_SEEDS else None
    return Statistic(float(interquartile_mean(values)), interval, len(values))


def final_evaluation(run: Run) -> float:
    """The mean return of the last evaluation."""
    return run.last(EVALUATION)


def best_evaluation(run: Run) -> tuple[float, float]:
    """The mean return of the best evaluation, and the env steps before it; NaN without one."""
    values, steps = (run.evaluations.get(name, np.empty(0)) for name in (EVALUATION, EVALUATED_AT))
    if not np.isfinite(values).any() or len(steps) != len(values):
        return math.nan, math.nan
    best = int(np.nanargmax(values))
    return float(values[best]), float(steps[best])


def training_return(run: Run) -> float:
    """The mean return of the last 100 training episodes."""
    return run.last(RETURN)


def success_rate(run: Run) -> float:
    """Of the last evaluation, or else of the last training episodes; NaN if the env says nothing of it."""
    return next((rate for name in SUCCESS if math.isfinite(rate := run.last(name))), math.nan)


def training_speed(run: Run) -> float:
    """Env steps per second of training itself, without the start and without evaluations."""
    return run.last("time/fps")


def wall_seconds(run: Run) -> float:
    """From the start of training to its end, evaluations included; NaN while a run is unfinished."""
    return run.fact("wall_seconds")


def return_decimals(runs: Sequence[Run]) -> int:
    """The decimals of returns in all that is said about these runs."""
    finals = [value for run in runs for value in (final_evaluation(run), training_return(run))]
    return min(2, decimals_for(finals)) or 1


def phase_shares(runs: Sequence[Run]) -> dict[str, float]:
    """The shares of training's time by phase, over all updates of all runs; empty if not measured."""
    seconds = dict.fromkeys(PHASES, 0.0)
    for run in runs:
        if SPEED not in run.progress:
            continue
        speed = np.where(run.progress[SPEED] > 0.0, run.progress[SPEED], np.nan)
        lengths = np.diff(run.progress[STEPS], prepend=0.0) / speed
        for phase in PHASES:
            seconds[phase] += float(np.nansum(lengths * run.progress.get(f"time/{phase}_share", np.nan)))
    total = sum(seconds.values())
    return {phase: part / total for phase, part in seconds.items()} if total > 0.0 else {}


def reward_threshold(env_id: str) -> float | None:
    """The return from which on Gymnasium calls the env solved; None if its registration has none.

    A package is not imported for it: an id that it would register has no threshold here.
    """
    spec = gym.registry.get(env_id)
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)
