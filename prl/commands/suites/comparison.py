"""A comparison: contenders that are measured in turns, the medians, their ratios, and one table.

Figures depend on the machine and on its other load. So contenders take turns, several times round in one
sitting, only one is alive at a time, and what counts are ratios of medians.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from learner.settings import ConfigError
from workers.errors import describe

LOOP, LIMIT = "loop", "limit"  # one env in a plain loop; usable cores times that


@dataclass(frozen=True)
class Unit:
    """What is measured.

    Attributes:
        key: name in the result.
        heading: in the table.
        digits: after the decimal point.
        less_is_better: a ratio still says how many times as good something is.
    """

    key: str
    heading: str
    digits: int = 0
    less_is_better: bool = False


STEPS_PER_SECOND = Unit("steps_per_second", "steps/s")
SECONDS = Unit("seconds", "s", digits=2, less_is_better=True)
MEBIBYTES = Unit("mebibytes", "MiB", digits=1, less_is_better=True)


@dataclass(frozen=True)
class Package:
    """What has to be installed for a contender: `module` is imported, `distribution` is what pip installs."""

    module: str
    distribution: str

    @property
    def missing(self) -> str | None:
        """Why it cannot be used, and what to do about it; None if it is there."""
        if importlib.util.find_spec(self.module) is not None:
            return None
        return f"not installed; pip install {self.distribution}"


@dataclass(frozen=True)
class Contender:
    """One way to do it.

    Attributes:
        name: for `--only` and in the result.
        label: for the table.
        measure: one turn: starts, measures, ends. Its argument counts the turns from 0, for seeds.
        unit: of what `measure` returns. Infinite is "never".
        package: has to be installed; None needs nothing.
    """

    name: str
    label: str
    measure: Callable[[int], float]
    unit: Unit = STEPS_PER_SECOND
    package: Package | None = None


@dataclass(frozen=True)
class Ratio:
    """A column of the table: how many times as good as another contender's median.

    Attributes:
        key: name in the result.
        heading: in the table.
        bases: name -> name of the contender that it is compared with.
        percent: shown as a percentage.
    """

    key: str
    heading: str
    bases: Mapping[str, str]
    percent: bool = False

    def value(self, name: str, medians: Mapping[str, float], unit: Unit) -> float | None:
        """None if there is nothing to compare with."""
        base = medians.get(self.bases.get(name, ""))
        own = medians[name]
        if base is None or not (math.isfinite(base) and math.isfinite(own)):
            return None
        return base / own if unit.less_is_better else own / base

    def shown(self, value: float | None) -> str:
        """In the table."""
        if value is None:
            return "-"
        return f"{value:.0%}" if self.percent else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def to_all(base: str, contenders: Sequence[Contender]) -> dict[str, str]:
    """The bases of a ratio that compares all contenders with one."""
    return {**{contender.name: base for contender in contenders}, LIMIT: base}


@dataclass(frozen=True)
class Comparison:
    """What a suite measures.

    Attributes:
        title: what is fixed, in a few words.
        contenders: in the order of their turns and rows.
        ratios: the columns.
        repeats: turns of each.
        settings: for the result.
        cores: usable ones, for the limit.
    """

    title: str
    contenders: Sequence[Contender]
    ratios: Sequence[Ratio]
    repeats: int
    settings: Mapping[str, Any]
    cores: int

    def only(self, names: Sequence[str]) -> Comparison:
        """The comparison of some contenders; of all, if no name is given.

        Raises:
            ConfigError: there is no such contender.
        """
        known = {contender.name: contender for contender in self.contenders}
        for name in names:
            if name not in known:
                raise ConfigError(f"only must be names among {', '.join(known)}, got {name!r}")
        kept = [each for each in self.contenders if each.name in names or not names]
        return Comparison(self.title, kept, self.ratios, self.repeats, self.settings, self.cores)


def compare(comparison: Comparison) -> dict[str, Any]:
    """Measure all contenders in turn, as many times round as there are repeats.

    Returns:
        The settings, `cores`, `repeats`, `skipped` (name -> why) and `results`: name -> the median, under the
        key of its unit, `all` (one per turn; None is "never") and each ratio (None if there is nothing to
        compare with). The result "limit" is usable cores x "loop", if that is among the contenders.
    """
    skipped: dict[str, str] = {}
    for contender in comparison.contenders:
        if contender.package is not None and (why := contender.package.missing):
            skipped[contender.name] = why
    there = [contender for contender in comparison.contenders if contender.name not in skipped]
    values: dict[str, list[float]] = {contender.name: [] for contender in there}
    turns = [(turn, contender) for turn in range(comparison.repeats) for contender in there]
    for turn, contender in tqdm(turns, unit="turn", disable=None, leave=False):
        if contender.name not in skipped:
            gc.collect()  # or one's garbage would be collected on another's time
            try:
                values[contender.name].append(contender.measure(turn))
            except Exception as error:  # peers fail in their own ways; the others continue
                skipped[contender.name] = f"failed: {describe(error)}"
    found = {name: numbers for name, numbers in values.items() if name not in skipped}
    return {
        **comparison.settings,
        "cores": comparison.cores,
        "repeats": comparison.repeats,
        "results": _results(comparison, found),
        "skipped": skipped,
    }


def _results(comparison: Comparison, values: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    values = dict(values)
    if LOOP in values:
        values[LIMIT] = [comparison.cores * value for value in values[LOOP]]
    medians = {name: statistics.median(numbers) for name, numbers in values.items()}
    units = {contender.name: contender.unit for contender in comparison.contenders}
    results = {}
    for name, numbers in values.items():
        unit = units.get(name, STEPS_PER_SECOND)
        results[name] = {
            unit.key: _finite(medians[name]),
            "all": [_finite(number) for number in numbers],
            **{ratio.key: ratio.value(name, medians, unit) for ratio in comparison.ratios},
        }
    return results


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None  # JSON has no infinity


def format_table(comparison: Comparison, result: Mapping[str, Any]) -> str:
    """The result of `compare` in lines of text: a row per contender, and why it was left out, if it was."""
    results, skipped = result["results"], result["skipped"]
    rows = {contender.name: (contender.label, contender.unit) for contender in comparison.contenders}
    rows[LIMIT] = (f"limit: {comparison.cores} x the loop", STEPS_PER_SECOND)
    width = 2 + max(len(label) for name, (label, _) in rows.items() if name in results or name in skipped)
    units = {unit.heading for name, (_, unit) in rows.items() if name in results}
    # A column that has nothing to say about these contenders is left out.
    ratios = [r for r in comparison.ratios if any(row[r.key] is not None for row in results.values())]
    heading = units.pop() if len(units) == 1 else "median"
    headings = "".join(f"{ratio.heading:>{_wide(ratio)}}" for ratio in ratios)
    lines = [comparison.title, "", f"{'':{width}}{heading:>11}{'min .. max':>26}{headings}".rstrip()]
    for name, (label, unit) in rows.items():
        if name in results:
            row = results[name]
            cells = "".join(f"{ratio.shown(row[ratio.key]):>{_wide(ratio)}}" for ratio in ratios)
            lines.append(f"{label:{width}}{_numbers(row, unit)}{cells}")
        elif name in skipped:
            lines.append(f"{label:{width}}{skipped[name]}")
    return "\n".join(lines)


def _wide(ratio: Ratio) -> int:
    return max(9, len(ratio.heading) + 2)


def _numbers(row: Mapping[str, Any], unit: Unit) -> str:
    numbers = sorted(math.inf if value is None else value for value in row["all"])
    least, most = (_shown(value, unit) for value in (numbers[0], numbers[-1]))
    median = math.inf if row[unit.key] is None else row[unit.key]
    return f"{_shown(median, unit):>11}{f'{least} .. {most}':>26}"


def _shown(value: float, unit: Unit) -> str:
    return f"{value:,.{unit.digits}f}" if math.isfinite(value) else "never"
