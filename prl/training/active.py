"""The active mask: which envs still play in a round, and what the round's end costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

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

    def leave(self, env_ids: Ids, ago: npt.NDArray[np.float64] | float = 0.0) -> None:
        """These envs i64[E] have done their part, f64[E] seconds ago; who had done it before is as it is."""
        playing = self.mask[env_ids]
        leaving = env_ids[playing]
        self.mask[leaving] = False
        self._left_at[leaving] = self._clock() - np.broadcast_to(ago, env_ids.shape)[playing]

    def mean_wait(self) -> float:
        """Seconds for which envs wait already, averaged over all: at a round's end, what stragglers cost."""
        return float(np.where(self.mask, 0.0, self._clock() - self._left_at).mean())
