"""The charts of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from prl.report.chart import Chart, Line, color_class, render
from prl.report.facts import SPEED, SUCCESS, reward_threshold
from prl.report.grouping import Group
from prl.report.markup import Markup, element
from prl.report.reading import EVALUATION, RETURN
from prl.report.series import Series, over_seeds, series

_TITLES = {
    "rollout/ep_len_mean": "Episode length",
    "rollout/occupancy": "Occupancy",
    "train/policy_loss": "Policy loss",
    "train/value_loss": "Value loss",
    "train/entropy_loss": "Entropy loss",
    "train/approx_kl": "Approximate KL",
    "train/clip_fraction": "Clip fraction",
    "train/explained_variance": "Explained variance",
    "train/learning_rate": "Learning rate",
    "train/clip_range": "Clip range",
    "train/skipped_minibatches": "Skipped minibatches",
    "train/initial_ratio_error": "Initial ratio error",
    "train/rnd_loss": "RND loss",
    "train/rnd_value_loss": "RND value loss",
    "train/rnd_reward_mean": "RND reward, mean",
    "train/rnd_reward_std": "RND reward, std",
    "train/rnd_return_std": "RND return, std",
}
_ELSEWHERE = frozenset({RETURN, *SUCCESS, "rollout/iteration_rew_mean", "train/minibatches"})
_ROUNDING = 1e-3  # an initial ratio error below it is no news
_LOG_FROM = 15.0  # a positive column whose largest value is so many times its median has a logarithmic axis
_LEAST_EXPLAINED = -1.0  # an explained variance below it says no more than that the critic knows nothing yet
_MOST_THIN = 12  # runs whose own lines are drawn


def _last_step(groups: Sequence[Group]) -> float:
    return max(run.steps for group in groups for run in group.runs)


# ---- returns


def return_charts(env_id: str, groups: Sequence[Group]) -> list[Markup]:
    """The learning curve with evaluations; for several groups training and evaluations apart."""
    wrapped = any(run.settings.get("wrappers") for group in groups for run in group.runs)
    threshold = None if wrapped else reward_threshold(env_id)  # a wrapper may change rewards
    rule = None if threshold is None else (threshold, f"reward threshold {threshold:g}")
    charts = [_learning_curve(groups[0])] if len(groups) == 1 else _comparison(groups)
    return [
        render(Chart(title, lines, note, large=True, rule=rule, x_end=_last_step(groups)))
        for title, note, lines in charts
        if lines
    ]


def _learning_curve(group: Group) -> tuple[str, str, tuple[Line, ...]]:
    training, evaluation = _lines(group, RETURN, 0, "training"), _lines(group, EVALUATION, 1, "evaluation")
    lines = (*training, *evaluation)
    note = "training: mean of the last 100 episodes"
    note += "; evaluation: the deterministic policy" if evaluation else ""
    note += "; bands: 95 % intervals" if any(line.low is not None for line in lines) else ""
    return "Return", note, lines


def _comparison(groups: Sequence[Group]) -> list[tuple[str, str, tuple[Line, ...]]]:
    def lines(column: str) -> tuple[Line, ...]:
        return tuple(line for group in groups for line in _lines(group, column, group.color, group.label))

    return [
        ("Evaluation return", "the deterministic policy", lines(EVALUATION)),
        ("Training return", "mean of the last 100 episodes", lines(RETURN)),
    ]


def _lines(group: Group, column: str, color: int, label: str, thin: bool = True) -> list[Line]:
    """A column of a group: thin lines of its runs, below one that puts them together."""
    is_evaluation = column.startswith("eval/")
    style: Literal["dots", "line"] = "dots" if is_evaluation else "line"
    all_runs = [curve for run in group.runs if (curve := series(run, column))]
    compared = [curve for run in group.compared if (curve := series(run, column))]
    if len(all_runs) == 1:
        return [Line(all_runs[0], color, style, label)]
    shows_thin = thin and not is_evaluation and len(all_runs) <= _MOST_THIN
    lines = [Line(curve, color, "thin") for curve in all_runs] if shows_thin else []
    summary = over_seeds(compared, point_by_point=is_evaluation) if compared else None
    return (
        lines
        if summary is None
        else [*lines, Line(summary.middle, color, style, label, summary.low, summary.high)]
    )


# ---- small charts


def success_chart(groups: Sequence[Group]) -> Markup | None:
    """Success rates in training and evaluation; None if no env says anything of them."""
    lines = []
    for group in groups:
        for name, color, label in ((SUCCESS[1], 0, "training"), (SUCCESS[0], 1, "evaluation")):
            alone = len(groups) == 1
            shown = (color, label) if alone else (group.color, f"{group.label}, {label}")
            lines += [_in_percent(line) for line in _lines(group, name, *shown, thin=alone)]
    if not lines:
        return None
    limits = (-3.0, 103.0)  # with room for the thickness of a line
    end = _last_step(groups)
    return render(Chart("Success rate", tuple(lines), "% of episodes", large=True, x_end=end, limits=limits))


def _in_percent(line: Line) -> Line:
    low, high = (None if end is None else 100.0 * end for end in (line.low, line.high))
    return dataclasses.replace(line, series=Series(line.series.x, 100.0 * line.series.y), low=low, high=high)


def learning_charts(groups: Sequence[Group]) -> list[Markup]:
    """Losses, KL and what else the update reports, and what is known of episodes."""
    columns = [name for name in _columns(groups) if name.startswith(("train/", "rollout/"))]
    known = [name for name in _TITLES if name in columns]
    others = [name for name in columns if name not in _TITLES and name not in _ELSEWHERE]
    found = [_small(name, groups) for name in [*known, *others]]
    return [chart for chart in found if chart is not None]


def speed_chart(groups: Sequence[Group]) -> Markup | None:
    """Steps per second of each update."""
    return _small(SPEED, groups, "Steps per second")


def _columns(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.progress))


def _small(column: str, groups: Sequence[Group], title: str = "") -> Markup | None:
    alone = len(groups) == 1
    lines = [
        _without_band(line) if alone else line
        for group in groups
        for line in _lines(group, column, group.color, _value_name(group) if alone else group.label, alone)
    ]
    values = np.concatenate([line.series.y for line in lines]) if lines else np.empty(0)
    if not values.size or np.ptp(values) <= 1e-9 * np.abs(values).max():
        return None  # nothing, or a constant
    if column == "train/initial_ratio_error" and values.max() < _ROUNDING:
        return None
    note = ""
    if column == "train/explained_variance" and values.min() < _LEAST_EXPLAINED:
        lines, note = [_cut_off(line) for line in lines], f"cut off below {_LEAST_EXPLAINED:g}"
    log = bool(values.min() > 0.0 and values.max() > _LOG_FROM * np.median(values))
    return render(
        Chart(
            title or _TITLES.get(column, column.partition("/")[2]),
            tuple(lines),
            log=log,
            note="log scale" if log else note,
            x_end=_last_step(groups),
        )
    )


def _value_name(group: Group) -> str:
    return "value" if len(group.runs) == 1 else "interquartile mean"


def _without_band(line: Line) -> Line:
    """Where the runs themselves are shown: in a small chart there is no room for both."""
    return dataclasses.replace(line, low=None, high=None)


def _cut_off(line: Line) -> Line:
    shown = np.maximum(line.series.y, _LEAST_EXPLAINED)
    low, high = (None if end is None else np.maximum(end, _LEAST_EXPLAINED) for end in (line.low, line.high))
    return dataclasses.replace(line, series=Series(line.series.x, shown), low=low, high=high)


def legend(groups: Sequence[Group]) -> Markup | None:
    """Which colour is which group; None if there is only one."""
    if len(groups) == 1:
        return None
    entries = [
        element("span", element("i", class_=f"swatch {color_class(group.color)}"), group.label)
        for group in groups
    ]
    return element("div", entries, class_="legend shared")
