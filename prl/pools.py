"""The pool for a number of workers."""

from __future__ import annotations

import torch.multiprocessing

from workers.cores import usable_cores
from workers.env_specs import register_on_import
from workers.envs import EnvFactory
from workers.inline_pool import InlinePool
from workers.pool import EnvPool
from workers.process_pool import ProcessPool, Transport

register_on_import("prl/", "prl.chain")


def make_pool(
    factory: EnvFactory,
    num_envs: int,
    num_workers: int | None,
    transport: Transport = "shared",
    step_timeout: float = 60.0,
    pin_workers: bool = True,
    start_timeout: float = 120.0,
) -> EnvPool:
    """The pool for a number of workers.

    Args:
        factory: builds each env.
        num_envs: N.
        num_workers: None is one per usable core, 0 none at all: the envs are in this process.
        transport, step_timeout, pin_workers, start_timeout: see `ProcessPool`.

    Raises:
        RuntimeError: this process is daemonic and `num_workers` is not 0.
        WorkerError: a worker could not be started, or an env not be built.
    """
    if num_workers is None:
        num_workers = usable_cores()
    if num_workers == 0:
        return InlinePool(factory, num_envs)
    return ProcessPool(
        factory,
        num_envs,
        num_workers,
        transport=transport,
        context=torch.multiprocessing.get_context("spawn"),
        step_timeout=step_timeout,
        pin_workers=pin_workers,
        start_timeout=start_timeout,
    )
