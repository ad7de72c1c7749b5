"""Looks at processes from outside, for checks that break them. Linux: it reads /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_LOOK_EVERY = 0.01  # seconds


class Holdings(NamedTuple):
    """What a process holds.

    Attributes:
        kilobytes: of memory of its own (its resident set without shared pages).
        descriptors: open ones.
        threads: of it.
    """

    kilobytes: int
    descriptors: int
    threads: int


def holdings(pid: int) -> Holdings:
    """What a process holds.

    Raises:
        OSError: there is no such process.
    """
    folder = Path(f"/proc/{pid}")
    pages = [int(word) for word in (folder / "statm").read_text().split()]
    own = (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return Holdings(own, len(os.listdir(folder / "fd")), len(os.listdir(folder / "task")))


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, zombies included; [] if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread is over
                found += map(int, (task / "children").read_text().split())
    return sorted(found)


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers of a learner, by their command lines."""
    return [child for child in children(pid) if b"spawn_main" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def adopt_orphans() -> None:
    """Who loses its parent below this process becomes a child of it."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def orphans_after(seconds: float) -> int:
    """Children of this process that are left after some time, which are killed then.

    Every child counts, so those that are wanted have to be gone before.
    """
    deadline, count = time.monotonic() + seconds, 0
    while left := _living_children():
        if time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
            continue
        for pid in left:  # whose own children are the next to be found
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        count += len(left)
    return count


def _living_children() -> list[int]:
    """Children of this process; zombies are collected."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return children(os.getpid())
        except ChildProcessError:
            return []
