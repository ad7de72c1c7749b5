"""A sink that runs in a thread of its own, so that training never waits for it."""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from prl.run.sinks import Sink, summarize
from workers.errors import describe

_OPENING = 10.0  # seconds: a tool may ask the user who they are
_PATIENCE = 60.0  # seconds without a sign of life
_MOST_WAITING = 10_000  # calls


class BackgroundSink:
    """Opens, writes and closes another sink in a thread of its own; for those that talk to servers.

    Nothing that the other sink does ends the run or stops it for long. One that raises is left out from then
    on; one that hangs is waited for at the end, for a minute without a sign of life. Each is one warning.
    Whatever raises or warns does so in the thread that calls, as for any sink.

    Args:
        name: for warnings.
        make: opens the sink.
    """

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self._name = name
        self._make = make
        self._calls: queue.Queue[Callable[[Sink], object] | None] = queue.Queue(_MOST_WAITING)
        self._opened = threading.Event()
        self._finished_calls = 0
        self._failure = ""
        self._was_warned = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sink: Sink | None = None
        try:
            sink = self._make()
            self._opened.set()
            for call in iter(self._calls.get, None):
                call(sink)
                self._finished_calls += 1
        except (Exception, SystemExit) as error:
            self._failure = f"failed and is left out: {describe(error)}"
        finally:
            self._opened.set()
        try:
            if sink is not None:
                sink.close()
        except (Exception, SystemExit) as error:
            self._failure = self._failure or f"failed to close: {describe(error)}"

    def wait_until_open(self) -> None:
        """Give the sink ten seconds: what it prints, or asks, comes before the progress bar."""
        self._opened.wait(_OPENING)
        self._warn_of_failure()

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._warn_of_failure()
        row = dict(metrics)
        self._call(lambda sink: sink.write(timesteps, row))

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Pass on the summary of a run, if the sink takes it."""
        self._call(lambda sink: summarize(sink, summary))

    def _call(self, call: Callable[[Sink], object]) -> None:
        if self._failure:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._warn("cannot keep up, some of the metrics are left out")

    def close(self) -> None:
        """See `Sink`. Waits as long as the sink gets on with what is still to be written."""
        with contextlib.suppress(queue.Full):
            self._calls.put(None, timeout=_PATIENCE if self._thread.is_alive() else 0.0)
        seen = -1
        while self._thread.is_alive() and seen != self._finished_calls:
            seen = self._finished_calls
            self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._warn(f"has not answered for {_PATIENCE:.0f} s; its last metrics may be missing")
        self._warn_of_failure()

    def _warn_of_failure(self) -> None:
        if self._failure:
            self._warn(self._failure)

    def _warn(self, what: str) -> None:
        if not self._was_warned:
            self._was_warned = True
            warnings.warn(f"{self._name} {what}", stacklevel=2)
