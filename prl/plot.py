"""Learning curves: the mean return over the steps of one or more runs, as a picture."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from learner.settings import ConfigError
from prl.arguments import parse

_STEPS = "time/total_timesteps"
_RETURN = "rollout/ep_rew_mean"
_GRID_POINTS = 400  # of the mean curve; finer than the picture shows
_SIZE = (8.0, 4.5)  # inches
_DPI = 200  # twice what a README shows, for screens that have the pixels
_COLORS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2")  # one per env, then again
_INK = "#374151"
_GREY = "#9ca3af"


@dataclass(frozen=True)
class PlotConfig:
    """Draw the learning curves of one or more runs: thin lines for runs, a thick one for their mean.

    Attributes:
        runs: run folders, each with its progress.csv.
        out: the picture; its ending says which kind (png, svg, pdf, ...).
        title: above the picture; null shows none.

    Raises:
        ConfigError: no run is given.
    """

    runs: Sequence[str] = ()
    out: Path = Path("learning_curve.png")
    title: str | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("runs needs at least one run folder, e.g. --runs runs/cartpole")


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


def read_curve(run: Path) -> Curve:
    """The curve of a run folder; the run may still go on.

    Raises:
        ConfigError: there is no progress.csv, or nothing in it that could be drawn.
    """
    path = run / "progress.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # A row that is just being written lacks its last cells, and has None there.
            rows = [(row[_STEPS], row[_RETURN]) for row in csv.DictReader(file)]
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
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # a name is nice to have, no more
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


def plot(config: PlotConfig) -> None:
    """Draw the runs into `config.out`; folders are made if need be.

    Raises:
        ConfigError: matplotlib is missing, a run cannot be read, or the picture cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError('matplotlib is not installed: pip install "prl[plot]"')
    curves = sorted((read_curve(Path(run)) for run in config.runs), key=lambda curve: curve.env_id)
    figure = draw({env: list(group) for env, group in groupby(curves, lambda c: c.env_id)}, config.title)
    try:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(config.out, dpi=_DPI)
    except OSError as error:
        raise ConfigError(f"cannot write {config.out}: {error.strerror}") from error
    except ValueError as error:  # an ending that matplotlib does not know
        raise ConfigError(f"cannot write {config.out}: {error}") from error


def draw(curves: Mapping[str, Sequence[Curve]], title: str | None) -> Any:
    """A matplotlib `Figure`.

    Args:
        curves: by env.
        title: above the picture.
    """
    from matplotlib.figure import Figure  # an extra; not pyplot, which wants a display and keeps figures
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for index, (env_id, runs) in enumerate(curves.items()):
        _draw_env(axes, env_id or "run", runs, _COLORS[index % len(_COLORS)])
    axes.set_xlim(left=0.0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("mean return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(color=_GREY, labelcolor=_INK)
    axes.legend(frameon=False, labelcolor=_INK, loc="lower right")
    if title:
        axes.set_title(title, loc="left", color=_INK, fontweight="bold", pad=12)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
    return figure


def _draw_env(axes: Any, name: str, runs: Sequence[Curve], color: str) -> None:
    if len(runs) == 1:
        axes.plot(runs[0].steps, runs[0].returns, color=color, linewidth=2.0, label=name)
        return
    for run in runs:
        axes.plot(run.steps, run.returns, color=color, linewidth=1.0, alpha=0.45)
    mean = mean_curve(runs)
    axes.plot(
        mean.steps, mean.returns, color=color, linewidth=2.4, label=f"{name}, {len(runs)} runs and their mean"
    )


def plot_main(argv: Sequence[str] | None = None) -> int:
    """`scripts/plot.py`. Returns the exit code: 2, after one line, if the picture cannot be drawn."""
    try:
        plot(parse(PlotConfig, sys.argv[1:] if argv is None else argv, prog="plot.py"))
    except ConfigError as error:
        sys.stderr.write(f"plot.py: {error}\n")
        return 2
    return 0
