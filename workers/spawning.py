"""Starting a process of ours: without the user's main script, and whole, whatever signals arrive."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import types
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from types import FrameType

_main_lock = threading.Lock()
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(process: SpawnProcess) -> None:
    """Start a process by `spawn`; signals that would raise an exception here wait until it is done.

    `spawn` imports the parent's `__main__` again, with all that it imports at its top (torch!), and breaks
    scripts without a `__main__` guard. Our factories carry the classes of `__main__` by value instead.

    Raises:
        OSError: it cannot be started.
    """
    with signals_wait(), _without_main_module(), _interrupts_blocked():
        process.start()


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Raise what handlers of SIGINT, SIGTERM and SIGHUP raise at the end of the block; a second one at once.

    An exception of a handler in the middle of a start would leave a process that nobody knows, or one that
    complains of a pipe that ends too early. To block signals does not help: other threads may get them, and
    the handlers run in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers never run here
        return
    raised: list[BaseException] = []
    found = {int(signum): signal.getsignal(signum) for signum in _STOPPING}
    handlers = {signum: handler for signum, handler in found.items() if callable(handler)}

    def hold(signum: int, frame: FrameType | None) -> None:
        try:
            handlers[signum](signum, frame)
        except BaseException as error:
            if raised:
                raise
            raised.append(error)

    for signum in handlers:
        signal.signal(signum, hold)
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        if raised:
            raise raised[0]


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    with _main_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back: a child inherits the mask, and would else be interrupted before it can ignore it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
