"""A report as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import time
from collections.abc import Sequence
from pathlib import Path

from prl.report.details import commands, replay, settings_table, time_bars, versions_table
from prl.report.facts import return_decimals
from prl.report.figures import learning_charts, legend, return_charts, speed_chart, success_chart
from prl.report.grouping import Group, by_env
from prl.report.markup import Child, Markup, element, join
from prl.report.numbers import count
from prl.report.reading import Run
from prl.report.results import capital, plural, remarks, sentence, tiles
from prl.report.tables import group_table, run_table

# A browser holds to this even if a text should ever join the page unescaped.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:"
_METHOD = (
    "Over seeds: interquartile mean (the mean without the lowest and the highest quarter; with fewer than "
    "four runs, the mean) and 95 % intervals of the percentile bootstrap, which draws runs with replacement "
    "(Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice). "
    "With fewer than three runs there is no interval."
)


def report_page(runs: Sequence[Run], title: str | None = None, video: Path | None = None) -> str:
    """The page.

    Args:
        runs: at least one.
        title: at the top; None takes the names of the envs.
        video: shown as the replay; None takes one from the folders of the runs, if there is one.

    Raises:
        ConfigError: the video cannot be read.
    """
    envs = by_env(runs)
    heading = title or ", ".join(env or "unknown env" for env in envs)
    parts = [
        _env(env, groups, video, named=len(envs) > 1 or title is not None) for env, groups in envs.items()
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{heading} – prl report"),
        element("style", Markup(_style())),
    )
    body = element("body", element("main", _header(heading, runs), parts, _footer(runs)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _style() -> str:
    return (importlib.resources.files("prl.report") / "style.css").read_text(encoding="utf-8")


def _header(heading: str, runs: Sequence[Run]) -> Markup:
    seeds = [run.seed for run in runs if run.seed is not None]
    facts = [
        capital(plural(len(runs), "run")) if len(runs) > 1 else f"Run {runs[0].name}",
        _seeds(seeds),
        f"{count(max(run.steps for run in runs))} steps"
        + (" each" if len({r.steps for r in runs}) == 1 < len(runs) else ""),
    ]
    return element("header", element("h1", heading), element("p", " · ".join(fact for fact in facts if fact)))


def _seeds(seeds: Sequence[int]) -> str:
    """Such as "seed 3", "seeds 0 to 4", "seeds 1, 5, 7"."""
    found = sorted(set(seeds))
    if len(found) < 2:
        return f"seed {found[0]}" if found else ""
    if found == list(range(found[0], found[-1] + 1)):
        return f"seeds {found[0]} to {found[-1]}"
    return f"seeds {', '.join(map(str, found))}" if len(found) <= 10 else f"{len(found)} seeds"


def _env(env_id: str, groups: Sequence[Group], video: Path | None, named: bool) -> list[Child]:
    runs = [run for group in groups for run in group.runs]
    decimals = return_decimals(runs)
    player, about_video = replay(groups, video, decimals)
    notes = [element("p", line, class_="note") for line in [*remarks(groups), *about_video]]
    return [
        element("h2", env_id or "unknown env", class_="env") if named else None,
        _results(groups, decimals),
        notes,
        return_charts(env_id, groups),
        success_chart(groups),
        _section("Runs", run_table(groups, decimals)) if len(runs) > 1 else None,
        _section("Replay", player),
        _section("Learning", legend(groups), _grid(learning_charts(groups))),
        _section("Speed", _grid([time_bars(groups), speed_chart(groups)])),
        _section("Settings that differ from the defaults", settings_table(groups)),
        _section("Command", commands(groups)),
        _section("Versions", versions_table(groups)),
    ]


def _results(groups: Sequence[Group], decimals: int) -> Markup:
    if len(groups) == 1:
        return join(element("p", sentence(groups[0], decimals), class_="result"), tiles(groups[0], decimals))
    return group_table(groups, decimals)


def _grid(charts: Sequence[Markup | None]) -> Markup | None:
    found = [chart for chart in charts if chart is not None]
    return element("div", found, class_="grid") if found else None


def _section(title: str, *parts: Markup | None) -> Markup | None:
    """A section; None if it would be empty."""
    return element("section", element("h2", title), *parts) if any(parts) else None


def _footer(runs: Sequence[Run]) -> Markup:
    made = f"Made by prl {importlib.metadata.version('prl')} on {time.strftime('%Y-%m-%d')}."
    return element("footer", element("p", _METHOD) if len(runs) > 1 else None, element("p", made))
