"""The cores of this machine: how many there are to use, and which process runs on which."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pin(pids: Sequence[int | None]) -> None:
    """Give each process one core, if there are at least as many processes as cores."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(pids) < len(cores):
        return  # the choice of cores is better left to the system: other runs want some, too
    for index, pid in enumerate(pids):
        if pid is not None:
            with contextlib.suppress(OSError):  # not allowed in some sandboxes; it is only a matter of speed
                os.sched_setaffinity(pid, {cores[index % len(cores)]})
