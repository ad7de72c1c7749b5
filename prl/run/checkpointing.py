"""When a run writes checkpoints, what they say, and what they cost."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from learner.state import copied
from prl.config.checkpoint_every import CheckpointEvery
from prl.run.checkpoint_files import Checkpoint
from prl.run.checkpoints import Checkpoints
from prl.run.files import WriteError
from prl.training.trainer import Trainer


@dataclass(frozen=True)
class SafePoint:
    """A moment to which a run can go back: an update is done, recorded and evaluated.

    Attributes:
        timesteps: env steps before it.
        updates: before it.
        state: of the run; training does not change it.
        best: timesteps of the best evaluation so far; None before the first.
    """

    timesteps: int
    updates: int
    state: dict[str, Any]
    best: int | None = None


class Checkpointing(Protocol):
    """Writes safe points down, or does not."""

    def state_of(self, trainer: Trainer) -> dict[str, Any]:
        """A copy of a trainer's state, at least of its policy, which is at `["learner"]["policy"]`."""

    def at_the_beginning(self, point: SafePoint) -> None:
        """A new run has not yet done anything; a killed one goes on from there."""

    def after_update(self, point: SafePoint) -> None:
        """A safe point is reached; it is written if it is time to."""

    def finish(self, point: SafePoint | None) -> None:
        """The run ends: write the last safe point, unless it is written or there is none."""

    def metrics(self) -> dict[str, float]:
        """What the run's metrics say about its checkpoints."""

    def summary(self) -> dict[str, Any]:
        """What the run's summary says about its checkpoints."""


class NoCheckpoints:
    """Writes none. Implements `Checkpointing`."""

    def state_of(self, trainer: Trainer) -> dict[str, Any]:
        """See `Checkpointing`."""
        return {"learner": {"policy": copied(trainer.learner.policy.state_dict())}}

    def at_the_beginning(self, point: SafePoint) -> None:
        """See `Checkpointing`."""

    def after_update(self, point: SafePoint) -> None:
        """See `Checkpointing`."""

    def finish(self, point: SafePoint | None) -> None:
        """See `Checkpointing`."""

    def metrics(self) -> dict[str, float]:
        """See `Checkpointing`."""
        return {"checkpoint/share": 0.0, "checkpoint/failed": 0.0}

    def summary(self) -> dict[str, Any]:
        """See `Checkpointing`."""
        return {"checkpoint": None, "failed_checkpoints": 0}


class Checkpointer:
    """Writes safe points into the folder of a run. Implements `Checkpointing`.

    A checkpoint that cannot be written is a warning and a metric; the training goes on.

    Args:
        checkpoints: of the run.
        every: how often.
        about: what every manifest says.
        hold: makes the context in which something is written; see `Signals.held`.
        point: where the run goes on; it is written already.
        on_written: called after each.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: CheckpointEvery,
        about: Mapping[str, Any],
        hold: Callable[[], AbstractContextManager[None]] = nullcontext,
        point: SafePoint | None = None,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        self._checkpoints = checkpoints
        self._every = every
        self._about = dict(about)
        self._hold = hold
        self._on_written = on_written
        self._written = None if point is None else point.timesteps
        self._best = None if point is None else point.best
        self._updates = 0
        self._failed = 0
        self._was_warned = False
        self._seconds = self._cost = 0.0
        self._began = self._last = time.monotonic()

    def state_of(self, trainer: Trainer) -> dict[str, Any]:
        """See `Checkpointing`."""
        began = time.perf_counter()
        state = trainer.state_dict()
        self._seconds += time.perf_counter() - began
        return state

    def at_the_beginning(self, point: SafePoint) -> None:
        """See `Checkpointing`."""
        self._write(point)

    def after_update(self, point: SafePoint) -> None:
        """See `Checkpointing`. A new best policy is written in any case: that checkpoint is kept."""
        self._updates += 1
        is_best = point.best is not None and point.best != self._best
        self._best = point.best
        waited = time.monotonic() - self._last
        if (is_best and point.best == point.timesteps) or self._every.is_due(
            self._updates, waited, self._cost
        ):
            self._write(point)

    def finish(self, point: SafePoint | None) -> None:
        """See `Checkpointing`."""
        if point is not None and point.timesteps != self._written:
            self._write(point)

    def _write(self, point: SafePoint) -> None:
        began = time.perf_counter()
        try:
            with self._hold():
                self._checkpoints.save(Checkpoint(point.timesteps, self._about, point.state), point.best)
                self._written, self._was_warned = point.timesteps, False
                self._on_written()
        except WriteError as error:  # the next one may fit
            self._failed += 1
            self._warn(error)
        finally:
            self._cost = time.perf_counter() - began
            self._seconds += self._cost
            self._updates, self._last = 0, time.monotonic()

    def _warn(self, error: WriteError) -> None:
        """Once until one is written again: a full disk would repeat itself for hours."""
        if not self._was_warned:
            self._was_warned = True
            warnings.warn(f"a checkpoint is not saved, older ones are kept: {error}", stacklevel=4)

    def metrics(self) -> dict[str, float]:
        """See `Checkpointing`. The share is that of all time since the run began."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return {"checkpoint/share": self._seconds / seconds, "checkpoint/failed": float(self._failed)}

    def summary(self) -> dict[str, Any]:
        """See `Checkpointing`."""
        return {"checkpoint": self._written, "failed_checkpoints": self._failed}
