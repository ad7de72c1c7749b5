"""The cores of this machine: how many there are to use, and which process runs on which."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, at least 1.

    These are the cores that it may run on (its affinity mask), or fewer where a control group limits its
    share of CPU time, as containers do: a quota of 2.5 cores gives 2.

    Args:
        root: of the file system that tells of control groups.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The limits on CPU time, in cores, of the control groups that this process belongs to."""
    # Lines are "0::/path" in version 2, "number:controllers:/path" in version 1.
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        top = root / "sys/fs/cgroup"
        if not controllers:
            # "unified" is where systemd puts version 2 beside version 1.
            tops = [top, top / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [top / controllers, top / "cpu"]
        else:
            continue
        # In a container, the path may be the one that the host sees; then only the topmost group is there.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            for folder in tops:
                yield from _quota(folder / group.relative_to("/"))


def _quota(group: Path) -> Iterator[float]:
    """The limit of one control group in cores, if it has one."""
    quota, _, period = _read(group / "cpu.max").partition(" ")  # version 2: "max 100000", "250000 100000"
    if not quota:
        quota, period = (
            _read(group / "cpu.cfs_quota_us"),
            _read(group / "cpu.cfs_period_us"),
        )  # -1 is no limit
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if (cores := int(quota) / int(period)) > 0:
            yield cores


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):  # no control groups, no such controller, not allowed
        return ""


def current_core() -> int | None:
    """The core that this thread runs on now; None where the system does not say."""
    return None if _getcpu is None else int(_getcpu())


def _find_getcpu() -> Callable[[], int] | None:
    try:
        found: Callable[[], int] = ctypes.CDLL(None).sched_getcpu  # Linux only
    except (OSError, TypeError, AttributeError):
        return None
    return found


_getcpu = _find_getcpu()


@contextlib.contextmanager
def own_core(cores: Sequence[int], pids: Sequence[int | None]) -> Iterator[None]:
    """Have the core of this thread to itself, while it computes beside processes that are bound to one each.

    Otherwise it would share its core with one of them, which then is late by all that it computes, and the
    others wait for that one. Those of its core share the other cores for the time of the block. This thread
    is not bound: the system has no reason to move it, and its children would inherit that.

    Args:
        cores: that the processes are bound to, see `pin`; with less than two, nothing is done.
        pids: of these processes; None for one that is gone.
    """
    core = current_core()
    if core is None or len(cores) < 2 or core not in cores:
        yield
        return
    moved = [pid for pid, own in zip(pids, itertools.cycle(cores), strict=False) if pid and own == core]
    try:
        for pid in moved:
            _bind(pid, set(cores) - {core})
        yield
    finally:
        for pid in moved:
            _bind(pid, {core})


def _bind(pid: int, cores: set[int]) -> None:
    # Some sandboxes do not allow it, and the process may be gone; it is only a matter of speed.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(pid, cores)


def pin(pids: Sequence[int | None]) -> list[int]:
    """Give each process one core, if there are at least as many processes as cores.

    Returns:
        The cores that were given away; none if they were not.
    """
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return []
    cores = sorted(os.sched_getaffinity(0))
    if len(pids) < len(cores):
        return []  # the choice of cores is better left to the system: other runs want some, too
    for index, pid in enumerate(pids):
        if pid is not None:
            _bind(pid, {cores[index % len(cores)]})
    return cores
