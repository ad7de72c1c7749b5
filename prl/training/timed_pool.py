"""A pool that knows for how long it has been waited for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.pool import EnvPool, Seeds, StepBatch

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]


class TimedPool:
    """Another pool, and how long its `recv` has taken. Implements `EnvPool`.

    Args:
        pool: does the work.

    Attributes:
        wait_seconds: spent in `recv` since the beginning.
    """

    def __init__(self, pool: EnvPool) -> None:
        self._pool = pool
        self.num_envs = pool.num_envs
        self.num_workers = pool.num_workers
        self.wait_seconds = 0.0

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        self._pool.reset(env_ids, seeds)

    def send(self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        self._pool.send(env_ids, actions, next_seeds)

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`."""
        start = time.perf_counter()
        batch = self._pool.recv(timeout)
        self.wait_seconds += time.perf_counter() - start
        return batch

    def close(self) -> None:
        """See `EnvPool.close`."""
        self._pool.close()

    def __enter__(self) -> TimedPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
