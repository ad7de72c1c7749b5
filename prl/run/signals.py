"""Signals: the first one ends the run in good order, the second one at once. Light: imported before torch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP has arrived. Like KeyboardInterrupt, so that nothing swallows it.

    Attributes:
        signum: which signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")

    @property
    def exit_code(self) -> int:
        """What a shell expects: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP."""
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
        self._exits_as: str | None = None
        self._previous = {signum: signal.getsignal(signum) for signum in _HANDLED}

    @property
    def has_arrived(self) -> bool:
        """Whether a signal has arrived."""
        return self._arrived is not None

    def listen(self) -> None:
        """Handle the signals from here on. For the main thread."""
        for signum in _HANDLED:
            # `nohup` ignores the end of the terminal.
            if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self.handle)
        self._handles = True

    def leave(self) -> None:
        """Give the signals back to whom they belonged to when this object was made."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def listen_again(self) -> None:
        """As `listen`, if it was called: constructors of envs may have set handlers of their own."""
        if self._handles:
            self.listen()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """A handler for `signal.signal`.

        Raises:
            Stopped: this is the first signal, and nothing holds it back.
        """
        if self._exits_as is not None:
            os.write(2, f"{self._exits_as}: {Stopped(signum)}\n".encode())
            os._exit(128 + signum)
        if self._arrived is not None:
            os._exit(128 + signum)  # the reaper takes the workers along
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

    @contextmanager
    def exit_at_once(self, name: str) -> Iterator[None]:
        """End the process at the first signal, with one line.

        For imports, when there is nothing to put in order: an exception may come at a place that swallows it
        or prints it, like a callback of the import system.

        Args:
            name: of the command.
        """
        self._exits_as = name
        try:
            yield
        finally:
            self._exits_as = None

    def _raise_if_due(self) -> None:
        if self._arrived is None or self._raised or self._holding:
            return
        self._raised = True
        raise (Interrupted if self._arrived == signal.SIGINT else Stopped)(self._arrived)


_active: Signals | None = None


@contextmanager
def stop_on_signals(until_exit: bool = False) -> Iterator[Signals]:
    """Raise `Stopped` in the main thread at the first SIGINT, SIGTERM or SIGHUP; exit at the second.

    In another thread than the main one, where Python does not allow handlers, this does nothing. A block
    inside another one has the same signals: the second of a process is its second, wherever it arrives.

    Args:
        until_exit: a signal that has arrived ends the process; handlers stay, so the next one does at once.
    """
    global _active  # noqa: PLW0603 - as the handlers are the process's
    if threading.current_thread() is not threading.main_thread():
        yield Signals()
        return
    if _active is not None:
        _active.listen_again()
        yield _active
        return
    signals = _active = Signals()
    signals.listen()
    try:
        yield signals
    finally:
        _active = None
        if not (until_exit and signals.has_arrived):
            signals.leave()


def _leave_in_child() -> None:
    """A forked process, of a library or an env, is not ours to end in good order."""
    global _active  # noqa: PLW0603 - see above
    if _active is not None:
        _active.leave()
        _active = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_in_child)


@contextmanager
def exit_at_once(name: str) -> Iterator[None]:
    """`Signals.exit_at_once`, if a block of `stop_on_signals` is active."""
    if _active is None:
        yield
        return
    with _active.exit_at_once(name):
        yield
