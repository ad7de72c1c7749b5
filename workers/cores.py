"""The cores of this machine: how many there are to use, and which process runs on which."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
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


class Turns:
    """Lets a thread that computes for long take turns on cores.

    Beside processes that are bound to one core each, the system leaves such a thread where it is: the process
    there is late by all of its work, and the others wait for that one. If it moves on every few milliseconds,
    all are late by the same share of it. Where results are does not matter for what they are.

    Args:
        cores: that others are bound to; with less than two, nothing is done.
        seconds: on each.
        clock: seconds.
    """

    def __init__(
        self, cores: Sequence[int], seconds: float = 2e-3, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._cores = list(cores) if len(cores) > 1 else []
        self._seconds = seconds
        self._clock = clock
        self._next = 0
        self._move_at = 0.0

    def step(self) -> None:
        """Move on, if it is time to."""
        if self._cores and self._clock() >= self._move_at:
            self._set({self._cores[self._next]})
            self._next = (self._next + 1) % len(self._cores)
            self._move_at = self._clock() + self._seconds

    def end(self) -> None:
        """Run anywhere on these cores again."""
        if self._cores:
            self._set(set(self._cores))

    def _set(self, cores: set[int]) -> None:
        with contextlib.suppress(OSError):  # not allowed in some sandboxes; it is only a matter of speed
            os.sched_setaffinity(0, cores)


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
            with contextlib.suppress(OSError):  # not allowed in some sandboxes; it is only a matter of speed
                os.sched_setaffinity(pid, {cores[index % len(cores)]})
    return cores
