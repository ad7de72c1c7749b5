"""Runs in processes of their own, watched by what they print."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cloudpickle

from prl.commands.suites.jobs import MARK, Job

_SILENCE = 600.0  # seconds without a line, after which a run is given up
_GRACE = 10.0  # seconds from the request to end to the order
_LIBRARIES = ("OMP", "OPENBLAS", "MKL")  # one computing thread each: these are runs on small networks


@dataclass(frozen=True)
class Progress:
    """How far a run has come when a line of it arrives.

    Attributes:
        seconds: since its process was started.
        timesteps: env steps so far.
        mean_return: of an evaluation; None at the end of an update.
    """

    seconds: float
    timesteps: int
    mean_return: float | None = None


@contextlib.contextmanager
def watched(job: Job) -> Iterator[Iterator[Progress]]:
    """Run a job in a process of its own; the process is ended with the block.

    The iterator raises RuntimeError, with the last line of what it said, if the process fails, and
    TimeoutError if it is silent for ten minutes.
    """
    with _started([sys.executable, "-m", "prl.commands.suites.child"], cloudpickle.dumps(job)) as lines:
        yield _progress(lines)


def _progress(lines: Iterator[tuple[float, str]]) -> Iterator[Progress]:
    for seconds, line in lines:
        if line.startswith(MARK):  # the rest is what envs print
            yield Progress(seconds, **json.loads(line.removeprefix(MARK)))


@contextlib.contextmanager
def watched_script(
    script: Path, arguments: Sequence[str], steps_of: Callable[[str], int]
) -> Iterator[Iterator[Progress]]:
    """As `watched`, for a script that prints a line at the end of each update.

    Args:
        script: its path; it runs in an empty folder.
        arguments: of its command line.
        steps_of: the env steps of which a line tells; 0 for other lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script.absolute()), *arguments]
        with _started(command, b"", Path(folder)) as lines:
            yield _counted(lines, steps_of)


def _counted(lines: Iterator[tuple[float, str]], steps_of: Callable[[str], int]) -> Iterator[Progress]:
    timesteps = 0
    for seconds, line in lines:
        if (steps := steps_of(line)) > 0:
            timesteps += steps
            yield Progress(seconds, timesteps)


def update_rate(progress: Iterator[Progress]) -> float:
    """Env steps per second, from the end of the first update to that of the last.

    Raises:
        RuntimeError: there were less than two updates, or they were read at the same time.
    """
    updates = [each for each in progress if each.mean_return is None]
    if len(updates) < 2:
        raise RuntimeError(f"{len(updates)} updates, at least 2 are needed")
    first, last = updates[0], updates[-1]
    if first.seconds == last.seconds:
        raise RuntimeError("the updates took no time")
    return (last.timesteps - first.timesteps) / (last.seconds - first.seconds)


def seconds_until(progress: Iterator[Progress], threshold: float) -> float:
    """Seconds from the start of the process to the first evaluation at or above a threshold; or infinity."""
    for each in progress:
        if each.mean_return is not None and each.mean_return >= threshold:
            return each.seconds
    return math.inf


@contextlib.contextmanager
def _started(
    command: Sequence[str], said: bytes, folder: Path | None = None
) -> Iterator[Iterator[tuple[float, str]]]:
    """The lines that a process prints, each with the seconds since its start."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=_environment(),
            start_new_session=True,  # so that it can be ended together with its children
        )
        try:
            with contextlib.suppress(BrokenPipeError):  # it has failed, and its last words will tell
                _say(process, said)
            yield _lines(process, start, errors)
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    threads = {f"{library}_NUM_THREADS": "1" for library in _LIBRARIES}
    devices = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}  # these are comparisons on the CPU
    # What can be imported here can be imported there, an env in the user's folder, too.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **threads, **devices, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _say(process: subprocess.Popen[bytes], said: bytes) -> None:
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(said)


def _lines(process: subprocess.Popen[bytes], start: float, errors: IO[bytes]) -> Iterator[tuple[float, str]]:
    assert process.stdout is not None
    fd, rest = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            if not selector.select(_SILENCE):
                raise TimeoutError(f"said nothing for {_SILENCE:g} s")
            data = os.read(fd, 1 << 16)
            if not data:
                break
            seconds = time.perf_counter() - start
            *lines, rest = (rest + data).split(b"\n")
            yield from ((seconds, line.decode(errors="replace")) for line in lines)
    code = process.wait(_GRACE)
    if code:
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip().splitlines()
        raise RuntimeError(words[-1] if words else f"exit code {code}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):  # what it may have left behind
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()
