"""Sinks for reports: a CSV file, TensorBoard, a progress bar."""

from __future__ import annotations

import csv
import importlib.util
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from prl.training.trainer import Report


class Sink(Protocol):
    """Takes one report per update."""

    def write(self, report: Report) -> None:
        """Called after each update."""

    def close(self) -> None:
        """Called once, however the run ends."""


class CsvSink:
    """One row per update, one column per metric; readable at any time.

    Args:
        path: of the file; it is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._writer: csv.DictWriter[str] | None = None

    def write(self, report: Report) -> None:
        """See `Sink`."""
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(report.metrics))
            self._writer.writeheader()
        self._writer.writerow({name: f"{value:.8g}" for name, value in report.metrics.items()})
        self._file.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class TensorBoardSink:
    """Event files for TensorBoard.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

        self._writer = SummaryWriter(str(folder))

    @staticmethod
    def available() -> bool:
        """Whether the extra `tensorboard` is installed."""
        return importlib.util.find_spec("tensorboard") is not None

    def write(self, report: Report) -> None:
        """See `Sink`."""
        for name, value in report.metrics.items():
            self._writer.add_scalar(name, value, report.timesteps)

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()


class ProgressBar:
    """A tqdm bar on stderr: steps, mean return, recent steps/s, occupancy. Silent if stderr is no terminal.

    Args:
        total_timesteps: length of the bar.
    """

    def __init__(self, total_timesteps: int) -> None:
        self._total = total_timesteps
        self._bar = tqdm(
            total=total_timesteps,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]",
        )

    def write(self, report: Report) -> None:
        """See `Sink`."""
        if self._bar.disable:
            return
        self._bar.set_postfix_str(
            f"return {report.mean_return:.4g}, "
            f"{report.metrics['time/iteration_fps']:,.0f} steps/s "
            f"(mean {report.metrics['time/fps']:,.0f}), "
            f"occupancy {report.metrics['rollout/occupancy']:.0%}",
            refresh=False,
        )
        # The last round may go past the total; a bar at 103 % would look like a mistake.
        self._bar.update(min(report.timesteps, self._total) - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        """See `Sink`."""
        self._bar.close()


class FaultTolerantSink:
    """Keeps training going when a sink fails (disk full, broken pipe): warns once, then leaves it alone.

    Args:
        sink: what to guard.
        hold: makes the context in which it writes and closes, e.g. `Signals.held`.
    """

    def __init__(self, sink: Sink, hold: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._sink: Sink | None = sink
        self._hold = hold

    def write(self, report: Report) -> None:
        """See `Sink`."""
        if self._sink is None:
            return
        try:
            with self._hold():
                self._sink.write(report)
        except OSError as error:
            warnings.warn(f"{type(self._sink).__name__} failed and is left out: {error}", stacklevel=2)
            self._sink = None

    def close(self) -> None:
        """See `Sink`."""
        if self._sink is not None:
            try:
                with self._hold():
                    self._sink.close()
            except OSError as error:
                warnings.warn(f"{type(self._sink).__name__} failed to close: {error}", stacklevel=2)
