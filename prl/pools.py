"""The pool for a number of workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch.multiprocessing
from tqdm import tqdm

from workers.arrays import Ids
from workers.cores import usable_cores
from workers.env_specs import register_on_import
from workers.envs import EnvFactory
from workers.final_infos import SUCCESS, info_column
from workers.guest import Invitation
from workers.inline_pool import InlinePool
from workers.pool import ChangeablePool
from workers.process_pool import ProcessPool, Transport, even_blocks
from workers.recovering_pool import STARTS, RecoveringPool, Recovery

register_on_import("prl/", "prl.chain")


def make_pool(
    factory: EnvFactory,
    num_envs: int,
    num_workers: int | None,
    transport: Transport = "shared",
    step_timeout: float = 60.0,
    pin_workers: bool = True,
    start_timeout: float = 120.0,
    groups: Sequence[Ids] | None = None,
    guest: Invitation | None = None,
    recovery: Recovery | None = None,
    close_timeout: float = 2.0,
    log_info: Sequence[str] = (),
) -> ChangeablePool:
    """The pool for a number of workers.

    Args:
        factory: builds each env.
        num_envs: N.
        num_workers: None is one per usable core, 0 none at all: the envs are in this process.
        transport, step_timeout, pin_workers, start_timeout, close_timeout: see `ProcessPool`.
        groups: env ids of each, contiguous and in order; no group is spread over several workers, so there
            are at most as many workers as groups. None allows any place for every env.
        guest: moves into every worker.
        recovery: workers that break are started again, within these limits; None ends the run then.
        log_info: keys of infos; the numbers that the last infos of episodes have there are kept, as is their
            success.

    Raises:
        ValueError: `factory` is none, or `num_envs`, `num_workers` or `transport` are out of range.
        RuntimeError: this process is daemonic and `num_workers` is not 0.
        WorkerError: a worker could not be started, or an env not be built.
    """
    _check(factory, num_envs, num_workers, transport)
    columns = (SUCCESS, *map(info_column, log_info))
    if num_workers is None:
        num_workers = usable_cores()
    if num_workers == 0:
        return InlinePool(factory, num_envs, columns)
    blocks = None
    if groups is not None:
        shares = even_blocks(len(groups), min(num_workers, len(groups)))
        blocks = [range(int(groups[s[0]][0]), int(groups[s[-1]][-1]) + 1) for s in shares]
    pool = ProcessPool(
        factory,
        num_envs,
        num_workers,
        transport=transport,
        context=torch.multiprocessing.get_context("spawn"),
        step_timeout=step_timeout,
        pin_workers=pin_workers,
        start_timeout=start_timeout,
        close_timeout=close_timeout,
        spare_starts=0 if recovery is None else STARTS,
        blocks=blocks,
        invitation=guest,
        info_columns=columns,
        on_output=_show,
    )
    return pool if recovery is None else RecoveringPool(pool, recovery)


def _check(factory: object, num_envs: object, num_workers: object, transport: object) -> None:
    """The arguments of `make_pool`. Pools know nothing of the learner's settings, which are checked likewise.

    Raises:
        ValueError: the first of them that is out of range.
    """
    if not isinstance(factory, EnvFactory):
        raise ValueError(f"factory must be what prl.env_factory returns, got one {type(factory).__name__}")
    if not _is_integer(num_envs, 1):
        raise ValueError(f"num_envs must be an integer, at least 1, got {num_envs!r}")
    if num_workers is not None and not _is_integer(num_workers, 0):
        raise ValueError(f"num_workers must be an integer, 0 or more, or None, got {num_workers!r}")
    if transport not in get_args(Transport):
        raise ValueError(f"transport must be {' or '.join(get_args(Transport))}, got {transport!r}")


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def _show(line: str) -> None:
    """Print a line of an env's to stderr, above the progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
