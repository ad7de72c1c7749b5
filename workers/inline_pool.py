"""The pool without processes: the reference that every other pool has to equal, and good for debugging."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from workers.arrays import Array, Ids
from workers.block import EnvBlock
from workers.block_pool import BlockPool
from workers.env_calls import EnvCalls
from workers.envs import EnvFactory
from workers.errors import EnvFailure, WorkerEnvFailed
from workers.final_infos import InfoColumn
from workers.global_random import GlobalGenerators
from workers.pool import Seeds, StepBatch
from workers.requests import RequestServer
from workers.slab import SlabLayout
from workers.trial_env import process_kept


class InlinePool:
    """N envs in this process, stepped one after the other. Implements `workers.pool.EnvPool`.

    Commands are carried out by `recv`, so errors surface where those of processes do. What envs do to the
    process's global random generators and, when they are built, to its working directory is undone.

    Args:
        factory: builds each env.
        num_envs: N.
        info_columns: what is kept of the last infos of episodes.

    Raises:
        WorkerEnvFailed: an env cannot be built.
    """

    num_workers = restarts = 0

    def __init__(self, factory: EnvFactory, num_envs: int, info_columns: Sequence[InfoColumn] = ()) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs, self.factory = num_envs, factory
        self._generators = GlobalGenerators()
        self.info_columns = tuple(info_columns)
        slab = SlabLayout(
            factory.observation_space, factory.action_space, num_envs, info_columns=info_columns
        ).attach()
        try:
            with process_kept():
                block = EnvBlock(factory, 0, slab, before_use=self._generators.put_aside)
        except EnvFailure as error:
            raise self._failure("start", error) from error
        self._pool = BlockPool(block, slab)
        self._requests = RequestServer(block, slab, shared=True)
        self._asked: deque[bytes] = deque()
        self.blocks: Sequence[range] = [range(num_envs)]
        self.env_calls = EnvCalls(self)

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        self._pool.reset(env_ids, seeds)

    def send(self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        self._pool.send(env_ids, actions, next_seeds)

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`. `timeout` is ignored: nothing can interrupt an env in this process."""
        try:
            return self._pool.recv()
        except EnvFailure as error:
            raise self._failure(self._pool.last_command, error) from error
        finally:
            self._generators.put_back()

    def incarnation(self, worker: int) -> int:
        """The envs are never others.

        Raises:
            RuntimeError: the pool is closed.
        """
        self._pool.require_open()
        return 0

    def request(self, worker: int, payload: bytes, name: str) -> None:
        """Ask something of the envs (see `workers.requests`); `take_results` does it."""
        self._asked.append(payload)

    def take_results(self, workers: Sequence[int]) -> list[bytes]:
        """The answers to the oldest requests, one for each of `workers`."""
        try:
            return [self._requests.answer(self._asked.popleft()) for _ in workers]
        except EnvFailure as error:
            raise self._failure("call", error) from error
        finally:
            self._generators.put_back()

    def blames(self, worker: int) -> AbstractContextManager[None]:
        """Nobody is to blame for what this process says."""
        return nullcontext()

    def _failure(self, command: str, error: EnvFailure) -> WorkerEnvFailed:
        failed = WorkerEnvFailed(
            f"failed: {error}",
            worker=0,
            env_ids=range(self.num_envs),
            last_command=command,
            traceback=error.traceback,
        )
        failed.episode = error.episode
        return failed

    def close(self) -> None:
        """See `EnvPool.close`."""
        self._pool.close()

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
