"""The page and pictures of the results, made from the result files."""

from __future__ import annotations

import csv
import statistics as plain
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import overlap
import speed
from plans import SB3, STUDIES, Study, find
from results import CURVE_HEADER, read_results

from prl import ConfigError
from prl.run.curves import Curve
from prl.run.files import replace_file
from prl.run.intervals import bootstrap_interval, interquartile_mean

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
_DPI = 120
_TRIMMED_FROM = 4  # seeds; below it the IQM is the plain mean

Results = dict[str, list[dict[str, Any]]]  # by variant
_INTRO = f"""# Results

What prl learns on well-known environments, and how that compares with targets and with Stable-Baselines3.
The part between the two marks is written by `python scripts/studies/study.py report`.

{BEGIN}
{END}
"""
_LEGEND = """\
The final policy of every seed plays 100 episodes that no training has seen, the same ones for all variants,
acting deterministically; the seed's score is their mean return. IQM: the interquartile mean of the scores,
without the lowest and the highest quarter of the seeds (each rounded down). Interval: percentile bootstrap
of the IQM over seeds, 10,000 resamples. Seconds: median wall-clock time of one training run, on one thread
unless its command says otherwise, while other runs used other cores ("runs at a time")."""

_SPEED_LEGEND = """\
`python scripts/studies/study.py speed`: seconds of training for the given number of steps, with the
settings of the tables (medians of the rounds in `speed.json`), one run at a time and in turns, every
process on one thread. Stable-Baselines3 steps its envs in the learner's process, as `prl` does; "2 workers"
are two processes beside the learner. Ratios are those of the medians: above 1, prl is faster. The settings
of the two differ, so this is how long the same number of steps takes, not how long the same update takes."""

_OVERLAP_LEGEND = """\
`--overlap` plays every batch with the weights before the last update (a lag of one), so it learns other
weights than the synchronous schedule. The same seeds of both, after the same number of steps: interquartile
means over seeds, with their 95 % intervals. "Mean of the curve" is the mean return of recent training
episodes, averaged over all steps of a run: how fast it has learnt. The curves are in the pictures below."""


def write_report(folder: Path) -> Path:
    """Write the page beside the folder of the results, and the pictures into it.

    Returns:
        The page; text outside the marks stays as it is.

    Raises:
        WriteError: the page cannot be written.
    """
    page = folder.parent / f"{folder.name}.md"
    found = results_in(folder)
    drawn = [study.slug for study in STUDIES if draw(study, found.get(study.env_id, {}), folder)]
    old = page.read_text(encoding="utf-8") if page.is_file() else _INTRO
    text = report_text(found, folder.name, drawn, speed.read(folder), overlap_rows(found, folder))
    replace_file(page, between_marks(old, text))
    return page


def results_in(folder: Path) -> dict[str, Results]:
    """All results of a folder by env id, in the order of the studies."""
    found = {study.env_id: results_of(study, folder) for study in STUDIES}
    return {env_id: results for env_id, results in found.items() if results}


def results_of(study: Study, folder: Path) -> Results:
    """All results of a study, by variant."""
    results = {variant: read_results(folder, study, variant) for variant in study.variants}
    return {variant: rows for variant, rows in results.items() if rows}


def between_marks(page: str, text: str) -> str:
    """Replace the text between the marks; a page without marks gets them at its end."""
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{text.strip()}\n{END}{rest.partition(END)[2]}"


def report_text(
    found: Mapping[str, Results],
    folder: str,
    pictures: Collection[str] = (),
    times: Mapping[str, Any] | None = None,
    overlapped: Sequence[Sequence[str]] = (),
) -> str:
    """The page's generated part.

    Args:
        found: results by env id and variant, in the order of the page.
        folder: of the pictures, as seen from the page.
        pictures: slugs of the envs that have one.
        times: what `speed.measure` returned.
        overlapped: rows of `overlap.HEADER`.
    """
    studies = [find(env_id) for env_id in found]
    rows = [
        summary_row(study, variant, results)
        for study in studies
        for variant, results in found[study.env_id].items()
    ]
    header = ("env", "budget", "target", "variant", "seeds", "IQM", "95 % interval", "seconds", "reached")
    parts = [_LEGEND, table(header, rows)]
    if times is not None:
        parts += [
            "## Seconds beside Stable-Baselines3's",
            _SPEED_LEGEND,
            table(speed.HEADER, speed.rows(times)),
        ]
    if overlapped:
        parts += [
            "## Overlap beside the synchronous schedule",
            _OVERLAP_LEGEND,
            table(overlap.HEADER, overlapped),
        ]
    for study in studies:
        parts.append(f"## {study.slug}")
        if study.slug in pictures:
            parts.append(f"![Learning curves on {study.slug}]({folder}/{study.slug}.png)")
        parts.append(seed_table(found[study.env_id]))
    return "\n\n".join(parts)


def overlap_rows(found: Mapping[str, Results], folder: Path) -> list[list[str]]:
    """Rows of `overlap.HEADER`, for the envs that have results of both schedules."""
    rows = [
        overlap.row(
            find(env_id).slug,
            results,
            {
                variant: {int(each["seed"]): curve_of(find(env_id), each, folder) for each in of_variant}
                for variant, of_variant in results.items()
            },
        )
        for env_id, results in found.items()
    ]
    return [row for row in rows if row is not None]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary_row(study: Study, variant: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """One row of the table of all envs."""
    scores = [result["evaluation"]["mean"] for result in results]
    few = " (plain mean: too few seeds)" if len(scores) < _TRIMMED_FROM else ""
    low, high = bootstrap_interval(scores)
    budgets = sorted({result["budget"] for result in results})
    return [
        study.slug,
        " and ".join(f"{budget:,}" for budget in budgets),
        target_text(study, variant),
        variant,
        f"{len(results)} of {study.seeds_of(variant)}",
        f"{number(float(interquartile_mean(scores)))}{few}",
        f"{number(low)} .. {number(high)}" if len(scores) > 1 else "one seed",
        f"{plain.median(result['train_wall_seconds'] for result in results):,.0f}",
        verdict(study, variant, scores),
    ]


def target_text(study: Study, variant: str) -> str:
    """The target of a variant, in words."""
    if study.target is None:
        return "none"
    if variant not in study.solved:
        return f"{study.target:g}"
    least, most = study.solved[variant]
    seeds = f"at least {least}" if most >= study.seeds else f"at most {most}"
    return f"above {study.target:g} on {seeds} of {study.seeds} seeds"


def verdict(study: Study, variant: str, scores: Sequence[float]) -> str:
    """Whether the target is reached, with "so far" while seeds are missing."""
    if study.target is None:
        return "no target"
    if variant in study.solved:
        least, most = study.solved[variant]
        solved = sum(score > study.target for score in scores)
        good, detail = least <= solved <= most, f": {solved} of {len(scores)}"
    else:
        good, detail = bool(interquartile_mean(scores) >= study.target), ""
    return f"{'yes' if good else 'no'}{detail}{'' if len(scores) >= study.seeds_of(variant) else ', so far'}"


def seed_table(results: Results) -> str:
    """The table of all seeds of an env."""
    header = ("variant", "seed", "mean return", "steps", "seconds", "runs at a time", "code", "command")
    rows = [seed_row(result) for of_variant in results.values() for result in of_variant]
    return table(header, rows)


def seed_row(result: Mapping[str, Any]) -> list[str]:
    """One row of `seed_table`."""
    scores, versions = result["evaluation"], result["versions"]
    code = f"sb3 {versions['sb3']}" if result["variant"] == SB3 else f"{versions['prl']}"
    return [
        result["variant"],
        str(result["seed"]),
        f"{number(scores['mean'])} ± {number(scores['std'])}",
        f"{result['timesteps']:,}",
        f"{result['train_wall_seconds']:,.0f}",
        str(result["jobs"]),
        code,
        f"`{result['command']}`",
    ]


def number(value: float) -> str:
    """A return in text: two decimals below 10, else one."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def draw(study: Study, results: Results, folder: Path) -> bool:
    """Draw the training curves of all variants. Returns False if there is nothing to draw."""
    from prl.commands.plot import draw as draw_curves  # late: matplotlib is optional

    if not results:
        return False
    curves = {}
    for variant, of_variant in results.items():
        read = [curve_of(study, result, folder) for result in of_variant]
        curves[variant] = [curve for curve in read if len(curve.steps)]
    try:
        figure = draw_curves({name: runs for name, runs in curves.items() if runs}, study.slug)
    except ConfigError:  # runs of very different lengths share no steps to average
        return False
    axes = figure.axes[0]
    if study.target is not None:
        axes.axhline(study.target, color="#9ca3af", linewidth=1.0, linestyle="--")
    axes.set_ylabel("mean return of recent training episodes")
    figure.savefig(folder / f"{study.slug}.png", dpi=_DPI, metadata={"Software": None})
    return True


def curve_of(study: Study, result: Mapping[str, Any], folder: Path) -> Curve:
    """The curve of a result."""
    path = folder / study.slug / f"{result['variant']}-seed{result['seed']}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [[float(row[name]) for name in CURVE_HEADER] for row in csv.DictReader(file)]
    steps, returns = np.array(rows, np.float64).reshape(-1, 2).T
    return Curve("", steps, returns)
