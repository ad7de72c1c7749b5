"""Resumable studies: many environments, variants and seeds, against targets and a peer.

    python scripts/studies/study.py list
    python scripts/studies/study.py run --envs CartPole-v1 Acrobot-v1 --algos prl sb3 --seeds 0 1 2 --jobs 2
    python scripts/studies/study.py speed
    python scripts/studies/study.py report

Every unit (env, variant, seed) is a process of its own and leaves one JSON and one CSV file below
`docs/results`. What has its files is not done again, so a study can be interrupted and started again at any
time. `report` writes `docs/results.md` and a picture per env from the files.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import speed
from plans import SB3, STUDIES, Study, Unit, find
from results import curve_file, result_file
from units import EPISODES, ROOT, UnitError, run_unit

from prl.run.signals import Stopped, stop_on_signals

_FOLDER = ROOT / "docs" / "results"
_POLL = 0.1  # seconds between looks at running units
_PATIENCE = 20.0  # seconds that a stopped unit has to tidy up
_TAIL = 15  # lines of a failed unit's output
_TIMED = ("CartPole-v1", "Pendulum-v1", "LunarLander-v3", "HalfCheetah-v5")  # beside the peer
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_BAD_INPUT, _FAILED = 2, 1


class StudyError(Exception):
    """What was asked for cannot be done; one line says why."""


@dataclass
class Job:
    """A unit that is running.

    Attributes:
        unit: which.
        process: its process, which leads a session of its own: Ctrl-C is for the study, which passes it on.
        scratch: its working directory, since some simulators write logs there; what it prints is in `log`.
        start: when, on the monotonic clock.
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
    """Do the units that have no result, in their order, so many at a time.

    Returns:
        How many have failed. A unit that failed or was interrupted leaves no result.
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
        StudyError: a result is there, but of another budget.
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
    """Start a unit in a process of its own, on one thread."""
    scratch = tempfile.TemporaryDirectory(prefix="study-")
    with (Path(scratch.name) / "log").open("wb") as log:
        process = subprocess.Popen(
            unit_command(unit, folder.resolve(), jobs, num_workers),
            cwd=scratch.name,
            env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
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
    return [sys.executable, str(Path(__file__).resolve()), "one", *flags]


def conclude(job: Job, folder: Path) -> bool:
    """Say how a unit ended; whether it has a result."""
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
    """Remove what a unit without a result has left."""
    path = result_file(folder, unit)
    for left in (path, curve_file(folder, unit), *path.parent.glob(f"{path.stem}.*.tmp")):
        left.unlink(missing_ok=True)


def stop(running: Sequence[Job], folder: Path) -> None:
    """End units early: ask, wait, kill."""
    for job in running:
        job.process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for job in running:
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        job.scratch.cleanup()
        if not result_file(folder, job.unit).is_file():
            forget(job.unit, folder)


def chosen_units(args: argparse.Namespace) -> list[Unit]:
    """The units that the flags of `run` name, env after env, seed after seed.

    Raises:
        StudyError: an env or variant is not known.
    """
    studies = list(STUDIES) if args.envs is None else [known(name) for name in args.envs]
    variants = {variant for study in studies for variant in study.variants}
    unknown = set(args.algos or ()) - variants
    if unknown:
        raise StudyError(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(sorted(variants))}")
    return [
        Unit(study, variant, seed, max(1, round(study.budget * args.budget_scale)))
        for study in studies
        for seed in (range(study.seeds) if args.seeds is None else args.seeds)
        for variant in study.variants
        if args.algos is None or variant in args.algos
        if args.seeds is not None or seed < study.seeds_of(variant)
    ]


def known(name: str) -> Study:
    """The study of an env.

    Raises:
        StudyError: there is none.
    """
    try:
        return find(name)
    except KeyError:
        raise StudyError(f"no study of {name!r}; there are {', '.join(s.slug for s in STUDIES)}") from None


def need(module: str, package: str) -> None:
    """An optional package.

    Raises:
        StudyError: it is missing.
    """
    if importlib.util.find_spec(module) is None:
        raise StudyError(f"{package} is not installed: pip install {package}")


def command_run(args: argparse.Namespace) -> int:
    """`study.py run`."""
    units = chosen_units(args)
    if any(unit.variant == SB3 for unit in units):
        need("stable_baselines3", "stable-baselines3")
    with stop_on_signals():
        failed = run_units(units, args.folder, jobs=args.jobs, num_workers=args.num_workers)
    if failed:
        print(f"{failed} units failed; the same command does them again")
    return _FAILED if failed else 0


def command_one(args: argparse.Namespace) -> int:
    """`study.py one`: what `run` starts, and a way to repeat a single unit."""
    study = known(args.env)
    if args.algo not in study.variants:
        raise StudyError(f"no variant {args.algo} of {study.slug}; there are {', '.join(study.variants)}")
    if args.algo == SB3:
        need("stable_baselines3", "stable-baselines3")
    unit = Unit(study, args.algo, args.seed, args.budget or study.budget)
    with stop_on_signals():
        run_unit(unit, args.folder, jobs=args.jobs, num_workers=args.num_workers, episodes=args.episodes)
    return 0


def command_speed(args: argparse.Namespace) -> int:
    """`study.py speed`."""
    need("stable_baselines3", "stable-baselines3")
    args.folder.mkdir(parents=True, exist_ok=True)
    names = _TIMED if args.envs is None else args.envs
    studies = [known(name) for name in names]
    alone = [study.slug for study in studies if SB3 not in study.variants]
    if alone:
        raise StudyError(f"the peer has no settings for {', '.join(alone)}")
    with stop_on_signals(), tempfile.TemporaryDirectory(prefix="study-") as scratch:

        def train(unit: Unit, num_workers: int) -> dict[str, Any]:
            command = unit_command(unit, Path(scratch), 1, num_workers)
            done = subprocess.run(
                [*command, "--episodes", "1"],
                cwd=scratch,
                env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise UnitError(f"{unit.name} failed: {done.stderr.strip()[-500:]}")
            result: dict[str, Any] = json.loads(result_file(Path(scratch), unit).read_text(encoding="utf-8"))
            return result

        found = speed.measure(studies, args.steps, args.rounds, train, lambda line: print(line, flush=True))
    print(f"wrote {speed.write(args.folder, found)}; study.py report shows it")
    return 0


def command_report(args: argparse.Namespace) -> int:
    """`study.py report`."""
    if not args.folder.is_dir():
        raise StudyError(f"{args.folder} is no folder of results")
    need("matplotlib", "matplotlib")
    from report import write_report

    print(f"wrote {write_report(args.folder)}")
    return 0


def command_list(args: argparse.Namespace) -> int:
    """`study.py list`: what there is, and how many seeds are done."""
    print(f"{'env':<28}{'budget':>11}{'target':>8}  {'variant':<9}{'seeds done'}")
    for study in STUDIES:
        target = "none" if study.target is None else f"{study.target:g}"
        for variant in study.variants:
            done = len(list((args.folder / study.slug).glob(f"{variant}-seed*.json")))
            seeds = f"{done} of {study.seeds_of(variant)}"
            print(f"{study.slug:<28}{study.budget:>11,}{target:>8}  {variant:<9}{seeds}")
    return 0


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def not_negative(text: str) -> int:
    """A whole number, 0 or more."""
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    if not 0.0 < float(text) < math.inf:
        raise ValueError(text)
    return float(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="study.py", description="Resumable studies of many envs and seeds.")
    commands = top.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="do the units that have no result yet")
    run.add_argument("--envs", nargs="+", help="ids, with or without their module; all by default")
    run.add_argument("--algos", nargs="+", help="variants: prl, prl-rnd, sb3; all by default")
    run.add_argument(
        "--seeds", nargs="+", type=not_negative, help="by default as many as the study of the env has"
    )
    run.add_argument("--budget-scale", type=positive_number, default=1.0, help="of the budgets, for trials")
    one = commands.add_parser("one", help="do one unit, whether or not it has a result")
    one.add_argument("--env", required=True)
    one.add_argument("--algo", required=True)
    one.add_argument("--seed", type=not_negative, required=True)
    one.add_argument("--episodes", type=positive, default=EPISODES, help="of the evaluation")
    one.add_argument("--budget", type=positive, help="env steps; by default the study's")
    timing = commands.add_parser("speed", help="time training beside the peer's, one run at a time, in turns")
    timing.add_argument("--envs", nargs="+", help=f"ids; {', '.join(_TIMED)} by default")
    timing.add_argument("--rounds", type=positive, default=3, help="runs of each")
    timing.add_argument("--steps", type=positive, default=20_000, help="of each run")
    listing = commands.add_parser("list", help="show the studies and how many seeds are done")
    report = commands.add_parser("report", help="write the page and the pictures")
    for command in (run, one):
        command.add_argument("--jobs", type=positive, default=1, help="units at a time")
        command.add_argument(
            "--num-workers",
            type=not_negative,
            default=0,
            help="worker processes of each prl run; 0 steps inline",
        )
    for command in (run, one, timing, listing, report):
        command.add_argument("--folder", type=Path, default=_FOLDER, help="of the results")
    run.set_defaults(command=command_run)
    one.set_defaults(command=command_one)
    timing.set_defaults(command=command_speed)
    listing.set_defaults(command=command_list)
    report.set_defaults(command=command_report)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for bad input, 1 if a unit failed."""
    args = parser().parse_args(argv)
    try:
        code: int = args.command(args)
    except (StudyError, UnitError) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return _BAD_INPUT if isinstance(error, StudyError) else _FAILED
    except Stopped as stopped:
        print(f"study.py: {stopped}; the same command goes on", file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return _FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
