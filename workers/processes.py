"""Ending processes that envs have started, wherever they have gone. Light: the reaper runs it as a program.

A worker leads a process group, to which most of what its envs start belongs. What has left the group, into a
session of its own as simulators do, is found by a mark in its environment, which programs inherit (Linux).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Iterator

_VARIABLE = "PRL_MARKS"
_ROUNDS = 5  # while one is killed, it may start another


def new_mark() -> str:
    """A mark for the descendants of one process: letters that no other mark contains."""
    return os.urandom(12).hex()


def wear(mark: str) -> None:
    """Give what this process starts from here on a mark, besides those that it has."""
    os.environ[_VARIABLE] = f"{os.environ.get(_VARIABLE, '')}:{mark}"


def kill_group(group: int) -> None:
    """SIGKILL to a process group; it may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_marked(marks: Collection[str]) -> None:
    """SIGKILL to every process whose environment has one of the marks, except this one.

    Does nothing where the system does not show the environments of processes (macOS).
    """
    for _ in range(_ROUNDS):
        if not sum(_kill_if_marked(pid, marks) for pid in _running()):
            return


def _running() -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from (int(name) for name in names if name.isdecimal() and int(name) != os.getpid())


def _kill_if_marked(pid: int, marks: Collection[str]) -> bool:
    if not _has_mark(pid, marks):
        return False
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):  # it is gone, or the kernel is old
        return False
    try:
        # Once more: the number may have been given to another process before it was opened.
        if not _has_mark(pid, marks):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _has_mark(pid: int, marks: Collection[str]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read()
    except OSError:  # it is gone, or another user's
        return False
    return _VARIABLE.encode() in variables and any(mark.encode() in variables for mark in marks)


def _reap() -> None:
    """Read which groups there are, and kill those that are left when nobody can tell any more.

    Lines are "+GROUP MARK" and "-GROUP MARK".
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # its owner's death is all that it waits for
    left: set[str] = set()
    for line in sys.stdin:
        (left.add if line[0] == "+" else left.discard)(line[1:])
    for entry in left:
        kill_group(int(entry.split()[0]))
    kill_marked([entry.split()[1] for entry in left])


if __name__ == "__main__":
    _reap()
