"""Locks between the processes of a study. They end with their process, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from prl.run.files import WriteError

_DEADLINE = 60.0  # seconds; whoever holds one does so for milliseconds
_PAUSE = 0.01


class WaitingLock:
    """The lock of a file, which one waits for. As a context manager it is held for the time of the block.

    Args:
        file: made if need be.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock.

        Returns:
            True, as Optuna's locks do.

        Raises:
            WriteError: it cannot be had.
        """
        deadline = time.monotonic() + _DEADLINE
        try:
            self._fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            while not self._try():
                if time.monotonic() > deadline:
                    raise WriteError(f"{self._file} is locked by a process that does not go on")
                time.sleep(_PAUSE)
        except BaseException as error:
            self.release()
            if isinstance(error, OSError) and not isinstance(error, WriteError):
                raise WriteError(f"cannot lock {self._file}: {error.strerror or error}") from error
            raise
        return True

    def _try(self) -> bool:
        assert self._fd is not None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give the lock back."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> WaitingLock:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class JournalLock(WaitingLock):
    """The lock of a study's journal, which is whole whenever somebody holds it.

    A process that is killed while it writes leaves half a line, or its disk is full. The next line would be
    appended to that half, and nobody could read the journal any more.

    Args:
        journal: beside which the lock lies.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(journal.with_name(f"{journal.name}.lock"))
        self._journal = journal

    def acquire(self) -> bool:
        """Wait for the lock, and cut off a line without an end.

        Raises:
            WriteError: it cannot be had.
        """
        super().acquire()
        try:
            _cut_torn_line(self._journal)
        except BaseException:
            self.release()
            raise
        return True


def _cut_torn_line(file: Path) -> None:
    try:
        with file.open("rb+") as journal:
            size = journal.seek(0, os.SEEK_END)
            start = size
            tail = b""
            while start > 0 and b"\n" not in tail:
                start = max(0, start - 4096)
                journal.seek(start)
                tail = journal.read(size - start)
            end = start + tail.rfind(b"\n") + 1
            if end < size:
                journal.truncate(end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteError(f"cannot mend {file}: {error.strerror or error}") from error
