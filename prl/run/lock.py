"""One writer per run folder: a lock of the operating system, which ends with the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from pathlib import Path

from learner.settings import ConfigError

_HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EACCES)


class FolderLock:
    """Holds the lock of a file, for as long as this object is not released and the process lives.

    The lock belongs to the open file and not to its name: a file that is left behind locks nothing, and no
    other process inherits it, since the descriptor is closed where another program starts.

    Args:
        file: exists, and can be written.

    Attributes:
        is_held: False on a file system that knows no locks.

    Raises:
        ConfigError: somebody else holds it, in this process or another.
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._fd: int | None = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        in_use = ConfigError(f"run_folder {file.parent} is in use: another run writes to it")
        self.is_held = True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                self.release()
                raise in_use from None
            # Some network file systems know no locks; the run should not be impossible there.
            self.is_held = False
            warnings.warn(f"run_folder {file.parent} cannot be locked: {error.strerror}", stacklevel=2)
        if not self._is_at(file):
            self.release()
            raise in_use

    def _is_at(self, file: Path) -> bool:
        """Whether the open file still has its name: who held the lock before may have removed it."""
        assert self._fd is not None, "called before it is released"
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._fd), os.stat(file))
        return False

    def release(self) -> None:
        """Give the lock back. May be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)
