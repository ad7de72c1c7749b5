"""What is kept of the last infos of episodes: a few numbers, in columns of the slab.

Infos of other steps are not looked at, so the path of a step pays nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.arrays import Array
from workers.returns import ReturnError, flag_of, reward_of

UNSAID = math.nan
"""In place of a number: the info does not have the key, or None there."""
NO_NUMBER = math.inf
"""In place of a number: what the info says is no finite number, or no flag."""


@dataclass(frozen=True)
class InfoColumn:
    """One number of the last info of an episode.

    Attributes:
        name: of the number in metrics.
        keys: of the info; the first one that the info has counts.
        is_flag: whether it has to be True, False, 0 or 1.
    """

    name: str
    keys: tuple[str, ...]
    is_flag: bool = False

    def read(self, info: Mapping[str, Any]) -> float:
        """The number that an info has; `UNSAID` or `NO_NUMBER` if it has none."""
        for key in self.keys:
            value = info.get(key)
            if value is None:
                continue
            try:
                return float(flag_of(value, key)) if self.is_flag else reward_of(value)
            except ReturnError:
                return NO_NUMBER
        return UNSAID


SUCCESS = InfoColumn("success_rate", ("is_success", "success"), is_flag=True)
"""Whether an episode has reached its goal, by the keys of Stable-Baselines3 and of Meta-World."""


def info_column(key: str) -> InfoColumn:
    """The number under a key."""
    return InfoColumn(f"info/{key}", (key,))


def write_final_info(columns: Sequence[InfoColumn], info: Any, table: Array, row: int) -> None:
    """Write what the last info of an episode says.

    Args:
        columns: K of them.
        info: as `step` has returned it; it may be anything.
        table: f64[N, K].
        row: of it.
    """
    says = (type(info) is dict or isinstance(info, Mapping)) and len(info) > 0
    for index, column in enumerate(columns):  # several times faster than to make a row
        table[row, index] = column.read(info) if says else UNSAID
