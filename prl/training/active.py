"""The active mask: which envs still play in a round, and what the round's end costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from workers.arrays import Ids


class ActiveEnvs:
    """The learner's view of who still plays, whoever acts.

    Args:
        num_envs: N.
        clock: seconds.

    Attributes:
        mask: bool[N].
    """

    def __init__(self, num_envs: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.mask = np.zeros(num_envs, np.bool_)
        self._left_at = np.zeros(num_envs)
        self._clock = clock

    def start(self, env_ids: Ids) -> None:
        """These envs begin their part of a round."""
        self.mask[env_ids] = True

    def leave(self, env_ids: Ids) -> None:
        """These envs have done their part; those that had done it before are as they are."""
        leaving = env_ids[self.mask[env_ids]]
        self.mask[leaving] = False
        self._left_at[leaving] = self._clock()

    def mean_wait(self) -> float:
        """Seconds for which envs wait already, averaged over all: at a round's end, what stragglers cost."""
        return float(np.where(self.mask, 0.0, self._clock() - self._left_at).mean())
