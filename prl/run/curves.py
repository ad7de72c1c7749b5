"""Learning curves, read from run folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from learner.settings import ConfigError

_STEPS = "time/total_timesteps"
_RETURN = "rollout/ep_rew_mean"  # of the last 100 episodes
_GRID_POINTS = 400  # of the mean curve; finer than the picture shows


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        env_id: of the run; "" if its folder does not say.
        steps: f64[K], ascending.
        returns: f64[K], the mean return of recent episodes at these steps.
    """

    env_id: str
    steps: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]


def read_curve(run: Path, column: str = _RETURN) -> Curve:
    """The curve of a run folder; the run may still be running.

    Args:
        run: the folder.
        column: of progress.csv, taken for the returns.

    Raises:
        ConfigError: there is no progress.csv, or nothing in it to draw.
    """
    path = run / "progress.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # A row that is just being written lacks its last cells, and has None there.
            rows = [(row[_STEPS], row[column]) for row in csv.DictReader(file)]
        steps, returns = np.array([row for row in rows if None not in row], np.float64).reshape(-1, 2).T
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except KeyError as error:
        raise ConfigError(f"{path} has no column {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    known = np.isfinite(steps) & np.isfinite(returns)  # no episode had ended yet
    if not known.any():
        raise ConfigError(f"{path} holds no return yet")
    return Curve(_env_id(run), steps[known], returns[known])


def _env_id(run: Path) -> str:
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return str(config["env_id"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # the name is only a label
        return ""


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over runs, interpolated, over the steps that all of them have seen.

    Raises:
        ConfigError: there are no such steps.
    """
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    if first > last:
        raise ConfigError(f"the runs of {curves[0].env_id or 'one env'} have no steps in common to average")
    grid = np.linspace(first, last, _GRID_POINTS)
    returns = np.mean([np.interp(grid, curve.steps, curve.returns) for curve in curves], axis=0)
    return Curve(curves[0].env_id, grid, returns)
