"""Where a worker process starts. Imports nothing heavy: the thread limits must be set before numpy loads."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from workers.processes import wear

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PR_SET_PDEATHSIG = 1


class LazyArguments:
    """Arguments that the child unpickles when it asks for them, not before `run`: they import numpy."""

    def __init__(self, args: tuple[Any, ...]) -> None:
        self._args = args

    def __getstate__(self) -> dict[str, bytes]:
        return {"_pickled": bytes(ForkingPickler.dumps(self._args))}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        self._pickled = state["_pickled"]

    def load(self) -> tuple[Any, ...]:
        """The arguments; in the child, once."""
        args: tuple[Any, ...] = pickle.loads(self._pickled)
        return args


@dataclass(frozen=True)
class Launch:
    """How a process begins.

    Attributes:
        module: its `main` is called with the connection and the arguments.
        parent_pid: die when this process, the parent, dies; None where that cannot be arranged.
        mark: worn by all that it starts (see `workers.processes`); None for no mark.
        output: where it prints to (see `workers.output`); None leaves it stdout and stderr.
    """

    module: str = "workers.child"
    parent_pid: int | None = None
    mark: str | None = None
    output: Any = None


def run(connection: Connection, args: LazyArguments, launch: Launch = Launch()) -> None:
    """Detach the process, limit it to one thread of computation, and run the module's `main`."""
    # Ctrl-C is the learner's. It was blocked when this process was started, so that none can come before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    detach(launch.parent_pid)
    if launch.output is not None:
        launch.output.redirect()
    _keep_descriptors()
    if launch.mark is not None:
        wear(launch.mark)
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
    # Only now: it imports numpy, which reads the limits once.
    importlib.import_module(launch.module).main(connection, *args.load())


def _keep_descriptors() -> None:
    """Pass our pipes on to no program that an env starts: it would hide our end from the parent."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                if int(name) > 2:
                    os.set_inheritable(int(name), False)


def detach(parent_pid: int | None) -> None:
    """Leave the terminal's signals to the parent, and make sure not to outlive it.

    Args:
        parent_pid: see `Launch`.
    """
    os.setpgrp()  # Ctrl-C does not reach us, and the parent can kill us together with our own children
    if parent_pid is None or not sys.platform.startswith("linux"):
        return
    # A process that hangs in a step does not notice the end of its pipe: ask the kernel to kill it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before the request was in place
        os.kill(os.getpid(), signal.SIGKILL)
