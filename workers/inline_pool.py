"""The pool without processes: the reference that every other pool has to equal, and good for debugging."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workers.block import EnvBlock
from workers.envs import EnvFactory
from workers.errors import EnvFailure, WorkerEnvFailed
from workers.frames import SEED_DTYPE
from workers.pool import POOL_CLOSED, Seeds, StepBatch, read_batch
from workers.slab import Array, SlabLayout


@dataclass(frozen=True)
class _Command:
    name: str
    env_ids: npt.NDArray[np.int64]
    run: Callable[[], None]
    restarts: bool = False


class InlinePool:
    """N envs in this process, stepped one after the other. Implements `workers.frames.EnvPool`.

    Commands are carried out by `recv`, so errors surface where those of processes do.

    Args:
        factory: builds each env.
        num_envs: N.

    Raises:
        WorkerEnvFailed: an env cannot be built.
    """

    num_workers = 0

    def __init__(self, factory: EnvFactory, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self._slab = SlabLayout(factory.observation_space, factory.action_space, num_envs).attach()
        self._commands: deque[_Command] = deque()
        self._closed = False
        try:
            self._block = EnvBlock(factory, 0, self._slab)
        except EnvFailure as error:
            raise self._failure("start", error) from error

    def reset(self, env_ids: npt.NDArray[np.int64], seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        self._require_open()
        rows, listed = env_ids.tolist(), np.asarray(seeds, SEED_DTYPE).tolist()
        self._commands.append(_Command("reset", env_ids, lambda: self._block.reset(rows, listed)))

    def send(self, env_ids: npt.NDArray[np.int64], actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        self._require_open()
        self._slab.action[env_ids] = actions
        rows = env_ids.tolist()
        seeds = None if next_seeds is None else np.asarray(next_seeds, SEED_DTYPE).tolist()
        step = _Command("step", env_ids, lambda: self._block.step(rows, seeds), seeds is not None)
        self._commands.append(step)

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`. Nothing can interrupt an env in one's own process: `timeout` is not used."""
        if not self._commands:
            raise RuntimeError("recv without an open command: call reset or send first")
        command = self._commands.popleft()
        try:
            command.run()
        except EnvFailure as error:
            raise self._failure(command.name, error) from error
        return read_batch(self._slab, command.env_ids, command.restarts)

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError(POOL_CLOSED)

    def _failure(self, command: str, error: EnvFailure) -> WorkerEnvFailed:
        return WorkerEnvFailed(
            f"failed: {error}",
            worker=0,
            env_ids=range(self.num_envs),
            last_command=command,
            traceback=error.traceback,
        )

    def close(self) -> None:
        """See `EnvPool.close`."""
        self._closed = True
        self._commands.clear()
        self._block.close()

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
