"""Where a worker process starts. Imports nothing heavy: the thread limits must be set before numpy loads."""

from __future__ import annotations

import os
import pickle
import signal
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


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


def run(connection: Connection, args: LazyArguments) -> None:
    """Limit the process to one thread of computation, then run `workers.child.main`."""
    # Ctrl-C is the learner's. It was blocked when this process was started, so that none can come before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
    from workers import child  # only now: it imports numpy, which reads the limits once

    child.main(connection, *args.load())
