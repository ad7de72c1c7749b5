"""A job in a process of its own, watched: one that hangs, crashes or exits ends with a sentence about it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import cloudpickle

from workers.errors import describe_exit

Tell = Callable[[dict[str, Any]], None]
_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMEXPR")  # as for workers
_LOOK = 0.5  # seconds from one look at whether the process lives to the next
_STACK_TIME = 5.0  # seconds for a process that hangs to say where
_MAX_WORDS = 1 << 16  # bytes of what a process has printed last
_STACK = re.compile(r"^Current thread .*\n((?:  File .*\n?)*)", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


class Job(Protocol):
    """What a process is to do; it is pickled."""

    def run(self, tell: Tell) -> None:
        """Do it.

        Args:
            tell: sends a message, which JSON can hold, to whoever watches.
        """


class ProbeEnded(Exception):
    """The process of a job ended before the job was done, or gave no sign of life. The message says how.

    Args:
        how: it ended.
        printed: by it, at last.

    Attributes:
        printed: what it has printed, without the report of the fault handler.
        stack: where it was, innermost first, as far as that is known: (file, line, function).
    """

    def __init__(self, how: str, printed: str) -> None:
        self.printed = printed.partition("Fatal Python error: ")[0].rstrip()
        stacks = _STACK.findall(printed)
        self.stack: list[tuple[str, str, str]] = _FRAME.findall(stacks[-1]) if stacks else []
        super().__init__(how + _where(self.stack))


class ProbeHung(ProbeEnded):
    """It gave no sign of life."""


def watched(job: Job, silence: float, start: float = 60.0) -> Iterator[dict[str, Any]]:
    """Run a job in a process of its own, with one thread per library, as workers have.

    The process and what it has started are killed when the iterator is exhausted or closed.

    Args:
        job: see `Job`.
        silence: seconds without a message after which it is killed.
        start: the same for the first message: the job has to be imported.

    Yields:
        The messages.

    Raises:
        ProbeEnded: the process died, or was silent for too long.
    """
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        printed = stack.enter_context(tempfile.TemporaryFile())
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.probe_child", str(writer)],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                pass_fds=[writer],
                env=_environment(),
                start_new_session=True,  # Ctrl-C does not reach it; it is killed with all its children
            )
        finally:
            os.close(writer)
        stack.callback(_end, process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(cloudpickle.dumps(job))
        yield from _messages(reader, process, (start, silence), printed)


def _environment() -> dict[str, str]:
    threads = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES}
    # What can be imported here can be imported there, an env in the user's folder, too.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **threads, "PYTHONPATH": path}


def _messages(
    reader: int, process: subprocess.Popen[bytes], patience: tuple[float, float], printed: IO[bytes]
) -> Iterator[dict[str, Any]]:
    """The messages; `patience` is in seconds, until the first one and then until each."""
    silence, after_first = patience
    rest = b""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    heard = time.monotonic()
    while True:
        left = heard + silence - time.monotonic()
        if not poller.poll(max(0.0, min(left, _LOOK)) * 1000.0):
            if process.poll() is not None:  # a process that it has forked may hold the pipe open
                break
            if left <= 0.0:
                raise _silent(process, silence, printed)
            continue
        data = os.read(reader, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            silence = after_first
            yield json.loads(line)
        heard = time.monotonic()
    try:
        code = process.wait(silence)
    except subprocess.TimeoutExpired:
        raise _silent(process, silence, printed) from None
    if code:
        raise ProbeEnded(f"its process died with {describe_exit(code)}", _last_words(printed))


def _silent(process: subprocess.Popen[bytes], silence: float, printed: IO[bytes]) -> ProbeEnded:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGABRT)  # its fault handler prints the stack, even under a held GIL
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STACK_TIME)
    return ProbeHung(f"its process hangs, with no sign of life for {silence:g} s", _last_words(printed))


def _last_words(printed: IO[bytes]) -> str:
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _MAX_WORDS))
    return printed.read().decode(errors="replace")


def _where(stack: list[tuple[str, str, str]]) -> str:
    """The innermost frame, rather one that is not Python's own: ", in step (my_env.py:12)"; "" if unknown."""
    library = sysconfig.get_path("stdlib")
    own = [each for each in stack if "site-packages" in each[0] or not each[0].startswith(("<", library))]
    for file, line, function in own or stack:
        return f", in {function} ({os.path.basename(file)}:{line})"
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
