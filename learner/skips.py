"""Optimiser steps that are left out, because their gradient is not finite."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from learner.errors import NonFiniteError

Flag = TypeVar("Flag", bool, Tensor)

_LIMIT = 3  # consecutive minibatches with a non-finite gradient before giving up


class Skips:
    """Counts the steps that are left out, and ends the run after three in a row.

    The numbers are Python's or, where the gradient is a tensor, tensors beside it: whoever reads a number of
    a GPU waits for the GPU, which must not happen in each minibatch. There the error comes at the end of the
    update; since the third step in a row all others have been left out as well, so the weights are the same.

    Args:
        in_a_row: steps that were left out last, in earlier updates.

    Attributes:
        total: steps left out in this update.
        in_a_row: see above.
    """

    def __init__(self, in_a_row: int = 0) -> None:
        self.total: Any = 0
        self.in_a_row: Any = in_a_row

    def begin(self) -> None:
        """Another update begins. It may go on where the last one has given up."""
        self.total = 0
        self.in_a_row = min(int(self.in_a_row), _LIMIT - 1)

    def note(self, is_bad: Flag) -> Flag:
        """Whether to leave out a step.

        Args:
            is_bad: its gradient is not finite; a bool, or a tensor bool[].
        """
        skips: Flag = is_bad | (self.in_a_row >= _LIMIT)
        self.total = self.total + skips
        self.in_a_row = (self.in_a_row + 1) * skips
        return skips

    def check(self, *, waits: bool = False) -> None:
        """Look whether the run has to end.

        Args:
            waits: also look where that means waiting for a GPU.

        Raises:
            NonFiniteError: three steps in a row were left out.
        """
        count = self.in_a_row
        if isinstance(count, Tensor) and count.device.type != "cpu" and not waits:
            return
        if count >= _LIMIT:
            raise NonFiniteError(
                f"the gradient was not finite in {_LIMIT} minibatches in a row; "
                "a smaller learning rate, or normalised rewards or observations may help"
            )
