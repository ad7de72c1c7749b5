"""What an env needs of a worker process, and does to it: memory, threads, processes, settings."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from workers.envs import EnvFactory
from workers.exam_play import Player
from workers.findings import Finding, note, ok, warning

_FURTHER_ENVS = 8
_SECONDS = 3.0  # after which no further env is built
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


@dataclass(frozen=True)
class Before:
    """A process before anything of the env's was imported.

    Attributes:
        threads: that it has.
        folder: its working directory.
        handlers: of signals.
    """

    threads: int
    folder: str
    handlers: tuple[Any, ...]

    @classmethod
    def now(cls) -> Before:
        """Of this process, at this moment."""
        return cls(_count_threads(), os.getcwd(), tuple(signal.getsignal(signum) for signum in _SIGNALS))


class _Patient(Protocol):
    factory: EnvFactory
    beat: Callable[[], None]
    before: Before
    data: dict[str, Any]


def needs(patient: _Patient) -> Iterator[Finding]:
    """Of a process that hosts a few envs, each with an episode begun."""
    began, processes = time.monotonic(), _count_children()
    players = [_begun(patient, 0)]
    first = resident_bytes()
    while len(players) <= _FURTHER_ENVS and time.monotonic() < began + _SECONDS:
        players.append(_begun(patient, len(players)))
    if first is not None and len(players) > 1:
        patient.data["env_bytes"] = max(0, (resident_bytes() or 0) - first) // (len(players) - 1)
    yield _threads(patient, len(players), max(0, _count_children() - processes))
    if (found := _habits(patient)) is not None:
        yield found
    for player in players:
        player.close()


def _begun(patient: _Patient, number: int) -> Player:
    player = Player(patient.factory, patient.beat)
    player.play(number, 3, time.monotonic() + _SECONDS)
    return player


def _threads(patient: _Patient, envs: int, processes: int) -> Finding:
    threads = max(0, _count_threads() - patient.before.threads)
    computing = _computing_threads()
    numbers = {"threads": threads, "processes": processes, "computing_threads": computing}
    parts = []
    if threads:
        parts.append(f"{envs} envs have started {threads} threads")
    if processes:
        parts.append(f"{envs} envs have started {processes} processes, which are killed with their worker")
    if computing > 1:
        parts.append(f"a library computes with {computing} threads, though workers limit them to 1")
    if parts:
        text = "; ".join(parts) + ": other workers want the same cores"
        return (warning if computing > 1 else note)("threads", text, **numbers)
    return ok("threads", "starts no threads and no processes; libraries compute with 1 thread", **numbers)


def _computing_threads() -> int:
    from threadpoolctl import threadpool_info  # only here: workers do without

    return max((int(library["num_threads"]) for library in threadpool_info()), default=1)


def _habits(patient: _Patient) -> Finding | None:
    """What it does to the process; a worker bears it, and the learner's process notices nothing."""
    found = []
    if os.getcwd() != patient.before.folder:
        found.append("changes the working directory")
    if tuple(signal.getsignal(signum) for signum in _SIGNALS) != patient.before.handlers:
        found.append("sets handlers of signals")
    if "torch" in sys.modules:
        found.append("imports torch, which costs every worker about a second and 150 MB")
    return note("habits", "; ".join(found)) if found else None


def resident_bytes(pid: int | str = "self") -> int | None:
    """The memory of a process in RAM, shared pages included; None where /proc does not tell (macOS)."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _count_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # macOS
        return 1


def _count_children() -> int:
    try:
        threads = os.listdir("/proc/self/task")
        return sum(len(_read(f"/proc/self/task/{thread}/children").split()) for thread in threads)
    except OSError:
        return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:  # the kernel does not have it, or the thread is gone
        return ""
