"""Train under faults of every kind, and compare the weights with those of undisturbed runs.

    python scripts/checks/fault_matrix.py                        # CartPole-v1: every fault in every mode
    python scripts/checks/fault_matrix.py --env Lunar --sample 20
    python scripts/checks/fault_matrix.py --env Bipedal --sample 10    # not replayable: episodes are lost

Exit code 1 if weights differ, an episode is lost that could have been repeated, or a run fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prl.config.train_config import TrainConfig
from prl.run.train import train
from workers.errors import WorkerError
from workers.killing import STAGES
from workers.watching import workers_of

_BASE: Mapping[str, Any] = {
    "num_envs": 8,
    "num_groups": 2,
    "hidden_sizes": (16,),
    "num_epochs": 2,
    "seed": 3,
    "checkpoint_every": 0,
    "preset": "none",
    "actor_lr": 1e-2,
}
ENVS: Mapping[str, Mapping[str, Any]] = {
    "CartPole": {"env_id": "CartPole-v1", "total_timesteps": 2000, "batch_size": 400},
    "masks in a Dict": {
        "env_id": "CartPole-v1",
        "wrappers": ("workers.killing:Masked",),
        "total_timesteps": 2000,
        "batch_size": 400,
    },
    "LunarLander": {
        "env_id": "LunarLander-v3",
        "max_episode_steps": 100,
        "total_timesteps": 4000,
        "batch_size": 800,
    },
    "HalfCheetah": {
        "env_id": "HalfCheetah-v5",
        "max_episode_steps": 50,
        "total_timesteps": 2400,
        "batch_size": 400,
        "normalize_obs": True,
        "normalize_reward": True,
    },
    "BipedalWalker": {
        "env_id": "BipedalWalker-v3",
        "max_episode_steps": 100,
        "total_timesteps": 4000,
        "batch_size": 800,
    },
}
REPLAYABLE = tuple(name for name in ENVS if name != "BipedalWalker")
MODES: Mapping[str, Mapping[str, Any]] = {
    "episodes": {},
    "steps": {"rollout": "steps", "num_steps": 25},
    "episodes, overlap": {"overlap": True},
    "steps, overlap": {"rollout": "steps", "num_steps": 25, "overlap": True},
    "episodes, rnd": {"rnd": True},
    "steps, overlap, rnd": {"rollout": "steps", "num_steps": 25, "overlap": True, "rnd": True},
}
TRANSPORTS, ACTING = ("shared", "pipe"), ("learner", "worker")
FROM_OUTSIDE = ("idle", "anytime")
FAULTS: tuple[str, ...] = (*STAGES, *FROM_OUTSIDE)
"""What the workers do to themselves (see `workers.killing`); a kill after every second update; a kill at any
moment, every two seconds or so."""


class Cell(NamedTuple):
    """One run under faults."""

    env: str
    mode: str
    transport: str
    acting: str
    fault: str


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    sha256: str
    restarts: int
    lost: int
    iterations: int
    status: str


class Killer:
    """A sink that kills workers of this process: after every second update, or at any moment from then on.

    Args:
        anytime: whether a thread kills, every two seconds or so.
    """

    def __init__(self, anytime: bool) -> None:
        self._anytime = anytime
        self._updates = 0
        self._moments = random.Random(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill_on, daemon=True)

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `prl.run.sinks.Sink`."""
        self._updates += 1
        if not self._anytime and self._updates % 2 == 0:
            self._kill()
        if self._anytime and self._updates == 1:
            self._thread.start()

    def close(self) -> None:
        """See `prl.run.sinks.Sink`."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _kill_on(self) -> None:
        while not self._over.is_set():
            self._kill()
            self._over.wait(self._moments.uniform(1.5, 2.5))

    def _kill(self) -> None:
        if pids := workers_of(os.getpid()):
            os.kill(self._moments.choice(pids), signal.SIGKILL)


def settings_of(env: str, mode: str) -> dict[str, Any]:
    """Of a run: what its weights depend on."""
    return {**_BASE, **ENVS[env], **MODES[mode]}


def undisturbed(env: str, mode: str, folder: Path) -> Outcome:
    """A run without workers and without faults."""
    return _outcome(train(TrainConfig(**settings_of(env, mode), num_workers=0, run_folder=folder)))


def disturbed(cell: Cell, folder: Path) -> Outcome:
    """A run under faults in two workers."""
    settings = settings_of(cell.env, cell.mode)
    settings |= {"num_workers": 2, "transport": cell.transport, "acting": cell.acting}
    sinks = [Killer(cell.fault == "anytime")] if cell.fault in FROM_OUTSIDE else []
    if cell.fault in STAGES:
        marks = folder.with_name(folder.name + "-faults")
        marks.mkdir()
        # It takes contacts with the ground until a used BipedalWalker shows other numbers than a new one.
        when = "" if cell.env in REPLAYABLE else ", one_in=8, within=90"
        dying = f"workers.killing:Dying(stage='{cell.fault}', folder='{marks}'{when})"
        settings["wrappers"] = (*settings.get("wrappers", ()), dying)
    if cell.fault == "stop":
        settings["step_timeout"] = 2.0
    try:
        return _outcome(train(TrainConfig(**settings, run_folder=folder), sinks=sinks))
    except WorkerError as error:
        return Outcome("", 0, 0, 0, f"ended with: {error}")
    finally:
        for sink in sinks:
            sink.close()


def _outcome(summary: Mapping[str, Any]) -> Outcome:
    return Outcome(
        summary["weights_sha256"],
        summary["worker_restarts"],
        summary["lost_episodes"],
        summary["iterations"],
        summary["status"],
    )


def wrong(cell: Cell, found: Outcome, expected: Outcome) -> str:
    """What is wrong with a run, in words; "" if nothing is."""
    if found.status != "finished":
        return f"it {found.status}"
    if not found.restarts:
        return "no worker broke"
    if cell.env not in REPLAYABLE:
        return ""
    if found.lost:
        return f"{found.lost} episodes were lost"
    return "" if found.sha256 == expected.sha256 else "the weights differ"


def cells(envs: Sequence[str], modes: Sequence[str] = tuple(MODES)) -> list[Cell]:
    """All of some envs and modes."""
    return [Cell(*row) for row in itertools.product(envs, modes, TRANSPORTS, ACTING, FAULTS)]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env", default="CartPole", help=f"those with this in their name: {', '.join(ENVS)}")
    parser.add_argument("--fault", default="", help=f"those with this in their name: {', '.join(FAULTS)}")
    parser.add_argument("--sample", type=int, help="so many of them, at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    arguments = parser.parse_args(argv)
    chosen = cells([env for env in ENVS if arguments.env.lower() in env.lower()])
    chosen = [cell for cell in chosen if arguments.fault in cell.fault]
    if arguments.sample is not None:
        sample = random.Random(arguments.seed).sample(chosen, min(arguments.sample, len(chosen)))
        chosen = sorted(sample)
    if not chosen:
        print("no such env or fault", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, _quiet():
        return _report(chosen, Path(folder))


def _report(chosen: Sequence[Cell], folder: Path) -> int:
    """Do the runs, and tell what came of them."""
    began, bad, restarts, lost = time.monotonic(), 0, 0, 0
    expected: dict[tuple[str, str], Outcome] = {}
    for number, cell in enumerate(chosen):
        key = (cell.env, cell.mode)
        if key not in expected:
            expected[key] = undisturbed(*key, folder / f"whole-{len(expected)}")
        found = disturbed(cell, folder / str(number))
        words = wrong(cell, found, expected[key])
        bad, restarts, lost = bad + bool(words), restarts + found.restarts, lost + found.lost
        print(
            f"{', '.join(cell)}: {found.restarts} restarts, {found.lost} lost; {words or 'well'}", flush=True
        )
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(chosen) - bad} of {len(chosen)} runs well; {restarts} restarts, {lost} episodes lost", end="; "
    )
    print(f"{minutes:.1f} min")
    return 1 if bad else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that tell of restarts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*it is started again")
        yield


if __name__ == "__main__":
    raise SystemExit(main())
