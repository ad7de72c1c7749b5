"""Requests to envs in this process: what `ProcessPool` is to workers, for num_workers=0."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.block import EnvBlock
from workers.envs import EnvFactory
from workers.errors import EnvFailure, WorkerEnvFailed
from workers.global_random import GlobalGenerators
from workers.pool import POOL_CLOSED
from workers.requests import RequestServer
from workers.slab import SlabLayout
from workers.trial_env import process_kept


class LocalRequests:
    """N envs in this process. Implements `workers.remote_envs.RequestPool`.

    A request is carried out when its answer is taken, so errors surface where those of processes do.

    Args:
        factory: builds each env.
        num_envs: N.
        reward_dtype: see `SlabLayout`.

    Raises:
        WorkerEnvFailed: an env cannot be built.
    """

    num_workers = 0

    def __init__(
        self, factory: EnvFactory, num_envs: int, reward_dtype: type[np.floating[Any]] = np.float32
    ) -> None:
        self.blocks: Sequence[range] = [range(num_envs)]
        self._generators = GlobalGenerators()
        layout = SlabLayout(
            factory.observation_space, factory.action_space, num_envs, reward_dtype=reward_dtype
        )
        self.slab = layout.attach()
        try:
            with process_kept():
                self._block = EnvBlock(factory, 0, self.slab, before_use=self._generators.put_aside)
        except EnvFailure as error:
            raise self._failure("start", error) from error
        self._server = RequestServer(self._block, self.slab, shared=True)
        self._open: deque[tuple[bytes, str]] = deque()
        self._closed = False

    def request(self, worker: int, payload: bytes, name: str) -> None:
        """See `RequestPool.request`."""
        if self._closed:
            raise RuntimeError(POOL_CLOSED)
        self._open.append((payload, name))

    def take_results(self, workers: Sequence[int]) -> list[bytes]:
        """See `RequestPool.take_results`."""
        return [self._next() for _ in workers]

    def await_results(self, workers: Sequence[int], timeout: float) -> bool:
        """See `RequestPool.await_results`: nothing can interrupt an env in this process."""
        return True

    def _next(self) -> bytes:
        payload, name = self._open.popleft()
        try:
            return self._server.answer(payload)
        except EnvFailure as error:
            raise self._failure(name, error) from error
        finally:
            self._generators.put_back()

    def _failure(self, command: str, error: EnvFailure) -> WorkerEnvFailed:
        return WorkerEnvFailed(
            f"failed: {error}",
            worker=0,
            env_ids=self.blocks[0],
            last_command=command,
            traceback=error.traceback,
        )

    def close(self) -> None:
        """Close all envs. Idempotent."""
        self._closed = True
        self._open.clear()
        self._block.close()
