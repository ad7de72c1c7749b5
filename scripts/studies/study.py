"""Resumable studies: many environments, variants and seeds, against targets and a baseline.

    python scripts/studies/study.py list
    python scripts/studies/study.py run --envs CartPole-v1 Acrobot-v1 --algos prl sb3 --seeds 0 1 2 --jobs 2
    python scripts/studies/study.py speed
    python scripts/studies/study.py report

Every unit (env, variant, seed) runs in a separate process and leaves one JSON and one CSV file below
`docs/results`. Units that have their files are skipped, so a study can be interrupted and resumed at any
time. `report` writes `docs/results.md` and a picture per env from the files.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import speed
from jobs import StudyError, run_units, train_alone
from plans import SB3, STUDIES, Study, Unit, find
from units import EPISODES, ROOT, UnitError, run_unit

from prl.run.signals import Stopped, stop_on_signals

_FOLDER = ROOT / "docs" / "results"
_TIMED = ("CartPole-v1", "Pendulum-v1", "LunarLander-v3", "HalfCheetah-v5")  # beside the baseline
_BAD_INPUT, _FAILED = 2, 1


def chosen_units(args: argparse.Namespace) -> list[Unit]:
    """The units that the flags of `run` select, env by env and seed by seed.

    Raises:
        StudyError: unknown env or variant.
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
        StudyError: unknown env.
    """
    try:
        return find(name)
    except KeyError:
        raise StudyError(f"no study of {name!r}; there are {', '.join(s.slug for s in STUDIES)}") from None


def need(module: str, package: str) -> None:
    """Check that an optional package is installed.

    Raises:
        StudyError: it is not.
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
        print(f"{failed} units failed; the same command runs them again")
    return _FAILED if failed else 0


def command_one(args: argparse.Namespace) -> int:
    """`study.py one`: a single unit, as `run` starts it."""
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
    missing = [study.slug for study in studies if SB3 not in study.variants]
    if missing:
        raise StudyError(f"the baseline has no settings for {', '.join(missing)}")
    with stop_on_signals(), tempfile.TemporaryDirectory(prefix="study-") as scratch:
        found = speed.measure(
            studies,
            args.steps,
            args.rounds,
            lambda unit, num_workers: train_alone(unit, Path(scratch), num_workers),
            lambda line: print(line, flush=True),
        )
    print(f"wrote {speed.write(args.folder, found)}; study.py report shows it")
    return 0


def command_report(args: argparse.Namespace) -> int:
    """`study.py report`."""
    if not args.folder.is_dir():
        raise StudyError(f"{args.folder} is not a folder of results")
    need("matplotlib", "matplotlib")
    from report import write_report

    print(f"wrote {write_report(args.folder)}")
    return 0


def command_list(args: argparse.Namespace) -> int:
    """`study.py list`: all studies, and how many seeds are done."""
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

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.add_argument("--folder", type=Path, default=_FOLDER, help="of the results")
        added.set_defaults(command=function)
        return added

    add_run_flags(command("run", command_run, "run the units that have no result yet"))
    add_one_flags(command("one", command_one, "run one unit, whether or not it has a result"))
    timing = "time training beside the baseline's, one run at a time, in turns"
    add_speed_flags(command("speed", command_speed, timing))
    command("list", command_list, "show the studies and how many seeds are done")
    command("report", command_report, "write the page and the pictures")
    return top


def add_run_flags(run: argparse.ArgumentParser) -> None:
    """The flags of `study.py run`."""
    run.add_argument("--envs", nargs="+", help="ids, with or without their module; all by default")
    run.add_argument("--algos", nargs="+", help="variants: prl, prl-rnd, sb3; all by default")
    run.add_argument("--seeds", nargs="+", type=not_negative, help="by default those of the study")
    run.add_argument(
        "--budget-scale", type=positive_number, default=1.0, help="multiplies budgets, for trials"
    )
    add_job_flags(run)


def add_one_flags(one: argparse.ArgumentParser) -> None:
    """The flags of `study.py one`."""
    one.add_argument("--env", required=True)
    one.add_argument("--algo", required=True)
    one.add_argument("--seed", type=not_negative, required=True)
    one.add_argument("--episodes", type=positive, default=EPISODES, help="of the evaluation")
    one.add_argument("--budget", type=positive, help="env steps; by default the study's")
    add_job_flags(one)


def add_job_flags(command: argparse.ArgumentParser) -> None:
    """What `run` passes on to `one`."""
    workers = "worker processes of each prl run; 0 steps inline"
    command.add_argument("--jobs", type=positive, default=1, help="units at a time")
    command.add_argument("--num-workers", type=not_negative, default=0, help=workers)


def add_speed_flags(timing: argparse.ArgumentParser) -> None:
    """The flags of `study.py speed`."""
    timing.add_argument("--envs", nargs="+", help=f"ids; {', '.join(_TIMED)} by default")
    timing.add_argument("--rounds", type=positive, default=3, help="runs of each")
    timing.add_argument("--steps", type=positive, default=20_000, help="of each run")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for bad input, 1 if a unit failed."""
    args = parser().parse_args(argv)
    try:
        code: int = args.command(args)
    except (StudyError, UnitError) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return _BAD_INPUT if isinstance(error, StudyError) else _FAILED
    except Stopped as stopped:
        print(f"study.py: {stopped}; the same command continues", file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:  # the reader of our output is gone, as in `... | head`
        sys.stderr.close()
        return _FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
