"""Units as processes: run several at a time, and stop them cleanly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plans import Unit
from results import curve_file, result_file
from units import UnitError

_STUDY = Path(__file__).resolve().parent / "study.py"
_POLL = 0.1  # seconds between looks at running units
_STOP_TIMEOUT = 20.0  # seconds that a stopped unit has for cleaning up
_TAIL = 15  # lines of a failed unit's output
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class StudyError(Exception):
    """The request cannot be carried out; one line says why."""


@dataclass
class Job:
    """A unit that is running.

    Attributes:
        unit: which one.
        process: in a separate session: Ctrl-C goes to the study, which passes it on.
        scratch: working directory, since some simulators write logs there; what the unit prints is in `log`.
        start: on the monotonic clock.
    """

    unit: Unit
    process: subprocess.Popen[bytes]
    scratch: tempfile.TemporaryDirectory[str]
    start: float

    @property
    def log(self) -> Path:
        """What the unit prints."""
        return Path(self.scratch.name) / "log"


def run_units(units: Sequence[Unit], folder: Path, *, jobs: int, num_workers: int = 0) -> int:
    """Run the units that have no result, in order.

    Args:
        units: of which some may be done.
        folder: of the results.
        jobs: units at a time.
        num_workers: of each prl run; 0 steps inline.

    Returns:
        The number of failures. A unit that failed or was interrupted leaves no result.

    Raises:
        StudyError: a result has another budget.
    """
    waiting = pending(units, folder)
    print(f"{len(units) - len(waiting)} of {len(units)} units are done", flush=True)
    waiting.reverse()
    running: list[Job] = []
    failed = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(start(waiting.pop(), folder, jobs, num_workers))
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                failed += not conclude(job, folder)
            time.sleep(_POLL if running else 0.0)
    finally:
        stop(running, folder)
    return failed


def pending(units: Sequence[Unit], folder: Path) -> list[Unit]:
    """The units without a result.

    Raises:
        StudyError: a result has another budget.
    """
    left = []
    for unit in units:
        path = result_file(folder, unit)
        if not path.is_file():
            left.append(unit)
        elif json.loads(path.read_text(encoding="utf-8"))["budget"] != unit.budget:
            raise StudyError(f"{path} has another budget than {unit.budget:,}; choose another --folder")
    return left


def start(unit: Unit, folder: Path, jobs: int, num_workers: int) -> Job:
    """Start a unit in a separate process, on one thread."""
    scratch = tempfile.TemporaryDirectory(prefix="study-")
    with (Path(scratch.name) / "log").open("wb") as log:
        process = subprocess.Popen(
            unit_command(unit, folder.resolve(), jobs, num_workers),
            cwd=scratch.name,
            env=one_thread(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Job(unit, process, scratch, time.monotonic())


def unit_command(unit: Unit, folder: Path, jobs: int, num_workers: int) -> list[str]:
    """The command line of a unit."""
    values = {
        "--env": unit.study.env_id,
        "--algo": unit.variant,
        "--seed": unit.seed,
        "--budget": unit.budget,
        "--folder": folder,
        "--jobs": jobs,
        "--num-workers": num_workers,
    }
    flags = [str(part) for pair in values.items() for part in pair]
    return [sys.executable, str(_STUDY), "one", *flags]


def conclude(job: Job, folder: Path) -> bool:
    """Print how a unit ended. Returns whether it has a result."""
    path = result_file(folder, job.unit)
    seconds = time.monotonic() - job.start
    good = job.process.returncode == 0 and path.is_file()
    if good:
        scores = json.loads(path.read_text(encoding="utf-8"))["evaluation"]
        print(f"{job.unit.name}: {scores['mean']:.2f} ± {scores['std']:.2f} in {seconds:.0f} s", flush=True)
    else:
        forget(job.unit, folder)
        print(f"{job.unit.name}: failed after {seconds:.0f} s (exit code {job.process.returncode})")
        lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        print("\n".join(f"    {line}" for line in lines), flush=True)
    job.scratch.cleanup()
    return good


def forget(unit: Unit, folder: Path) -> None:
    """Remove what a unit without a result has left behind."""
    path = result_file(folder, unit)
    for left in (path, curve_file(folder, unit), *path.parent.glob(f"{path.stem}.*.tmp")):
        left.unlink(missing_ok=True)


def stop(running: Sequence[Job], folder: Path) -> None:
    """End units early: ask, wait, kill."""
    for job in running:
        job.process.terminate()
    deadline = time.monotonic() + _STOP_TIMEOUT
    for job in running:
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        job.scratch.cleanup()
        if not result_file(folder, job.unit).is_file():
            forget(job.unit, folder)


def train_alone(unit: Unit, folder: Path, num_workers: int) -> dict[str, Any]:
    """Run one unit with a single evaluation episode, for its times, and wait for it.

    Returns:
        Its result.

    Raises:
        UnitError: it failed.
    """
    done = subprocess.run(
        [*unit_command(unit, folder, 1, num_workers), "--episodes", "1"],
        cwd=folder,
        env=one_thread(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UnitError(f"{unit.name} failed: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(result_file(folder, unit).read_text(encoding="utf-8"))
    return result


def one_thread() -> dict[str, str]:
    """The environment variables of a process whose libraries use one thread."""
    return os.environ | dict.fromkeys(_ONE_THREAD, "1")
