"""Signals: the first one ends the run in good order, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """SIGINT or SIGTERM has arrived. A BaseException, like KeyboardInterrupt, so that nothing swallows it.

    Attributes:
        signum: which signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")

    @property
    def exit_code(self) -> int:
        """What a shell expects: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class Interrupted(Stopped, KeyboardInterrupt):
    """Ctrl-C: a `KeyboardInterrupt` for whoever waits for one."""


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first SIGINT or SIGTERM; exit at the second.

    In another thread than the main one, where Python does not allow handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopping = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            os._exit(128 + signum)  # the kernel takes the workers along (PR_SET_PDEATHSIG)
        stopping = True
        raise (Interrupted if signum == signal.SIGINT else Stopped)(signum)

    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
