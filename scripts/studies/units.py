"""One unit of work: train, evaluate the final policy on 100 new episodes, and write the result."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from baseline import train_and_play
from plans import SB3, Unit
from results import Curve, write_result

from prl import ConfigError, episode_seed
from prl.run.curves import read_curve
from prl.run.files import versions

ROOT = Path(__file__).resolve().parent.parent.parent
EPISODES = 100
EVAL_SEED = 1_000_000  # no training run has seen these episodes
_CODE = ("prl", "workers", "learner", "scripts")


class UnitError(RuntimeError):
    """A unit could not be carried out."""


@dataclass(frozen=True)
class Outcome:
    """The result of a unit.

    Attributes:
        timesteps: env steps of training; a little more than the budget, since runs end with a whole update.
        returns: of the evaluation's episodes.
        train_seconds, eval_seconds: wall-clock, without imports.
        curve: pairs of steps and mean return of recent training episodes.
        settings: all of them.
        command: repeats the training.
    """

    timesteps: int
    returns: list[float]
    train_seconds: float
    eval_seconds: float
    curve: Curve
    settings: dict[str, Any]
    command: str


def run_unit(unit: Unit, folder: Path, *, jobs: int, num_workers: int, episodes: int = EPISODES) -> None:
    """Carry out a unit and write its result.

    Args:
        unit: what to train.
        folder: of the results.
        jobs: units that run at the same time, for the result.
        num_workers: of a prl run; 0 steps inline.
        episodes: of the evaluation.

    Raises:
        UnitError: training failed.
    """
    code = code_versions()  # of what is about to run, not of what lies there hours later
    outcome = run_baseline(unit, episodes) if unit.variant == SB3 else run_prl(unit, num_workers, episodes)
    write_result(folder, unit, describe(unit, outcome, jobs, code), outcome.curve)


def run_prl(unit: Unit, num_workers: int, episodes: int) -> Outcome:
    """Train with `scripts/train.py`, as a user would."""
    flags = training_flags(unit, num_workers)
    with tempfile.TemporaryDirectory(prefix="study-") as parent:
        run = Path(parent) / "run"
        train(flags, run)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        start = time.perf_counter()
        returns = evaluate(run, episodes)
        return Outcome(
            timesteps=summary["timesteps"],
            returns=returns,
            train_seconds=summary["wall_seconds"],
            eval_seconds=time.perf_counter() - start,
            curve=training_curve(run),
            settings=yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")),
            command=shlex.join(["python", "scripts/train.py", *flags]),
        )


def training_flags(unit: Unit, num_workers: int) -> list[str]:
    """Flags of `train.py`; all other settings are the presets of the env."""
    return [
        "--env-id",
        unit.study.env_id,
        "--total-timesteps",
        str(unit.budget),
        "--seed",
        str(unit.seed),
        "--num-workers",
        str(num_workers),
        *unit.study.prl[unit.variant],
    ]


def train(flags: list[str], run: Path) -> None:
    """Run `train.py` with a new run folder.

    Raises:
        UnitError: it failed.
    """
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *flags, "--run-folder", str(run)]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise UnitError(f"train.py ended with exit code {code}")


def evaluate(run: Path, episodes: int) -> list[float]:
    """The returns of the final policy, acting deterministically."""
    import torch  # late: takes seconds, and only `one` needs it

    from prl.run.saved_run import evaluate_run

    torch.set_num_threads(1)
    played = evaluate_run(run, episodes=episodes, seed=EVAL_SEED)
    return [episode.episode_return for episode in played]


def training_curve(run: Path) -> Curve:
    """The curve of a run folder; empty if no episode has ended."""
    try:
        curve = read_curve(run)
    except ConfigError:
        return []
    return [(int(steps), float(mean)) for steps, mean in zip(curve.steps, curve.returns, strict=True)]


def run_baseline(unit: Unit, episodes: int) -> Outcome:
    """Train and evaluate Stable-Baselines3 on the same budget and the same episodes."""
    seeds = [episode_seed(EVAL_SEED, 0, number) for number in range(episodes)]
    found = train_and_play(unit.study.env_id, unit.budget, unit.seed, seeds)
    flags = ["--env", unit.study.slug, "--algo", SB3, "--seed", str(unit.seed), "--budget", str(unit.budget)]
    return Outcome(**found, command=shlex.join(["python", "scripts/studies/study.py", "one", *flags]))


def describe(unit: Unit, outcome: Outcome, jobs: int, code: dict[str, str | None]) -> dict[str, Any]:
    """The result as it is written."""
    from prl import fingerprint  # late: loads torch

    returns = np.asarray(outcome.returns)
    return {
        "env_id": unit.study.env_id,
        "variant": unit.variant,
        "seed": unit.seed,
        "budget": unit.budget,
        "timesteps": outcome.timesteps,
        "command": outcome.command,
        "evaluation": {
            "episodes": len(outcome.returns),
            "seed": EVAL_SEED,
            "mean": round(float(returns.mean()), 6),
            "std": round(float(returns.std()), 6),
            "min": round(float(returns.min()), 6),
            "max": round(float(returns.max()), 6),
            "returns": [round(value, 4) for value in outcome.returns],
        },
        "train_wall_seconds": round(outcome.train_seconds, 2),
        "eval_wall_seconds": round(outcome.eval_seconds, 2),
        "jobs": jobs,
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "os": platform.system(),
            "fingerprint": fingerprint(),
        },
        "versions": code,
        "settings": outcome.settings,
    }


def code_versions() -> dict[str, str | None]:
    """Versions of the code that is measured; None is not installed."""
    packages = {"torch": "torch", "gymnasium": "gymnasium", "sb3": "stable-baselines3"}
    found = versions(packages.values())
    return {"prl": commit(), **{name: found.get(package) for name, package in packages.items()}}


def commit() -> str | None:
    """Short hash of the code, with "-dirty" if it has been changed since; None outside a repository."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}-dirty" if changed else name


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
