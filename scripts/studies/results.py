"""Where results lie, and how they are written so that half of one is never taken for a whole."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from plans import Study, Unit

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
    """Write both files; the JSON file last, and in one piece."""
    path = result_file(folder, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with curve_file(folder, unit).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([CURVE_HEADER, *thinned(curve)])
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]  # one line per key
    draft.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    draft.replace(path)


def read_results(folder: Path, study: Study, variant: str) -> list[dict[str, Any]]:
    """All results of a variant, in the order of their seeds."""
    files = (folder / study.slug).glob(f"{variant}-seed*.json")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(results, key=lambda result: int(result["seed"]))


def thinned(curve: Curve, rows: int = CURVE_ROWS) -> list[tuple[int, str]]:
    """At most so many rows, evenly spread, first and last among them; returns rounded to six digits."""
    kept: Sequence[int] = range(len(curve))
    if len(curve) > rows:
        kept = np.linspace(0, len(curve) - 1, rows).round().astype(int).tolist()
    return [(curve[index][0], f"{curve[index][1]:.6g}") for index in kept]
