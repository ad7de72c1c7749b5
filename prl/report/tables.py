"""Tables of a report: of groups, of runs, of anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from prl.report.chart import color_class
from prl.report.facts import (
    Statistic,
    best_evaluation,
    final_evaluation,
    statistic,
    success_rate,
    training_return,
    training_speed,
    wall_seconds,
)
from prl.report.grouping import Group
from prl.report.markup import Markup, element
from prl.report.numbers import count, duration, fixed, percent
from prl.report.reading import Run


@dataclass(frozen=True)
class _Column:
    """Of a table of runs.

    Attributes:
        head: above it.
        cell: the text of a run.
        is_number: numbers stand at the right.
        of: the number over which statistics are made, if any.
        show: its text.
    """

    head: str
    cell: Callable[[Run], str | Markup]
    is_number: bool = True
    of: Callable[[Run], float] | None = None
    show: Callable[[float], str] | None = None


def _statistical(head: str, of: Callable[[Run], float], show: Callable[[float], str]) -> _Column:
    return _Column(head, lambda run: show(of(run)), of=of, show=show)


def group_table(groups: Sequence[Group], decimals: int) -> Markup:
    """A row per group: what is compared."""
    returns = partial(fixed, decimals=decimals)
    columns = [
        _statistical("final evaluation", final_evaluation, returns),
        _statistical("training return", training_return, returns),
        _statistical("success", success_rate, percent),
    ]
    shown = [c for c in columns if any(_statistic(c, group) for group in groups)]
    has_intervals = any(_middle_and_ends(c, group)[1] for c in shown for group in groups)
    parts = 2 if has_intervals else 1  # the mean, and the interval if there is one anywhere
    heads = ["", "runs", *(h for c in shown for h in (c.head, "95 % interval")[:parts]), "steps/s"]
    rows = [
        [
            _named(group.label, group.color),
            _number_cell(str(len(group.compared))),
            *(_number_cell(text) for column in shown for text in _middle_and_ends(column, group)[:parts]),
            _number_cell(_middle_and_ends(_statistical("steps/s", training_speed, count), group)[0]),
        ]
        for group in groups
    ]
    return table(heads, rows, numbers_from=1)


def _statistic(column: _Column, group: Group) -> Statistic | None:
    return None if column.of is None else statistic(group.compared, column.of)


def _middle_and_ends(column: _Column, group: Group) -> tuple[str, str]:
    """The texts of a column's interquartile mean and interval; "" where there is none."""
    found = _statistic(column, group)
    if found is None or column.show is None:
        return "", ""
    ends = "" if found.interval is None else " to ".join(map(column.show, found.interval))
    return column.show(found.middle), ends


def run_table(groups: Sequence[Group], decimals: int) -> Markup:
    """A row per run, and for a single group what they have in common in the last rows."""
    runs = [run for group in groups for run in group.runs]
    every = _columns(decimals)
    columns = [column for column in every if any(column.cell(run) not in ("", "–") for run in runs)]
    heads = [element("th", "run"), *(_head(column.head, column.is_number) for column in columns)]
    rows = [
        element(
            "tr",
            _named(run.name, group.color if len(groups) > 1 else None),
            [element("td", column.cell(run), class_="n" if column.is_number else None) for column in columns],
        )
        for group in groups
        for run in group.runs
    ]
    return _scrolled(heads, [*rows, *(_total_rows(groups[0], columns) if len(groups) == 1 else [])])


def _total_rows(group: Group, columns: Sequence[_Column]) -> list[Markup]:
    texts = [_middle_and_ends(column, group) for column in columns]
    middles, ends = ([_number_cell(text) for text in row] for row in zip(*texts, strict=True))
    rows = [element("tr", element("th", "interquartile mean", scope="row"), middles, class_="total")]
    if any(end for _, end in texts):
        rows.append(element("tr", element("th", "95 % interval", scope="row"), ends, class_="total quiet"))
    return rows


def _columns(decimals: int) -> list[_Column]:
    returns = partial(fixed, decimals=decimals)
    return [
        _Column("seed", lambda run: "" if run.seed is None else str(run.seed)),
        _statistical("final evaluation", final_evaluation, returns),
        _Column("± std", lambda run: returns(run.last("eval/std_reward"))),
        _statistical("best", lambda run: best_evaluation(run)[0], returns),
        _statistical("training return", training_return, returns),
        _statistical("success", success_rate, percent),
        _Column("steps", lambda run: count(run.steps)),
        _statistical("steps/s", training_speed, count),
        _Column("time", lambda run: duration(wall_seconds(run))),
        _Column("ended", lambda run: run.status, is_number=False),
        _Column("weights", _weights, is_number=False),
    ]


def _weights(run: Run) -> str | Markup:
    digest = str((run.summary or {}).get("weights_sha256") or "")
    return element("code", digest[:8], title=f"SHA-256 of the weights: {digest}") if digest else ""


def _named(name: str, color: int | None) -> Markup:
    swatch = None if color is None else element("i", class_=f"swatch {color_class(color)}")
    return element("th", swatch, name, scope="row")


def _number_cell(text: str) -> Markup:
    return element("td", text, class_="n")


def _head(text: str, is_number: bool) -> Markup:
    return element("th", text, class_="n" if is_number else None)


def table(heads: Sequence[str], rows: Sequence[Sequence[Markup]], numbers_from: int | None = None) -> Markup:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        heads: one per column.
        rows: of cells.
        numbers_from: the first column of numbers, which stand at the right; None if there is none.
    """
    first = len(heads) if numbers_from is None else numbers_from
    return _scrolled(
        [_head(head, index >= first) for index, head in enumerate(heads)],
        [element("tr", row) for row in rows],
    )


def _scrolled(heads: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    whole = element("table", element("thead", element("tr", heads)), element("tbody", rows))
    return element("div", whole, class_="scroll", tabindex="0")  # so that keys can scroll it, too
