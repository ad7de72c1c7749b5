"""A block of envs behind the verbs of a pool, in the process that hosts it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workers.arrays import Array, Ids
from workers.block import EnvBlock
from workers.frames import SEED_DTYPE
from workers.pool import POOL_CLOSED, Seeds, StepBatch, read_batch
from workers.slab import Slab


@dataclass(frozen=True)
class _Command:
    name: str
    env_ids: Ids
    run: Callable[[], None]
    rows: Ids
    restarts: bool = False


class BlockPool:
    """The envs of a block. Implements `workers.pool.EnvPool`, but for the type of errors.

    Commands are carried out by `recv`, so errors surface where those of processes do.

    Args:
        block: of envs.
        slab: of the block, one row per env.
        first_env: index of the env in row 0; env ids count from it.
        after_step: called after every command that was carried out.

    Raises:
        EnvFailure: by `recv`, an env failed.
    """

    num_workers = restarts = 0

    def __init__(
        self,
        block: EnvBlock,
        slab: Slab,
        first_env: int = 0,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.num_envs = len(slab)
        self.info_columns = slab.info_columns
        self.last_command = "start"
        self._block = block
        self._slab = slab
        self._first_env = first_env
        self._after_step = after_step
        self._commands: deque[_Command] = deque()
        self._closed = False

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        self.require_open()
        rows, listed = self._rows(env_ids), np.asarray(seeds, SEED_DTYPE).tolist()
        indices = rows.tolist()
        self._commands.append(_Command("reset", env_ids, lambda: self._block.reset(indices, listed), rows))

    def send(self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        self.require_open()
        rows = self._rows(env_ids)
        self._slab.action[rows] = actions
        indices = rows.tolist()
        seeds = None if next_seeds is None else np.asarray(next_seeds, SEED_DTYPE).tolist()
        self._commands.append(
            _Command(
                "step", env_ids, lambda: self._block.step(indices, seeds), rows, restarts=seeds is not None
            )
        )

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`. `timeout` is ignored: nothing can interrupt an env in this process."""
        if not self._commands:
            raise RuntimeError("recv without an open command: call reset or send first")
        command = self._commands.popleft()
        self.last_command = command.name
        command.run()
        self._after_step()
        return read_batch(self._slab, command.rows, command.restarts)._replace(env_ids=command.env_ids)

    def _rows(self, env_ids: Ids) -> Ids:
        return env_ids - self._first_env if self._first_env else env_ids

    def require_open(self) -> None:
        """Raises `RuntimeError` if the pool is closed."""
        if self._closed:
            raise RuntimeError(POOL_CLOSED)

    def close(self) -> None:
        """See `EnvPool.close`."""
        self._closed = True
        self._commands.clear()
        self._block.close()

    def __enter__(self) -> BlockPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
