"""Wall-clock time of training beside the peer's: one run at a time, in turns, so a busy minute hits all."""

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


class Contestant(NamedTuple):
    """Who trains: a variant of the studies, and prl's number of workers (0 steps inline)."""

    name: str
    variant: str
    num_workers: int


CONTESTANTS = (
    Contestant("prl", "prl", 0),
    Contestant("prl, 2 workers", "prl", 2),
    Contestant("sb3", SB3, 0),
)

Timed = Callable[[Unit, int], dict[str, Any]]
"""Trains a unit with so many workers, and returns its result."""


def measure(
    studies: Sequence[Study], steps: int, rounds: int, train: Timed, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train every contestant on every env, round after round.

    Args:
        studies: of envs that the peer plays, too.
        steps: of each run.
        rounds: every one with a seed of its own.
        train: one run.
        say: gets a line per run.

    Returns:
        For each env, its steps and the seconds of each contestant, round after round; and what was measured.
    """
    found: dict[str, Any] = {"envs": {}, "versions": {}, "cpus": os.cpu_count()}
    for seed in range(rounds):
        for study in studies:
            entry = found["envs"].setdefault(study.slug, {"steps": steps, "seconds": {}})
            for contestant in CONTESTANTS:
                result = train(Unit(study, contestant.variant, seed, steps), contestant.num_workers)
                # Updates are not cut short, so nobody plays so many steps exactly.
                seconds = result["train_wall_seconds"] * steps / result["timesteps"]
                entry["seconds"].setdefault(contestant.name, []).append(round(seconds, 3))
                found["versions"] = result["versions"]
                say(f"round {seed}: {study.slug}, {contestant.name}: {seconds:.1f} s")
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
        prl, workers, sb3 = (statistics.median(entry["seconds"][each.name]) for each in CONTESTANTS)
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
