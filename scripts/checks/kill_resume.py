"""Kill training at random moments, and see what is left and whether it goes on to the same weights.

    python scripts/checks/kill_resume.py                        # 20 trials in each of several modes
    python scripts/checks/kill_resume.py --trials 200 --no-resume     # only: orphans, and whether it loads
    python scripts/checks/kill_resume.py -- --env-id LunarLander-v3 --total-timesteps 8000

After `--` come flags of `prl train`, in place of those of the modes. Every run is resumed, also one that was
killed before its first checkpoint; one that has not yet written its settings is begun again in its folder.

Exit code 1 if a process is left after 2 s, a checkpoint does not load, or weights differ.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prl.run.checkpoint_files import CheckpointError, read_checkpoint
from prl.run.checkpoints import Checkpoints

_BASE = (
    "--env-id CartPole-v1 --preset none --num-workers 2 --num-envs 8 --num-groups 2 --batch-size 400 --seed 3"
)
_STEPS = "--rollout steps --num-steps 50"
MODES = {
    "episodes": f"{_BASE} --total-timesteps 8000 --eval-freq 3000 --eval-episodes 2",
    "steps, normalised": f"{_BASE} {_STEPS} --total-timesteps 8000 --normalize-obs --normalize-reward",
    "episodes, overlap": f"{_BASE} --total-timesteps 8000 --overlap",
    "steps, overlap, rnd": f"{_BASE} {_STEPS} --total-timesteps 8000 --overlap --rnd",
    "the learner acts, pipes": f"{_BASE} --total-timesteps 8000 --acting learner --transport pipe",
}
_BEFORE = 0.2  # kills before the first checkpoint, for each one after it
_ORPHANS_END = 2.0  # seconds
_SET_CHILD_SUBREAPER = 36  # of prctl(2): who loses its parent becomes a child of this process


@dataclass(frozen=True)
class Trial:
    """One kill.

    Attributes:
        steps: of the newest checkpoint; -1 before the first.
        orphans: processes that are left after 2 s.
        loads: whether all checkpoints do.
        is_same: whether the weights are those of the undisturbed run; None if it did not go on.
    """

    steps: int
    orphans: int
    loads: bool
    is_same: bool | None

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.orphans == 0 and self.loads and self.is_same is not False


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="kills in each mode")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no-resume", action="store_true", help="do not go on after the kill")
    parser.add_argument("flags", nargs="*", help="of prl train, after --")
    arguments = parser.parse_args(argv)
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    modes = {"given flags": " ".join(arguments.flags)} if arguments.flags else MODES
    moments = random.Random(arguments.seed)
    print("| mode | kills | before a checkpoint | orphans | checkpoints that load | same weights |")
    print("|---|---|---|---|---|---|")
    good = True
    for name, flags in modes.items():
        with tempfile.TemporaryDirectory() as folder:
            trials = _trials(Path(folder), flags.split(), arguments.trials, moments, not arguments.no_resume)
        print(_row(name, trials), flush=True)
        good &= all(trial.is_good for trial in trials)
    return 0 if good else 1


def _row(name: str, trials: Sequence[Trial]) -> str:
    went_on = [trial for trial in trials if trial.is_same is not None]
    cells = (
        name,
        len(trials),
        sum(trial.steps < 0 for trial in trials),
        sum(trial.orphans for trial in trials),
        f"{sum(trial.loads for trial in trials)} of {len(trials)}",
        f"{sum(bool(trial.is_same) for trial in went_on)} of {len(went_on)}" if went_on else "-",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _trials(
    folder: Path, flags: Sequence[str], count: int, moments: random.Random, goes_on: bool
) -> list[Trial]:
    whole = folder / "whole"
    began = time.monotonic()
    process = _start(whole, [*flags, "--checkpoint-every", "1", "--run-folder", str(whole)])
    _await_checkpoint(process, whole)
    first = time.monotonic() - began
    expected = _summary_of(process, whole)
    rest = time.monotonic() - began - first
    trials = []
    for number in range(count):
        run, share = folder / str(number), moments.uniform(-_BEFORE, 1.0)
        # The time of starting varies more than all that follows, so it does not count.
        after = (None, share * rest) if share > 0 else (-share / _BEFORE * first, 0.0)
        trials.append(_trial(run, flags, after, expected if goes_on else None))
        print(f"{number + 1}/{count}: {trials[-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(run, ignore_errors=True)
    return trials


def _trial(run: Path, flags: Sequence[str], after: tuple[float | None, float], expected: str | None) -> Trial:
    """Kill a run.

    Args:
        run: its folder.
        flags: of `prl train`.
        after: seconds from its start, or None to wait for its first checkpoint; and seconds from then on.
        expected: hash of the weights that it comes to; None does not go on.
    """
    process = _start(run, [*flags, "--checkpoint-every", "1", "--run-folder", str(run)])
    from_start, further = after
    if from_start is None:
        _await_checkpoint(process, run)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait((from_start or 0.0) + further)
    process.send_signal(signal.SIGKILL)
    process.wait()
    orphans = _orphans()
    found = Checkpoints(run / "checkpoints", 1).newest_first()
    loads = all(_loads(checkpoint) for checkpoint in found)
    same = None
    if expected is not None:
        goes_on = (run / "config.yaml").exists()
        same = _finished(run, ["--resume", str(run)] if goes_on else flags) == expected
    return Trial(int(found[0].name) if found else -1, orphans, loads, same)


def _await_checkpoint(process: subprocess.Popen[bytes], run: Path) -> None:
    while process.poll() is None and not Checkpoints(run / "checkpoints", 1).newest_first():
        time.sleep(0.005)


def _start(run: Path, flags: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prl", "train", *flags]
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _finished(run: Path, flags: Sequence[str]) -> str:
    """Train to the end; the hash of the weights."""
    folder = [] if "--resume" in flags else ["--run-folder", str(run)]
    return _summary_of(_start(run, [*flags, *folder]), run)


def _summary_of(process: subprocess.Popen[bytes], run: Path) -> str:
    code = process.wait()
    if code != 0:
        raise SystemExit(f"training ended with {code}: {run.with_suffix('.log').read_text()[-2000:]}")
    return str(json.loads((run / "summary.json").read_text())["weights_sha256"])


def _loads(checkpoint: Path) -> bool:
    try:
        read_checkpoint(checkpoint)
    except CheckpointError as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)
        return False
    return True


def _orphans() -> int:
    """Processes that are still there when they should have ended; they are killed."""
    deadline = time.monotonic() + _ORPHANS_END
    while left := _children():
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return len(left)
        time.sleep(0.01)
    return 0


def _children() -> list[int]:
    """Living children of this process, orphans of others included; zombies are collected."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            return []
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids]


if __name__ == "__main__":
    raise SystemExit(main())
