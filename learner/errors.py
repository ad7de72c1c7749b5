"""What can go wrong in acting and learning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class NonFiniteError(ArithmeticError):
    """Gradients were not finite several times in a row, or an update made weights or actions that are not."""


class NoLegalAction(ValueError):
    """An env's action mask allows nothing.

    Args:
        rows: i64, rows (or env ids) without a legal action.
        what: the noun for them in the message.
    """

    def __init__(self, rows: npt.NDArray[np.int64], what: str = "rows") -> None:
        self.rows = rows
        which = f"{what} {', '.join(map(str, rows.tolist()))}"
        super().__init__(f"{which}: the action mask allows no action, but the episode is not over")
