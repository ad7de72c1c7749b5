"""What a worker costs: a real one is started and ended."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prl.commands.diagnosis.machine import size
from prl.config.train_config import TrainConfig
from prl.run.build import build_pool
from workers.envs import EnvFactory
from workers.errors import WorkerError, one_line
from workers.exam_checks import duration
from workers.exam_needs import resident_bytes
from workers.findings import Finding, error, ok
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool


@dataclass(frozen=True)
class WorkerCosts:
    """Of one worker with one env.

    Attributes:
        start: seconds until its env can be reset.
        memory: bytes of RAM; None where the system does not tell.
        descriptors: that the learner's process needs for it, and for its pool.
    """

    start: float
    memory: int | None
    descriptors: int


def worker_costs(factory: EnvFactory, config: TrainConfig) -> WorkerCosts:
    """Start a worker, reset its env, and end it.

    Raises:
        WorkerError: it could not be started, died or hung.
    """
    one = dataclasses.replace(config, num_workers=1, num_envs=1, num_groups=None)
    before, began = _open_descriptors(), time.perf_counter()
    with build_pool(one, factory, 1) as pool:
        start = time.perf_counter() - began
        descriptors = _open_descriptors() - before
        pool.reset(np.arange(1), [0])
        pool.recv()
        pid = pool.worker_pids[0] if isinstance(pool, ProcessPool | RecoveringPool) else None
        memory = None if pid is None else resident_bytes(pid)
    return WorkerCosts(start, memory, max(0, descriptors))


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


def worker_findings(
    factory: EnvFactory, config: TrainConfig, env_bytes: int | None
) -> Iterator[Finding | WorkerCosts]:
    """A row, and what it is made of.

    Args:
        factory: of the env.
        config: its timeouts apply.
        env_bytes: of memory for one more env in a worker; None if not known.
    """
    try:
        costs = worker_costs(factory, config)
    except WorkerError as problem:
        yield error("worker", one_line(problem), traceback=problem.traceback)
        return
    text = f"starts in {duration(costs.start)}"
    if costs.memory is not None:
        text += f"; {size(costs.memory)} of memory with one env"
        text += "" if env_bytes is None else f", {size(env_bytes)} for each further one"
    yield costs
    yield ok("worker", text, start_seconds=costs.start, bytes=costs.memory, env_bytes=env_bytes)
