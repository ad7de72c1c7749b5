"""The pool for a number of workers."""

from __future__ import annotations

import torch.multiprocessing

from workers.cores import usable_cores
from workers.envs import EnvFactory
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool, Transport


def make_pool(
    factory: EnvFactory,
    num_envs: int,
    num_workers: int | None,
    transport: Transport = "shared",
    step_timeout: float = 60.0,
    pin_workers: bool = True,
) -> InlinePool | ProcessPool:
    """The pool for a number of workers: None is one per usable core, 0 none at all (inline)."""
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
    )
