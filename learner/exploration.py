"""What may add to the advantages of the rewards."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from learner.advantages import Floats
from learner.store import Rollout


class Exploration(Protocol):
    """A source of advantages besides the rewards, e.g. `learner.rnd.RND`."""

    def begin(self, rollout: Rollout) -> Floats:
        """Advantages f64[S] to add to those of the rewards; the rollout is learnt from until `finish`."""

    def learn(self, rows: Tensor) -> None:
        """One optimiser step on the rows i64[B] of the rollout."""

    def finish(self) -> dict[str, float]:
        """The update is over. Returns metrics by name."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that `begin` and `learn` depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """The inverse of `state_dict`."""


class NoExploration:
    """Only the rewards count. Implements `Exploration`."""

    def begin(self, rollout: Rollout) -> Floats:
        """See `Exploration`."""
        return np.zeros(len(rollout))

    def learn(self, rows: Tensor) -> None:
        """See `Exploration`."""

    def finish(self) -> dict[str, float]:
        """See `Exploration`."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """See `Exploration`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Exploration`."""
