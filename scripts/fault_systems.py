"""Three ways to step envs in processes, under the same faults: the measuring half of `fault_scorecard.py`.

    python scripts/fault_systems.py JOB SYSTEM [ARGUMENT]

prints one line of JSON, and "ready" before that where something may hang: the scorecard ends it then. Each
measurement is a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from workers.envs import env_factory
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool, Recovery
from workers.testing import FaultWrapper, ProbeEnv, probe_obs
from workers.watching import holdings, workers_of

NUM_ENVS = 4
STEPS = 60
_FAULT_AT = 30  # step
_ENDLESS = 10_000  # steps of an episode
_STEP_TIMEOUT = 2.0  # seconds; of the systems, only ours has one by default
_RESTARTS = 10
_BLOCK, _BLOCKS = 100, 60  # steps of 32 envs; blocks of each kind


class Envs(Protocol):
    """What is compared: `NUM_ENVS` envs, one process each."""

    def reset(self) -> Any:
        """Observations [N, 8]; env i has the seed i."""

    def step(self, actions: Any) -> Any:
        """Observations [N, 8] after the actions i64[N]."""

    def close(self) -> None:
        """End the processes."""


class Ours:
    """`RecoveringPool`."""

    def __init__(self, build: Callable[[], gym.Env[Any, Any]]) -> None:
        pool = ProcessPool(env_factory(build), NUM_ENVS, NUM_ENVS, step_timeout=_STEP_TIMEOUT)
        self.pool = RecoveringPool(pool, Recovery(max_restarts=10_000))
        self._ids = np.arange(NUM_ENVS)

    def reset(self) -> Any:
        self.pool.reset(self._ids, self._ids.tolist())
        return self.pool.recv().obs

    def step(self, actions: Any) -> Any:
        self.pool.send(self._ids, actions)
        return self.pool.recv().obs

    def close(self) -> None:
        self.pool.close()


class Gymnasiums:
    """`gymnasium.vector.AsyncVectorEnv` as it is by default."""

    def __init__(self, build: Callable[[], gym.Env[Any, Any]]) -> None:
        self._envs = gym.vector.AsyncVectorEnv([build] * NUM_ENVS)

    def reset(self) -> Any:
        return self._envs.reset(seed=list(range(NUM_ENVS)))[0].copy()

    def step(self, actions: Any) -> Any:
        return self._envs.step(actions)[0].copy()

    def close(self) -> None:
        self._envs.close(terminate=True)


class StableBaselines3s:
    """`stable_baselines3.common.vec_env.SubprocVecEnv` as it is by default."""

    def __init__(self, build: Callable[[], gym.Env[Any, Any]]) -> None:
        from stable_baselines3.common.vec_env import SubprocVecEnv

        self._envs = SubprocVecEnv([build] * NUM_ENVS)

    def reset(self) -> Any:
        self._envs.seed(0)  # env i gets the seed i
        return self._envs.reset()

    def step(self, actions: Any) -> Any:
        return self._envs.step(actions)[0]

    def close(self) -> None:
        for process in self._envs.processes:
            process.kill()
            process.join()
        for remote in self._envs.remotes:
            remote.close()


SYSTEMS: dict[str, Callable[[Callable[[], gym.Env[Any, Any]]], Envs]] = {
    "prl": Ours,
    "Gymnasium": Gymnasiums,
    "SB3": StableBaselines3s,
}


def probe() -> gym.Env[Any, Any]:
    """An env of which every observation says which steps led to it."""
    return ProbeEnv(shortest=_ENDLESS, longest=_ENDLESS)


def fault(system: str, kind: str) -> dict[str, Any]:
    """One fault in one env; what comes of it, when, and of how many rows."""
    folder = tempfile.mkdtemp()
    happened = Path(folder) / "happened"
    noticed: list[float] = []
    warnings.showwarning = lambda *_, **__: noticed.append(time.time())

    def build() -> gym.Env[Any, Any]:
        if kind == "idle":
            return probe()
        return FaultWrapper(probe(), kind, at_step=_FAULT_AT, seed=1, once=str(happened))

    envs = SYSTEMS[system](build)
    rows, outcome, seconds = _Rows(), "goes on", float("nan")
    try:
        rows.look(envs.reset())
        print("ready", flush=True)
        for t in range(STEPS):
            if kind == "idle" and t == _FAULT_AT:
                happened.touch()
                os.kill(workers_of(os.getpid())[1] if system == "prl" else _child(envs), signal.SIGKILL)
            rows.look(envs.step(rows.act(t)))
            if happened.exists() and np.isnan(seconds):
                seconds = time.time() - happened.stat().st_mtime
    except Exception as error:
        outcome, noticed = type(error).__name__, [time.time()]
    found = noticed[0] - happened.stat().st_mtime if noticed else seconds
    result = {"outcome": outcome, "noticed": found, "recovered": seconds, **rows.count()}
    _end(envs)
    return result


def _child(envs: Any) -> int:
    """A worker of a peer."""
    return int(envs._envs.processes[1].pid)


def _end(envs: Envs) -> None:
    """Close what may be broken."""
    try:
        envs.close()
    except Exception as error:
        print(f"close: {type(error).__name__}: {error}", file=sys.stderr)


class _Rows:
    """Which rows have come, and whether they are right."""

    def __init__(self) -> None:
        self._actions: list[list[Any]] = [[] for _ in range(NUM_ENVS)]
        self._seen: set[bytes] = set()
        self.right = self.twice = self.wrong = 0

    def act(self, t: int) -> Any:
        """Actions i64[N] of step t."""
        actions = (np.arange(NUM_ENVS) + t) % 5
        for env, action in enumerate(actions):
            self._actions[env].append(action)
        return actions

    def look(self, rows: Any) -> None:
        """Count observations [N, 8]."""
        for env, row in enumerate(rows):
            key = bytes([env]) + row.tobytes()
            expected = probe_obs(env, self._actions[env])
            self.right += bool(np.array_equal(row, expected))
            self.wrong += not np.array_equal(row, expected)
            self.twice += key in self._seen
            self._seen.add(key)

    def count(self) -> dict[str, int]:
        """Of rows that are missing, wrong, or have come twice."""
        return {"missing": NUM_ENVS * (STEPS + 1) - self.right, "wrong": self.wrong, "twice": self.twice}


def learner(system: str, kind: str) -> dict[str, Any]:
    """Step until somebody kills this process; says when its workers are where they should be."""
    envs = SYSTEMS[system](lambda: FaultWrapper(probe(), kind, at_step=3))
    envs.reset()
    for t in range(_ENDLESS):
        if t == 2:
            print("ready", flush=True)
        envs.step(np.zeros(NUM_ENVS, np.int64))
    return {}


def descriptors(system: str, _: str) -> dict[str, Any]:
    """Descriptors that are left over from ten restarts: of a worker, or (peers) of all."""
    warnings.simplefilter("ignore")
    envs = SYSTEMS[system](probe)
    envs.reset()
    envs.step(np.zeros(NUM_ENVS, np.int64))
    before = holdings(os.getpid()).descriptors
    for _number in range(_RESTARTS):
        if isinstance(envs, Ours):
            pids = workers_of(os.getpid())
            os.kill(pids[0], signal.SIGKILL)
        else:
            os.kill(_child(envs), signal.SIGKILL)
            _end(envs)
            envs = SYSTEMS[system](probe)
            envs.reset()
        envs.step(np.zeros(NUM_ENVS, np.int64))
    after = holdings(os.getpid()).descriptors
    _end(envs)
    return {"per_restart": (after - before) / _RESTARTS}


def undisturbed(_: str, transport: str) -> dict[str, Any]:
    """Time of `RecoveringPool` over that of the bare pool, in turns, for the same steps of CartPole-v1."""
    factory, ids = env_factory("CartPole-v1"), np.arange(32)
    times: dict[bool, list[float]] = {True: [], False: []}
    seeds = np.arange(32)
    with (
        ProcessPool(factory, 32, 2, transport=transport) as bare,  # type: ignore[arg-type]
        RecoveringPool(ProcessPool(factory, 32, 2, transport=transport)) as recovering,  # type: ignore[arg-type]
    ):
        pools: dict[bool, Any] = {True: recovering, False: bare}
        for pool in pools.values():
            pool.reset(ids, seeds)
            pool.recv()
        for number in range(2 * _BLOCKS):
            recovers = number % 2 == number // 2 % 2  # abba: neither is always first
            start = time.perf_counter()
            for t in range(_BLOCK):
                pools[recovers].send(ids, (ids + t) % 2, seeds + number)
                pools[recovers].recv()
            times[recovers].append(time.perf_counter() - start)
    fast = {kind: float(np.quantile(found, 0.1)) for kind, found in times.items()}
    middle = {kind: float(np.median(found)) for kind, found in times.items()}
    return {
        "median": middle[True] / middle[False],
        "fastest_tenth": fast[True] / fast[False],
        "steps_per_second": _BLOCK * 32 / fast[True],
    }


JOBS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "fault": fault,
    "learner": learner,
    "descriptors": descriptors,
    "undisturbed": undisturbed,
}


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    job, system, argument = argv
    print(json.dumps(JOBS[job](system, argument)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
