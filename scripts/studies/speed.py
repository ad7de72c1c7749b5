"""Training time beside the baseline's: one run at a time, in turns, so that a busy minute slows all."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plans import SB3, Study, Unit

FILE = "speed.json"
HEADER = ("env", "steps", "prl", "prl, 2 workers", "sb3", "sb3 / prl", "sb3 / prl, 2 workers")


class Setup(NamedTuple):
    """What is timed: a variant of the studies, with prl's number of workers (0 steps inline)."""

    name: str
    variant: str
    num_workers: int


SETUPS = (
    Setup("prl", "prl", 0),
    Setup("prl, 2 workers", "prl", 2),
    Setup("sb3", SB3, 0),
)

TrainUnit = Callable[[Unit, int], dict[str, Any]]
"""Trains a unit with a number of workers and returns its result."""


def measure(
    studies: Sequence[Study], steps: int, rounds: int, train: TrainUnit, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train every setup on every env, round by round.

    Args:
        studies: of envs for which the baseline has settings.
        steps: of each run.
        rounds: each with a different seed.
        train: one run.
        say: called with a line per run.

    Returns:
        For each env, the steps and the seconds of each setup in every round; and the versions and CPUs.
    """
    found: dict[str, Any] = {"envs": {}, "versions": {}, "cpus": os.cpu_count()}
    for seed in range(rounds):
        for study in studies:
            entry = found["envs"].setdefault(study.slug, {"steps": steps, "seconds": {}})
            for setup in SETUPS:
                result = train(Unit(study, setup.variant, seed, steps), setup.num_workers)
                # Runs end with a whole update, so they play a few more steps.
                seconds = result["train_wall_seconds"] * steps / result["timesteps"]
                entry["seconds"].setdefault(setup.name, []).append(round(seconds, 3))
                found["versions"] = result["versions"]
                say(f"round {seed}: {study.slug}, {setup.name}: {seconds:.1f} s")
    return found


def write(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write what `measure` has found."""
    path = folder / FILE
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The table of `HEADER`: medians in seconds, and ratios of medians."""
    lines = []
    for env, entry in found["envs"].items():
        prl, workers, sb3 = (statistics.median(entry["seconds"][each.name]) for each in SETUPS)
        seconds = [f"{value:.1f}" for value in (prl, workers, sb3)]
        lines.append([env, f"{entry['steps']:,}", *seconds, f"{sb3 / prl:.2f}", f"{sb3 / workers:.2f}"])
    return lines


def read(folder: Path) -> dict[str, Any] | None:
    """What was written, if anything was."""
    path = folder / FILE
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
