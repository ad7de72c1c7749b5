"""What the optimiser sees, and how it is cut into minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from learner.exploration import ExplorationUpdate
from learner.policy import ActorCritic


@dataclass(frozen=True)
class Batch:
    """Steps to learn from; all tensors are on the policy's device.

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

    inputs: Tensor
    masks: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    acting_policy: ActorCritic
    exploration: ExplorationUpdate

    def __len__(self) -> int:
        return len(self.log_probs)

    def rows(self, index: Tensor | slice) -> Batch:
        """The rows of `index`, i64[B] or a slice."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        tensors = {name: value[index] for name, value in fields.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]  # which fields are tensors is said above


class Minibatches(Protocol):
    """How a batch is cut: by rows, or, for policies with a memory, by sequences."""

    def of(self, batch: Batch, rng: np.random.Generator) -> Iterator[tuple[Tensor, Batch]]:
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

    def of(self, batch: Batch, rng: np.random.Generator) -> Iterator[tuple[Tensor, Batch]]:
        """See `Minibatches`."""
        for _ in range(self.num_epochs):
            order = torch.as_tensor(rng.permutation(len(batch)), device=batch.inputs.device)
            shuffled = batch.rows(order)
            for start in range(0, len(batch), self.size):
                rows = slice(start, start + self.size)
                yield order[rows], shuffled.rows(rows)
