"""Nameless memory that a process shares with the children that it starts."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import tempfile
import warnings
import weakref
from multiprocessing import reduction
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_FOLDER = "/dev/shm"


class NoSharedMemory(OSError):
    """There is no room for shared memory; the message has the numbers."""


class SharedBytes:
    """Memory that learner and workers share; can be sent to a child while that is started.

    On Linux it is a file that exists in memory alone (memfd), which only the machine's memory limits: the
    size of /dev/shm, 64 MB in a container unless its owner thinks of it, does not matter. Elsewhere it is
    multiprocessing's.

    Args:
        size: in bytes.
        context: of the children.

    Raises:
        NoSharedMemory: there is no room for it.
    """

    def __init__(self, size: int, context: BaseContext) -> None:
        self.size = max(8, -(-size // 8) * 8)
        try:
            self._memory: Any = _MemoryFile(self.size)
        except (OSError, AttributeError):  # not Linux, or not allowed in a sandbox
            self._memory = _of_multiprocessing(self.size, context)

    def attach(self) -> Bytes:
        """All of it, u8[size], rounded up to whole words; zeros at first."""
        memory = self._memory
        return np.frombuffer(memory.map if isinstance(memory, _MemoryFile) else memory, np.uint8)


def shared_or_none(size: int, context: BaseContext) -> SharedBytes | None:
    """Shared memory; None, with a warning, where there is no room for it, and pipes have to do.

    Args:
        size, context: see `SharedBytes`.
    """
    try:
        return SharedBytes(size, context)
    except NoSharedMemory as error:
        warnings.warn(f"{error}; envs and learner speak through pipes instead, which is slower", stacklevel=4)
        return None


class _MemoryFile:
    """A file in memory, mapped into that of each process. Raises OSError and AttributeError."""

    def __init__(self, size: int) -> None:
        fd = os.memfd_create("prl")
        self._close = weakref.finalize(self, os.close, fd)
        os.ftruncate(fd, size)
        self._fd = fd
        self.map = mmap.mmap(fd, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_file, (reduction.DupFd(self._fd), len(self.map))


class _MappedFile(_MemoryFile):
    """The same in a child, which passes it on to nobody."""

    def __init__(self, fd: int, size: int) -> None:
        self.map = mmap.mmap(fd, size)


def _map_file(dup: Any, size: int) -> _MappedFile:
    fd = dup.detach()
    try:
        return _MappedFile(fd, size)
    finally:
        os.close(fd)  # the map has its own


def _of_multiprocessing(size: int, context: BaseContext) -> Any:
    """Memory of so many bytes, a multiple of 8, in a file.

    Raises:
        NoSharedMemory: there is no room for it, or such files are not allowed.
    """
    _require_room(size)
    try:
        # ctypes.c_double keeps it aligned for any dtype.
        return context.RawArray(ctypes.c_double, size // 8)
    except OSError as error:
        reason = error.strerror or str(error)
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if error.errno == errno.EFBIG and limit != resource.RLIM_INFINITY:
            reason = f"files may have {_megabytes(limit)} at most (ulimit -f)"
        raise NoSharedMemory(f"shared memory takes {_megabytes(size)}, but {reason}") from error


def _require_room(size: int) -> None:
    """Check what multiprocessing does not: a file that is too large for its folder kills who writes to it."""
    folders = [folder for folder in (_FOLDER, tempfile.gettempdir()) if os.path.isdir(folder)]
    free = {folder: _free(folder) for folder in folders}
    if max(free.values(), default=0) < size:
        places = " and ".join(f"{folder} has {_megabytes(room)}" for folder, room in free.items())
        raise NoSharedMemory(f"shared memory takes {_megabytes(size)}, but {places}")


def _free(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
