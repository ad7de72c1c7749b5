"""What the system allows: checked before workers are started, so that none is started in vain."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from workers.errors import LimitError

_DESCRIPTORS_PER_WORKER = 2  # its pipe, and the sign of its death
_OTHER_DESCRIPTORS = 16  # shared memory, the reaper, and what is open for a moment during a start
_OTHER_PROCESSES = 2  # the reaper, and multiprocessing's tracker of resources
_AMPLE = 4096  # processes; with such a limit nobody counts


def check_room(num_workers: int, root: Path = Path("/")) -> None:
    """Check that so many workers can be started.

    Args:
        num_workers: that are to be started.
        root: of the file system that tells what there is.

    Raises:
        LimitError: they would have too few descriptors or processes; the message has the numbers.
    """
    _check_descriptors(num_workers, root)
    needed = num_workers + _OTHER_PROCESSES
    for limit, used, where in _process_limits(root):
        left = max(0, limit - used)
        if left < needed:
            raise LimitError(
                f"{num_workers} workers need {needed} processes, but {left} of {limit} are left ({where}); "
                "take fewer workers (num_workers) or raise the limit"
            )


def _check_descriptors(num_workers: int, root: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = _DESCRIPTORS_PER_WORKER * num_workers + _OTHER_DESCRIPTORS
    try:
        left = max(0, limit - len(os.listdir(root / "dev/fd")))
    except OSError:  # the system does not tell
        return
    if limit != resource.RLIM_INFINITY and left < needed:
        raise LimitError(
            f"{num_workers} workers need {needed} file descriptors, but {left} of {limit} are left; "
            "take fewer workers (num_workers) or raise the limit (ulimit -n)"
        )


def _process_limits(root: Path) -> Iterator[tuple[int, int, str]]:
    """Limit, number in use, and whose limit it is."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    # The system counts threads, and never refuses root.
    if limit != resource.RLIM_INFINITY and limit < _AMPLE and os.geteuid() != 0:
        yield limit, _threads_of(os.getuid(), root), "ulimit -u"
    for group in _groups(root):
        allowed, used = _number(group / "pids.max"), _number(group / "pids.current")
        if allowed is not None and used is not None:
            yield allowed, used, "the container's pids.max"


def _threads_of(uid: int, root: Path) -> int:
    threads = 0
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == uid:
                threads += len(os.listdir(folder / "task"))
        except OSError:  # it has ended
            continue
    return threads


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups that may limit the number of processes."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and controllers in ("", "pids"):
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield top / controllers / group.relative_to("/")


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # else "max", or no such file


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
