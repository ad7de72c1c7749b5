"""When a trial is not worth going on with: below the median of the others, as far as they had come."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_FEWEST = 5
"""Trials with which one is compared at least."""
_WARM_UP = 0.25
"""Part of a run in which nothing is decided: learning begins at different times."""


@dataclass(frozen=True)
class Steps:
    """Numbers the evaluations of a trial, so that those of different trials can be compared.

    Which update crosses a multiple of `freq` depends on the settings; which multiple it is does not.

    Attributes:
        total: env steps of each run.
        freq: env steps from one evaluation to the next.
    """

    total: int
    freq: int

    @property
    def per_run(self) -> int:
        """The number of evaluations of a run, if no update crosses two multiples."""
        return -(-self.total // self.freq)

    def step(self, run: int, timesteps: int) -> int:
        """The number of an evaluation, from 1 on.

        Args:
            run: of the trial, from 0 on.
            timesteps: of this run.
        """
        within = self.per_run if timesteps >= self.total else timesteps // self.freq
        return run * self.per_run + min(within, self.per_run)

    def decides(self, timesteps: int) -> bool:
        """Whether a trial may be ended after so many steps of a run."""
        return timesteps >= _WARM_UP * self.total


def below_median(value: float, others: Sequence[float]) -> bool:
    """Whether a trial is to be ended.

    Args:
        value: of the trial.
        others: values that other trials had at the same step.
    """
    return len(others) >= _FEWEST and value < statistics.median(others)
