"""Put prl, Gymnasium's AsyncVectorEnv and Stable-Baselines3's SubprocVecEnv through the same faults.

    python scripts/fault_scorecard.py                          # about ten minutes on two cores
    python scripts/fault_scorecard.py --trials 2 --seconds 30  # shorter

A system that is not installed is left out with a line. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fault_systems import NUM_ENVS, STEPS

from workers.watching import adopt_orphans, orphans_after, workers_of

_FAULTS = ("sigkill", "idle", "os_exit", "raise", "hang", "sigstop")
_NAMES = {
    "sigkill": "SIGKILL in a step",
    "idle": "SIGKILL between steps",
    "os_exit": "`os._exit` in a step",
    "raise": "an exception in a step, once",
    "hang": "a step that never ends, once",
    "sigstop": "SIGSTOP in a step",
}
_LIMIT = 30.0  # seconds after which something hangs
_ORPHANS_END = 2.0  # seconds
_KILL_EVERY = 10.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=5, help="of each fault")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each training for throughput")
    parser.add_argument("--pairs", type=int, default=3, help="of trainings, with kills and without")
    arguments = parser.parse_args(argv)
    adopt_orphans()
    systems = ["prl", "Gymnasium"]
    if importlib.util.find_spec("stable_baselines3"):
        systems.append("SB3")
    else:
        print("stable_baselines3 is not installed, so SubprocVecEnv is left out", file=sys.stderr)
    print("| what | " + " | ".join(systems) + " |\n|---|" + "---|" * len(systems), flush=True)
    for kind in _FAULTS:
        _row(_NAMES[kind], [_fault(system, kind, arguments.trials) for system in systems])
    for kind, name in (("slow", "stepping"), ("hang", "hung")):
        words = f"processes left 2 s after a SIGKILL of the learner, workers {name}"
        _row(words, [_orphans(system, kind, arguments.trials) for system in systems])
    words = "descriptors left over per restart"
    _row(words, [_one("descriptors", system, "", "per_restart") for system in systems])
    only = ["-"] * (len(systems) - 1)  # peers do not go on, and have nothing to pay for
    _row(
        f"steps per second with a kill every {_KILL_EVERY:g} s, of those without",
        [_throughput(arguments.seconds, arguments.pairs), *only],
    )
    for transport in ("shared", "pipe"):
        words = f"time of an undisturbed step, of that of a pool that does not recover ({transport})"
        _row(words, [_cost(transport), *only])
    return 0


def _row(name: str, cells: Sequence[str]) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _command(job: str, system: str, argument: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("fault_systems.py")), job, system, argument]


def _measured(job: str, system: str, argument: str, limit: float = _LIMIT) -> dict[str, Any] | None:
    """What a measurement says; None if it hangs, and {} if it breaks."""
    process = subprocess.Popen(
        _command(job, system, argument), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if job == "fault":
            _await_ready(process)
        said, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        orphans_after(0.0)  # they hold the pipes open
        process.communicate()
        return None
    finally:
        orphans_after(0.0)
    if process.returncode or not said:
        print(f"{job} {system} {argument}: {errors[-300:]}", file=sys.stderr)
        return {}
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def _await_ready(process: subprocess.Popen[str]) -> None:
    """Wait until the envs are built and reset, however long that takes on a busy machine."""
    assert process.stdout is not None, "it is a pipe"
    process.stdout.readline()


def _fault(system: str, kind: str, trials: int) -> str:
    """What comes of a fault, in a few words."""
    results = [_measured("fault", system, kind) for _ in range(trials)]
    hangs = sum(found is None for found in results)
    ended = [found for found in results if found]
    words = [f"hangs {hangs} of {trials}"] if hangs else []
    if ended:
        outcome = statistics.mode(found["outcome"] for found in ended)
        noticed = _milliseconds(found["noticed"] for found in ended)
        missing, twice = _most(ended, "missing"), _most(ended, "twice")
        rows = f"{missing} of {NUM_ENVS * (STEPS + 1)} rows missing, {twice} twice"
        if outcome == "goes on":
            recovered = _milliseconds(found["recovered"] for found in ended)
            words.append(f"noticed after {noticed}, goes on after {recovered}; {rows}")
        else:
            words.append(f"`{outcome}` after {noticed}; {rows}")
    return "; ".join(words) or "breaks"


def _milliseconds(seconds: Any) -> str:
    found = [value for value in seconds if not math.isnan(value)]
    return f"{1000.0 * statistics.median(found):,.0f} ms" if found else "-"


def _most(results: Sequence[dict[str, Any]], name: str) -> int:
    return max(int(found[name]) for found in results)


def _orphans(system: str, kind: str, trials: int) -> str:
    left = []
    for _ in range(trials):
        process = subprocess.Popen(
            _command("learner", system, kind), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None, "it is a pipe"
        process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)  # into the third step
        process.kill()
        process.wait()
        process.stdout.close()
        left.append(orphans_after(_ORPHANS_END))
    return f"{sum(left)} after {trials} kills"


def _one(job: str, system: str, argument: str, name: str) -> str:
    found = _measured(job, system, argument, limit=10 * _LIMIT)
    if found is None:
        return "hangs"
    return f"{found[name]:.1f}" if found else "breaks"


def _cost(transport: str) -> str:
    found = _measured("undisturbed", "prl", transport, limit=20 * _LIMIT)
    if not found:
        return "hangs" if found is None else "breaks"
    return f"{found['median']:.3f} (median), {found['fastest_tenth']:.3f} (fastest tenth)"


def _throughput(seconds: float, pairs: int) -> str:
    """Of training CartPole-v1, in turns with and without kills."""
    ratios = [_rate(seconds, kills=True) / _rate(seconds, kills=False) for _ in range(pairs)]
    spread = f"{100 * min(ratios):.0f} to {100 * max(ratios):.0f}"
    return f"{100 * statistics.median(ratios):.0f} % ({spread} in {pairs} pairs of {seconds:g} s)"


def _rate(seconds: float, kills: bool) -> float:
    """Steps per second of a training that is stopped after some time."""
    flags = "--env-id CartPole-v1 --preset none --num-workers 2 --num-envs 32 --total-timesteps 1000000000"
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = [sys.executable, "-m", "prl", "train", *flags.split(), "--run-folder", str(run)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (run / "progress.csv").exists():
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        over = threading.Timer(seconds, process.send_signal, (signal.SIGTERM,))
        over.start()
        _wait(process, lambda: _kill_one(process.pid) if kills else None)
        summary = json.loads((run / "summary.json").read_text())
    return float(summary["timesteps"] / summary["wall_seconds"])


def _wait(process: subprocess.Popen[bytes], regularly: Callable[[], None]) -> None:
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_EVERY)
            return
        regularly()


def _kill_one(learner: int) -> None:
    pids = workers_of(learner)
    with suppress(ProcessLookupError):
        if pids:
            os.kill(random.choice(pids), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
