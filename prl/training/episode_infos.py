"""What the infos of ended episodes say, on average: success rates, and what else was asked for."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from workers.final_infos import NO_NUMBER, InfoColumn

_RECENT_EPISODES = 100


class EpisodeInfos:
    """Numbers of the last infos of episodes, column by column, of the last 100 episodes that have them.

    Args:
        columns: K of them.
    """

    def __init__(self, columns: Sequence[InfoColumn]) -> None:
        self._columns = tuple(columns)
        self._recent = {column.name: deque[float](maxlen=_RECENT_EPISODES) for column in columns}
        self._refused: set[str] = set()

    def add(self, infos: npt.NDArray[np.float64]) -> None:
        """Episodes have ended: f64[E, K], as in `StepBatch.final_info`.

        The first one that says what is no number is a warning.
        """
        for column, values in zip(self._columns, infos.T, strict=True):
            self._recent[column.name].extend(values[np.isfinite(values)].tolist())
            if (values == NO_NUMBER).any() and column.name not in self._refused:
                self._refused.add(column.name)
                warnings.warn(_refusal(column), stacklevel=2)

    def means(self) -> dict[str, float]:
        """By the names of the columns; those that no episode has said are left out."""
        return {name: float(np.mean(values)) for name, values in self._recent.items() if values}

    def unsaid(self) -> list[str]:
        """Keys that were asked for, and that no episode has said so far; nobody has to ask for success."""
        return [
            column.keys[0]
            for column in self._columns
            if not (column.is_flag or self._recent[column.name] or column.name in self._refused)
        ]

    def state_dict(self) -> dict[str, list[float]]:
        """What the coming means depend on."""
        return {name: list(values) for name, values in self._recent.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """The inverse of `state_dict`. A state of other columns will do: it says nothing about new ones."""
        for name in self._recent:
            self._recent[name] = deque(state.get(name, ()), _RECENT_EPISODES)


def said(columns: Sequence[InfoColumn], row: npt.NDArray[np.float64]) -> dict[str, float]:
    """What one episode says, f64[K], by the names of the columns."""
    return {
        column.name: value for column, value in zip(columns, row.tolist(), strict=True) if np.isfinite(value)
    }


def _refusal(column: InfoColumn) -> str:
    wanted = "True, False, 0 or 1" if column.is_flag else "a finite number, or an array of one"
    return (
        f"{column.name} leaves out episodes whose last info has something else than {wanted} under "
        f"{' or '.join(map(repr, column.keys))}"
    )
