"""Files of results, written so that an incomplete result is never taken for a complete one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plans import Study, Unit

from prl.run.files import replace_file

CURVE_ROWS = 200
CURVE_HEADER = ("timesteps", "mean_return")
Curve = list[tuple[int, float]]


def result_file(folder: Path, unit: Unit) -> Path:
    """The JSON file of a unit; the unit is done when it exists."""
    return folder / unit.study.slug / f"{unit.variant}-seed{unit.seed}.json"


def curve_file(folder: Path, unit: Unit) -> Path:
    """The learning curve of a unit."""
    return result_file(folder, unit).with_suffix(".csv")


def write_result(folder: Path, unit: Unit, result: dict[str, Any], curve: Curve) -> None:
    """Write both files; the JSON file last, and in one step."""
    curve_rows = "\n".join(",".join(map(str, row)) for row in [CURVE_HEADER, *thinned(curve)])
    replace_file(curve_file(folder, unit), f"{curve_rows}\n")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]  # one line per key
    replace_file(result_file(folder, unit), "{\n" + ",\n".join(lines) + "\n}\n")


def read_results(folder: Path, study: Study, variant: str) -> list[dict[str, Any]]:
    """All results of a variant, by seed."""
    files = (folder / study.slug).glob(f"{variant}-seed*.json")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(results, key=lambda result: int(result["seed"]))


def thinned(curve: Curve, rows: int = CURVE_ROWS) -> list[tuple[int, str]]:
    """At most `rows` rows, evenly spaced, with the first and the last; returns rounded to six digits."""
    kept: Sequence[int] = range(len(curve))
    if len(curve) > rows:
        kept = np.linspace(0, len(curve) - 1, rows).round().astype(int).tolist()
    return [(curve[index][0], f"{curve[index][1]:.6g}") for index in kept]
