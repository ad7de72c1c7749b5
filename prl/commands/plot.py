"""Learning curves: the mean return over the steps of one or more runs, as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from learner.settings import ConfigError
from prl.commands.command import Command
from prl.run.curves import Curve, mean_curve, read_curve

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


COMMAND = Command(PlotConfig, plot)
