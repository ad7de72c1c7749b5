"""The pool without processes: the reference that every other pool has to equal, and good for debugging."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workers.arrays import Array, Ids
from workers.block import EnvBlock
from workers.envs import EnvFactory
from workers.errors import EnvFailure, WorkerEnvFailed
from workers.frames import SEED_DTYPE
from workers.global_random import GlobalGenerators
from workers.pool import POOL_CLOSED, Seeds, StepBatch, read_batch
from workers.slab import SlabLayout
from workers.trial_env import process_kept


@dataclass(frozen=True)
class _Command:
    name: str
    env_ids: Ids
    run: Callable[[], None]
    restarts: bool = False


class InlinePool:
    """N envs in this process, stepped one after the other. Implements `workers.pool.EnvPool`.

    Commands are carried out by `recv`, so errors surface where those of processes do. What envs do to the
    process's global random generators and, when they are built, to its working directory is undone.

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
        self._generators = GlobalGenerators()
        try:
            with process_kept():
                self._block = EnvBlock(factory, 0, self._slab, before_use=self._generators.put_aside)
        except EnvFailure as error:
            raise self._failure("start", error) from error

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        self._require_open()
        rows, listed = env_ids.tolist(), np.asarray(seeds, SEED_DTYPE).tolist()
        self._commands.append(_Command("reset", env_ids, lambda: self._block.reset(rows, listed)))

    def send(self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        self._require_open()
        self._slab.action[env_ids] = actions
        rows = env_ids.tolist()
        seeds = None if next_seeds is None else np.asarray(next_seeds, SEED_DTYPE).tolist()
        step = _Command("step", env_ids, lambda: self._block.step(rows, seeds), seeds is not None)
        self._commands.append(step)

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`. `timeout` is ignored: nothing can interrupt an env in this process."""
        if not self._commands:
            raise RuntimeError("recv without an open command: call reset or send first")
        command = self._commands.popleft()
        try:
            command.run()
        except EnvFailure as error:
            raise self._failure(command.name, error) from error
        finally:
            self._generators.put_back()
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
