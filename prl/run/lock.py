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

    Raises:
        ConfigError: somebody else holds it, in this process or another.
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._fd: int | None = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                self.release()
                raise ConfigError(f"run_folder {file.parent} is in use: another run writes to it") from None
            # Some network file systems know no locks; the run should not be impossible there.
            warnings.warn(f"run_folder {file.parent} cannot be locked: {error.strerror}", stacklevel=2)

    def release(self) -> None:
        """Give the lock back. May be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)
