"""What envs print in worker processes: line by line, each line once, and beside a progress bar.

Left alone, every worker would write to the terminal what the constructor of its envs has to say, into the
middle of a progress bar, and to the stdout of a command whose result a script reads. So the workers write to
one pipe instead, which a thread of the learner reads. What they print while they start is only shown if they
do not: a trial env has shown it before.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

_CHUNK = 1 << 16  # bytes
_LONGEST = 1 << 14  # bytes; a longer line is shown in pieces
_DIFFERENT = 1000  # lines
_ENOUGH = (
    f"environments have printed {_DIFFERENT:,} different lines; no more are shown "
    "(num_workers=0 shows them all)"
)


def to_stderr(line: str) -> None:
    """Print a line for the user."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Output:
    """A pipe for what workers print, and the thread that shows it.

    Args:
        show: called in that thread with each line.
    """

    def __init__(self, show: Callable[[str], None] = to_stderr) -> None:
        self._show = show
        self._read, self._write = os.pipe()
        # Lines of our own in the same pipe, so they come after all that was printed before.
        self._started, self._end = (f"{os.urandom(12).hex()} {word}" for word in ("started", "end"))
        self._held: list[str] | None = []
        self._seen: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="prl-output", daemon=True)
        self._thread.start()

    def for_child(self) -> OutputEnd:
        """The end of a worker; to be pickled while that is started."""
        return OutputEnd(self._write)

    def started(self) -> None:
        """All workers have started: from now on, show what is new."""
        self._tell(self._started)

    def close(self) -> None:
        """Show what is left, and end the thread. Again does nothing."""
        if self._write < 0:
            return
        self._tell(self._end)
        if threading.current_thread() is not self._thread:  # the garbage collector runs in any
            self._thread.join(2.0)
        os.close(self._write)
        self._write = -1

    def _tell(self, word: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._write, f"\n{word}\n".encode())

    def _run(self) -> None:
        try:
            rest = b""
            while data := os.read(self._read, _CHUNK):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _LONGEST:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    # A carriage return begins the line again, as progress bars do.
                    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
                    if text == self._end:
                        return
                    self._take(text)
        finally:
            self._release(show=True)
            os.close(self._read)

    def _take(self, text: str) -> None:
        if text == self._started:
            self._release(show=False)
        elif text and text not in self._seen and len(self._seen) <= _DIFFERENT:
            self._seen.add(text)
            if len(self._seen) > _DIFFERENT:
                text = _ENOUGH
            if self._held is None:
                self._show(text)
            else:
                self._held.append(text)

    def _release(self, show: bool) -> None:
        held, self._held = self._held or [], None
        for text in held if show else ():
            self._show(text)


class OutputEnd:
    """Where a worker writes what its envs print.

    Args:
        fd: of the pipe.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _InChild, (reduction.DupFd(self._fd),)


class _InChild:
    def __init__(self, dup: Any) -> None:
        self._fd = dup.detach()

    def redirect(self) -> None:
        """From now on, stdout and stderr of this process go into the pipe, line by line."""
        for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
            if stream is not None:
                stream.flush()
                stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
            os.dup2(self._fd, fd)
        os.close(self._fd)
