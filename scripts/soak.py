"""Train under faults at random, with the same weights at the end as without.

    python scripts/soak.py --minutes 120
    python scripts/soak.py --minutes 20 --seed 1 -- --env-id LunarLander-v3 --overlap
    python scripts/soak.py --minutes 120 --waiting

Workers are killed, stopped and slowed down, the disk is full for a moment (no file can grow), and the learner
itself is stopped by SIGTERM or killed, and goes on from its checkpoint. When the time is up, the run is
stopped, and an undisturbed one of as many steps shows what the weights have to be. After `--` come flags of
`prl train`, in place of the usual ones.

With `--waiting`, each env waits for two milliseconds in every step. Hours of that leave the cores to others,
and the undisturbed run, with a worker for each env, takes a small part of the time.

Exit code 1 if weights differ, an episode is lost, a process is left behind, or memory, descriptors or threads
grow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from workers.watching import Holdings, adopt_orphans, holdings, orphans_after, workers_of

_FLAGS = (
    "--env-id CartPole-v1 --preset none --num-workers 2 --num-envs {num_envs} --num-groups 2 "
    "--rollout steps --num-steps 64 --normalize-obs --seed 5"
)
_NUM_ENVS, _NUM_WAITING = 8, 16
_SAFETY = "--step-timeout 6 --start-timeout 30 --max-restarts 1000000 --checkpoint-every 5s"
_ENDLESS = 1_000_000_000  # steps
_SLOW, _FULL = 1.5, 3.0  # seconds that a worker is slow, and the disk is full
_ORPHANS_END = 2.0  # seconds
_SETTLED = 20.0  # seconds after the start of a learner until it holds what it will hold
_GROWTH = 10_000  # kilobytes by which memory may grow within the life of a learner
_WAIT = 0.002  # seconds


class Waiting(gym.Wrapper[Any, Any, Any, Any]):
    """An env that waits in every step, and needs no core for that."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step."""
        time.sleep(_WAIT)
        return self.env.step(action)


class Failure(Exception):
    """What must not happen has happened."""


@dataclass
class Soak:
    """A run and what has happened to it.

    Attributes:
        folder: of the run.
        flags: of `prl train`.
        chance: which faults, and when.
        every: seconds from one fault to the next, on average.
        grace: seconds after which a stopped run has to have ended.
        faults: by name.
        orphans: processes that were left behind by learners.
        lives: what each learner held, from time to time.
    """

    folder: Path
    flags: Sequence[str]
    chance: random.Random
    every: float
    grace: float
    faults: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    lives: list[list[Holdings]] = field(default_factory=list)

    def run(self, seconds: float) -> dict[str, Any]:
        """Train for some time under faults; the summary of the run.

        Raises:
            Failure: the run has ended by itself, or did not end when it was stopped.
        """
        end = time.monotonic() + seconds
        self._start("--run-folder", str(self.folder), "--total-timesteps", str(_ENDLESS))
        faults = self._faults()
        while time.monotonic() < end:
            self._watch_for(min(self.chance.expovariate(1.0 / self.every), end - time.monotonic()))
            name = self.chance.choices(list(faults), [weight for weight, _ in faults.values()])[0]
            if faults[name][1]():
                self.faults[name] += 1
        self._await_update()
        self._stop(signal.SIGTERM)
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def _await_update(self) -> None:
        """Let the learner that has just been started make an update."""
        while not self._has_made_an_update():
            self._watch_for(1.0)

    def _has_made_an_update(self) -> bool:
        rows = self.folder / "progress.csv"
        return rows.exists() and rows.stat().st_mtime > self._began_at

    def _workers(self) -> list[int]:
        """Process ids; none while the pool is started for the first time."""
        return workers_of(self._learner.pid) if self._has_made_an_update() else []

    def _faults(self) -> Mapping[str, tuple[int, Callable[[], bool]]]:
        """By name: how likely they are, and what does them, if that is possible now."""
        return {
            "kill": (8, lambda: self._signal_worker(signal.SIGKILL)),
            "stop": (2, lambda: self._signal_worker(signal.SIGSTOP)),
            "slow": (4, self._slow),
            "full disk": (2, self._full_disk),
            "SIGTERM": (1, lambda: self._interrupt(signal.SIGTERM)),
            "SIGKILL": (1, lambda: self._interrupt(signal.SIGKILL)),
        }

    def _signal_worker(self, signum: signal.Signals) -> bool:
        pids = self._workers()
        with contextlib.suppress(ProcessLookupError):
            if pids:
                os.kill(self.chance.choice(pids), signum)
        return bool(pids)

    def _slow(self) -> bool:
        """A worker that stands still for a moment, and is not killed for it."""
        pids = self._workers()
        if not pids:
            return False
        victim = self.chance.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            self._watch_for(_SLOW)
            os.kill(victim, signal.SIGCONT)
        return True

    def _full_disk(self) -> bool:
        """For a moment, the learner can write to no file. A run that has to begin like that is given up."""
        if not self._has_made_an_update():
            return False
        pid = self._learner.pid
        with contextlib.suppress(ProcessLookupError):
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
            self._watch_for(_FULL)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        return True

    def _interrupt(self, signum: signal.Signals) -> bool:
        """Stop or kill the learner, and go on; not before there is something to go on from."""
        points = self.folder / "checkpoints"
        if not points.is_dir() or not any(name.isdecimal() for name in os.listdir(points)):
            return False
        self._stop(signum)
        self._start("--resume", str(self.folder))
        return True

    def _start(self, *flags: str) -> None:
        own = [] if "--resume" in flags else [*self.flags, *_SAFETY.split()]
        self._began, self._began_at = time.monotonic(), time.time()
        self._learner = start_training([*own, *flags], self.folder)
        self.lives.append([])

    def _stop(self, signum: signal.Signals) -> None:
        self._learner.send_signal(signum)
        try:
            code = self._learner.wait(self.grace)
        except subprocess.TimeoutExpired:
            self._learner.kill()
            self._learner.wait()
            raise Failure(f"the run did not end within {self.grace:g} s of {signum.name}") from None
        # A learner that was still importing ends as any process does.
        if code not in (-signum, 128 + signum):
            raise Failure(f"the run ended with {code} when it got {signum.name}: {last_words(self.folder)}")
        self.orphans += orphans_after(_ORPHANS_END)

    def _watch_for(self, seconds: float) -> None:
        """Let time pass, looking at the learner once per second."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._learner.wait(min(left, 1.0))
                raise Failure(f"the run ended by itself with {code}: {last_words(self.folder)}")
            if time.monotonic() - self._began > _SETTLED:
                with contextlib.suppress(OSError):
                    self.lives[-1].append(holdings(self._learner.pid))


def start_training(flags: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start `prl train`; what it says goes into a file beside the folder of the run."""
    with folder.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "prl", "train", *flags]
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # for `Waiting`
        own = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=own)


def last_words(folder: Path) -> str:
    """The end of what a run has said."""
    return folder.with_suffix(".log").read_text(errors="replace")[-1500:]


def growth(life: Sequence[Holdings]) -> Holdings:
    """From the first third of a learner's life to the last, by medians."""
    third = max(1, len(life) // 3)
    first, last = (
        [int(statistics.median(x)) for x in zip(*part, strict=True)] for part in (life[:third], life[-third:])
    )
    return Holdings(*(after - before for before, after in zip(first, last, strict=True)))


def undisturbed(folder: Path, flags: Sequence[str], timesteps: int) -> dict[str, Any]:
    """The summary of a run of so many steps.

    Normalised observations begin with fewer steps if that is less than 20,480, and then differ.

    Raises:
        Failure: it has failed.
    """
    own = [
        *flags,
        "--checkpoint-every",
        "0",
        "--run-folder",
        str(folder),
        "--total-timesteps",
        str(timesteps),
    ]
    if start_training(own, folder).wait():
        raise Failure(f"the undisturbed run failed: {last_words(folder)}")
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def verdict(soak: Soak, found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What is wrong; [] if nothing is."""
    wrong = []
    if found["weights_sha256"] != expected["weights_sha256"]:
        wrong.append(f"weights {found['weights_sha256']} instead of {expected['weights_sha256']}")
    if found["lost_episodes"]:
        wrong.append(f"{found['lost_episodes']} episodes were lost")
    if soak.orphans:
        wrong.append(f"{soak.orphans} processes were left behind")
    for life in soak.lives:
        if len(life) >= 60:
            more = growth(life)
            if more.kilobytes > _GROWTH or more.descriptors > 0 or more.threads > 0:
                wrong.append(f"a learner grew within {len(life)} s: {more}")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0, help="of training under faults")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from fault to fault, on average")
    parser.add_argument(
        "--grace", type=float, default=10.0, help="seconds that a stopped run may take to end"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--waiting", action="store_true", help="envs wait in every step")
    parser.add_argument("flags", nargs="*", help="of prl train, after --")
    arguments = parser.parse_args(argv)
    adopt_orphans()
    num_envs = _NUM_WAITING if arguments.waiting else _NUM_ENVS
    flags = arguments.flags or _FLAGS.format(num_envs=num_envs).split()
    extra = []
    if arguments.waiting:
        flags += ["--wrappers", f"{Path(__file__).stem}:{Waiting.__name__}"]
        extra = ["--num-workers", str(num_envs)]
    with tempfile.TemporaryDirectory() as name:
        chance = random.Random(arguments.seed)
        soak = Soak(Path(name) / "soak", flags, chance, arguments.every, arguments.grace)
        try:
            found = soak.run(60.0 * arguments.minutes)
            print(_told(soak, found), flush=True)
            expected = undisturbed(Path(name) / "undisturbed", [*flags, *extra], found["timesteps"])
            wrong = verdict(soak, found, expected)
        except Failure as failure:
            wrong = [str(failure)]
    print("\n".join(wrong) if wrong else "the same weights as without faults")
    return 1 if wrong else 0


def _told(soak: Soak, found: Mapping[str, Any]) -> str:
    """What has happened, in a few lines."""
    faults = ", ".join(f"{name} {count}" for name, count in soak.faults.most_common())
    lines = [
        f"{found['timesteps']:,} steps in {found['iterations']:,} updates; faults: {faults}",
        f"weights {found['weights_sha256']}; {found['lost_episodes']} episodes lost, {soak.orphans} orphans",
    ]
    longest = max(soak.lives, key=len)
    if longest:
        grown, last = growth(longest), longest[-1]
        lines.append(
            f"{len(soak.lives)} learners; the one that lived longest, {len(longest)} s, grew by "
            f"{grown.kilobytes:,} kB to {last.kilobytes:,} kB, {grown.descriptors} descriptors to "
            f"{last.descriptors}, {grown.threads} threads to {last.threads}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
