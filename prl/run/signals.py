"""Signals: the first one ends the run in good order, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANDLED = (signal.SIGINT, signal.SIGTERM)


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
    """Ctrl-C: also a `KeyboardInterrupt`, for code that catches one."""


class Signals:
    """Which signal has arrived, and whether it has to wait."""

    def __init__(self) -> None:
        self._arrived: int | None = None
        self._raised = False
        self._holding = 0
        self._handles = False

    def listen(self) -> None:
        """Handle SIGINT and SIGTERM from here on. For the main thread."""
        for signum in _HANDLED:
            signal.signal(signum, self.handle)
        self._handles = True

    def listen_again(self) -> None:
        """As `listen`, if it was called: constructors of envs may have set handlers of their own."""
        if self._handles:
            self.listen()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """A handler for `signal.signal`.

        Raises:
            Stopped: this is the first signal, and nothing holds it back.
        """
        if self._arrived is not None:
            os._exit(128 + signum)  # the kernel takes the workers along (PR_SET_PDEATHSIG)
        self._arrived = signum
        self._raise_if_due()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the first signal wait until the end of the block.

        For code that must not be left halfway: an exception out of nowhere can leave a queue of TensorBoard's
        with a lock or a count that is wrong for ever, and a file with half a row. The second signal does not
        wait.

        Raises:
            Stopped: at the end, if a signal has arrived.
        """
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
            self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._arrived is None or self._raised or self._holding:
            return
        self._raised = True
        raise (Interrupted if self._arrived == signal.SIGINT else Stopped)(self._arrived)


@contextmanager
def stop_on_signals() -> Iterator[Signals]:
    """Raise `Stopped` in the main thread at the first SIGINT or SIGTERM; exit at the second.

    In another thread than the main one, where Python does not allow handlers, this does nothing.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    previous = {signum: signal.getsignal(signum) for signum in _HANDLED}
    signals.listen()
    try:
        yield signals
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
