"""Sinks for metrics: a CSV file, TensorBoard; what keeps a run going when a sink fails."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from learner.settings import ConfigError
from prl.run.files import replace_file
from workers.errors import describe

_MOST_WAITING = 16 << 20  # bytes
_OF_SUMMARY = ("summary/mean_return", "summary/eval_mean_return", "summary/best_mean_return")
_COMPARED = ("rollout/ep_rew_mean", *_OF_SUMMARY, "time/fps")  # beside the hyperparameters


class Sink(Protocol):
    """Takes the metrics of a run. Any object with these two methods can be passed to `prl.train`.

    An object that is passed twice is one sink: it gets everything once.
    Calls come from the thread that trains, between updates: the policy is complete when a sink is called.
    """

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """Called after each update, and after each evaluation of the run if it has any.

        Args:
            timesteps: env steps since the run began.
            metrics: by name, those of `Report.metrics` ("rollout/ep_rew_mean", "train/approx_kl", ...) after
                an update, those of `Evaluation.metrics` ("eval/mean_reward", ...) after an evaluation. Read
                only. Names may join in the course of a run: "rollout/success_rate" is there once an episode
                has told. A value may be NaN.
        """

    def close(self) -> None:
        """Called once, however the run ends; never, if it cannot begin (see the errors of `prl.train`)."""


@runtime_checkable
class SummarySink(Sink, Protocol):
    """A sink that also wants to know what the run came to. It does not have to inherit from this."""

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Called once, before `close`, with what `summary.json` holds."""


def summarize(sink: Sink, summary: Mapping[str, Any]) -> None:
    """Pass the summary of a run to a sink that takes it."""
    if isinstance(sink, SummarySink):
        sink.summarize(summary)


class CsvSink:
    """One row per call, one column per metric; readable at any time.

    Rows that do not fit on the disk are kept, and written when it has room again. A metric that joins later
    gets a column that is empty above, and one that is missing an empty cell.

    Args:
        path: of the file; it is replaced, unless there are columns.
        columns: of the file that is there already: rows are appended to it.
    """

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        self._path = path
        self._columns = list(columns)
        self._waiting = b""
        self._was_warned = False
        self._file = path.open("ab" if columns else "wb", buffering=0)  # so that we know what was written

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`.

        Raises:
            OSError: nothing could be written for so long that the rows take much memory.
        """
        if not self._columns:
            self._columns = list(metrics)
            self._waiting += _row(self._columns)
        others = [name for name in metrics if name not in self._columns]
        if others:
            self._add_columns(others)
        cells = [f"{metrics[name]:.8g}" if name in metrics else "" for name in self._columns]
        self._waiting += _row(cells)
        try:
            self._write_waiting()
        except OSError as error:
            if len(self._waiting) > _MOST_WAITING:
                raise
            if not self._was_warned:
                self._was_warned = True
                _warn(f"{self._path} cannot be written, its rows wait: {error.strerror or error}")

    def _add_columns(self, names: Sequence[str]) -> None:
        """Write the file anew, with more columns; while it cannot be written, they are left out."""
        try:
            written = self._path.read_bytes() + self._waiting
            _, *rows = csv.reader(io.StringIO(written.decode(), newline=""))
            columns = [*self._columns, *names]
            padded = [_row([*cells, *("" for _ in names)]) for cells in rows]
            replace_file(self._path, b"".join([_row(columns), *padded]))
            file = self._path.open("ab", buffering=0)
        except OSError:
            return
        self._file.close()
        self._file, self._columns, self._waiting = file, columns, b""

    def _write_waiting(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]
        self._was_warned = False

    def close(self) -> None:
        """See `Sink`.

        Raises:
            OSError: the rows that wait still cannot be written.
        """
        with self._file:
            self._write_waiting()


def _row(cells: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


class TensorBoardSink:
    """Event files for TensorBoard.

    Args:
        folder: where they are written.
        after: steps of the last event that is there already; None if the run begins. A TensorBoard that is
            open meanwhile forgets what it has seen of later ones.
        settings: of the run, for TensorBoard's table of hyperparameters; {} does without.
    """

    def __init__(
        self, folder: Path, after: int | None = None, settings: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

        options = {} if after is None else {"purge_step": after + 1}
        self._writer = SummaryWriter(str(folder), **options)
        self._excepthook = threading.excepthook
        threading.excepthook = self._thread_failed
        self._timesteps = after or 0
        if settings and after is None:  # a run that goes on has them already
            self._write_hyperparameters(settings)

    def _write_hyperparameters(self, settings: Mapping[str, Any]) -> None:
        """Into the file of the metrics; the folder of `SummaryWriter.add_hparams` looks like another run."""
        from torch.utils.tensorboard.summary import hparams

        plain = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in settings.items()
        }
        experiment, session, _ = hparams(plain, dict.fromkeys(_COMPARED, 0.0))
        writer = self._writer.file_writer
        assert writer is not None, "it was opened a moment ago"
        for part in (experiment, session):
            writer.add_summary(part)

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Print no traceback if the thread that writes fails: `write` raises the same error next time."""
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            self._excepthook(failure)

    @staticmethod
    def available() -> bool:
        """Whether the extra `tensorboard` is installed."""
        return importlib.util.find_spec("tensorboard") is not None

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._timesteps = timesteps
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, timesteps)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """See `SummarySink`: the numbers that runs are compared by, as `summary/NAME`."""
        for tag in _OF_SUMMARY:
            value = summary.get(tag.removeprefix("summary/"))
            if isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(tag, value, self._timesteps)

    def close(self) -> None:
        """See `Sink`."""
        if threading.excepthook == self._thread_failed:
            threading.excepthook = self._excepthook
        self._writer.close()


Hold = Callable[[], AbstractContextManager[None]]
"""Makes the context in which a sink writes and closes, e.g. `Signals.held`."""


class FaultTolerantSink:
    """Keeps training going when a sink fails (disk full, server gone): warns once, then leaves it out.

    Args:
        sink: what to guard.
        hold: see `Hold`.
        name: for the warning; "" takes that of the sink's class.
    """

    def __init__(self, sink: Sink, hold: Hold = nullcontext, name: str = "") -> None:
        self._sink: Sink | None = sink
        self._hold = hold
        self._name = name or type(sink).__name__

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        if self._sink is None:
            return
        try:
            with self._hold():
                self._sink.write(timesteps, metrics)
        except Exception as error:  # a sink can be the user's code
            failed, self._sink = self._sink, None
            _warn(f"{self._name} failed and is left out: {describe(error)}")
            with contextlib.suppress(Exception), self._hold():
                failed.close()

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Pass on the summary of a run, if the sink takes it."""
        if self._sink is not None:
            try:
                with self._hold():
                    summarize(self._sink, summary)
            except Exception as error:
                _warn(f"{self._name} failed to take the summary: {describe(error)}")

    def close(self) -> None:
        """See `Sink`."""
        if self._sink is not None:
            try:
                with self._hold():
                    self._sink.close()
            except Exception as error:
                _warn(f"{self._name} failed to close: {describe(error)}")


def distinct_sinks(sinks: Sequence[Sink]) -> list[Sink]:
    """The caller's sinks, each object once.

    Args:
        sinks: what the caller passed.

    Raises:
        ConfigError: it is no list, or holds something that is no sink.
    """
    allowed = "sinks must be a list of objects with write(timesteps, metrics) and close()"
    if not isinstance(sinks, Sequence):
        raise ConfigError(f"{allowed}, got one {type(sinks).__name__}; a single sink is sinks=[sink]")
    for sink in sinks:
        methods = (getattr(sink, "write", None), getattr(sink, "close", None))
        if isinstance(sink, type) or not all(map(callable, methods)):
            what = f"the class {sink.__name__}" if isinstance(sink, type) else f"one {type(sink).__name__}"
            raise ConfigError(f"{allowed}, got {what} in it")
    return list({id(sink): sink for sink in sinks}.values())


def open_sink(kind: Callable[[Path], Sink], path: Path, hold: Hold = nullcontext) -> list[Sink]:
    """A guarded sink of a kind that writes to a path; none, with a warning, if that cannot be opened."""
    try:
        with hold():
            return [FaultTolerantSink(kind(path), hold, str(path))]
    except OSError as error:
        _warn(f"{path} cannot be written and is left out: {error.strerror or error}")
        return []


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)
