"""How often a run writes a checkpoint: a setting in updates, in seconds, or by what it costs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from learner.settings import ConfigError, is_integer

AUTO = "auto"
WORDS = 'auto, 0 (never), a number of updates, or seconds like "60s"'

_LEAST_SECONDS = 10.0
_LARGEST_SHARE = 0.005  # of the time; with what the end of the run costs it stays below 1 %
_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)s$")


@dataclass(frozen=True)
class CheckpointEvery:
    """The setting `checkpoint_every`, read.

    Attributes:
        updates: from one checkpoint to the next; infinite if it goes by time, or if there are none.
        seconds: from one checkpoint to the next; infinite if it goes by updates, or if there are none.
        share: of the time that writing checkpoints may take; after one that took long the next waits longer.
    """

    updates: float = math.inf
    seconds: float = math.inf
    share: float = 1.0

    @property
    def never(self) -> bool:
        """Whether there are no checkpoints at all, at the end of the run either."""
        return math.isinf(self.updates) and math.isinf(self.seconds)

    def is_due(self, updates: int, seconds: float, cost: float) -> bool:
        """Whether it is time for the next one.

        Args:
            updates: since the last.
            seconds: since the last.
            cost: seconds that the last has taken.
        """
        return updates >= self.updates or seconds >= max(self.seconds, cost / self.share)


def checkpoint_every(value: int | str) -> CheckpointEvery:
    """Read the setting.

    Raises:
        ConfigError: it is none of `WORDS`.
    """
    if value == AUTO:
        return CheckpointEvery(seconds=_LEAST_SECONDS, share=_LARGEST_SHARE)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if is_integer(value, 0):
        return CheckpointEvery(updates=float(value) if value else math.inf)
    seconds = _SECONDS.match(value) if isinstance(value, str) else None
    if seconds is not None and float(seconds[1]) > 0:
        return CheckpointEvery(seconds=float(seconds[1]))
    raise ConfigError(f"checkpoint_every must be {WORDS}, got {value!r}")
