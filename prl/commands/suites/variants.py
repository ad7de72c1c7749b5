"""prl's ways to train, as data, for the suites that train whole runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prl.commands.steppers import workers_in_words


@dataclass(frozen=True)
class Variant:
    """One of prl's ways to train.

    Attributes:
        name: of the contender.
        label: for the table.
        settings: of `TrainConfig`.
    """

    name: str
    label: str
    settings: Mapping[str, Any]


def variants(most_workers: int) -> list[Variant]:
    """All ways.

    Args:
        most_workers: the largest number of workers.
    """
    return [
        Variant(f"prl-{count}", f"prl, {workers_in_words(count)}", {"num_workers": count})
        for count in (0, most_workers)
    ]
