"""What the optimiser sees, and how it is cut into minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from learner.exploration import ExplorationUpdate
from learner.policy import ActorCritic

Column = TypeVar("Column")
"""`torch.Tensor`, or `numpy.ndarray`."""
Other = TypeVar("Other")
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch(Generic[Column]):
    """Steps to learn from; tensors are on the policy's device.

    Attributes:
        inputs: [S, ...], preprocessed observations.
        masks: bool[S, K], legal actions; bool[S, 0] without masks.
        actions: [S, *A].
        log_probs: f32[S], of the weights that acted.
        values: f32[S], of the weights that acted.
        advantages: f32[S].
        returns: f32[S], advantages + values.
        acting_policy: with the weights that acted.
        exploration: learns from the same rows.
    """

    inputs: Column
    masks: Column
    actions: Column
    log_probs: Column
    values: Column
    advantages: Column
    returns: Column
    acting_policy: ActorCritic
    exploration: ExplorationUpdate

    def __len__(self) -> int:
        return len(self.log_probs)  # type: ignore[arg-type]

    def rows(self, index: Ids | slice) -> Batch[Column]:
        """The rows of `index`, i64[B] or a slice."""
        return self.map(lambda column: column[index])

    def map(self, function: Callable[[Any], Other]) -> Batch[Other]:
        """The batch with a function of each of its columns in their place."""
        return Batch(
            function(self.inputs),
            function(self.masks),
            function(self.actions),
            function(self.log_probs),
            function(self.values),
            function(self.advantages),
            function(self.returns),
            self.acting_policy,
            self.exploration,
        )


class Minibatches(Protocol):
    """How a batch is cut: by rows, or, for policies with a memory, by sequences."""

    def of(self, batch: Batch[Column], rng: np.random.Generator) -> Iterator[tuple[Ids, Batch[Column]]]:
        """The minibatches of all epochs, each with its rows i64[B] in the batch."""


class RowMinibatches:
    """Rows in a new order each epoch, each once; the last minibatch may be smaller. Implements `Minibatches`.

    Args:
        num_epochs: passes over the batch.
        size: rows of a minibatch.
    """

    def __init__(self, num_epochs: int, size: int) -> None:
        self.num_epochs = num_epochs
        self.size = size

    def of(self, batch: Batch[Column], rng: np.random.Generator) -> Iterator[tuple[Ids, Batch[Column]]]:
        """See `Minibatches`."""
        for _ in range(self.num_epochs):
            order = rng.permutation(len(batch))
            shuffled = batch.rows(order)
            for start in range(0, len(batch), self.size):
                rows = slice(start, start + self.size)
                yield order[rows], shuffled.rows(rows)
