"""What may add to the advantages of the rewards."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from learner.arrays import Floats, Ids
from learner.store import Rollout


class ExplorationUpdate(Protocol):
    """What an `Exploration` learns from one rollout of S steps.

    Attributes:
        advantages: f64[S], added to those of the rewards.
    """

    advantages: Floats

    def learn(self, rows: Ids) -> None:
        """One optimiser step on the rows i64[B] of the rollout."""

    def finish(self) -> dict[str, float]:
        """Call once, after the last `learn`. Returns metrics by name."""


class Exploration(Protocol):
    """A source of advantages besides the rewards, e.g. `learner.rnd.RND`."""

    def begin(self, rollout: Rollout) -> ExplorationUpdate:
        """The update from a rollout, with the advantages as they are before it."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that `begin` and the updates depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """The inverse of `state_dict`."""


class NoExplorationUpdate:
    """Adds nothing and learns nothing. Implements `ExplorationUpdate`.

    Args:
        num_steps: S.
    """

    def __init__(self, num_steps: int) -> None:
        self.advantages = np.zeros(num_steps)

    def learn(self, rows: Ids) -> None:
        """See `ExplorationUpdate`."""

    def finish(self) -> dict[str, float]:
        """See `ExplorationUpdate`."""
        return {}


class NoExploration:
    """Only the rewards count. Implements `Exploration`."""

    def begin(self, rollout: Rollout) -> NoExplorationUpdate:
        """See `Exploration`."""
        return NoExplorationUpdate(len(rollout))

    def state_dict(self) -> dict[str, Any]:
        """See `Exploration`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Exploration`."""
