"""prl's ways to collect and to train, as data, for all suites."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prl.commands.steppers import workers_in_words
from prl.config.train_config import TrainConfig


@dataclass(frozen=True)
class Way:
    """Who acts, and when.

    Attributes:
        name: in the names of contenders.
        label: for the table, beside the number of workers.
        settings: of `TrainConfig`.
        needs_workers: whether it is nothing without worker processes.
    """

    name: str
    label: str
    settings: Mapping[str, Any]
    needs_workers: bool = True


LEARNER = Way("learner", "learner acts", {"acting": "learner"}, needs_workers=False)
WORKER = Way("worker", "workers act", {"acting": "worker"})
OVERLAP = Way("overlap", "workers act, overlap", {"acting": "worker", "overlap": True})
WAYS = (LEARNER, WORKER, OVERLAP)


@dataclass(frozen=True)
class Variant:
    """A way on a number of workers.

    Attributes:
        way: who acts, and when.
        num_workers: worker processes.
        config: of the run.
    """

    way: Way
    num_workers: int
    config: TrainConfig

    @property
    def name(self) -> str:
        """For contenders, e.g. learner-0, worker-2."""
        return f"{self.way.name}-{self.num_workers}"

    @property
    def label(self) -> str:
        """For the table; without workers there is no question who acts."""
        words = workers_in_words(self.num_workers)
        return f"{words}, {self.way.label}" if self.num_workers else words


def variants(base: TrainConfig, counts: Iterable[int], ways: Sequence[Way] = WAYS) -> list[Variant]:
    """All ways that there are, on each number of workers.

    Where workers act, there are at least as many groups as workers, or some of them would have nothing to do.

    Args:
        base: settings that they have in common.
        counts: numbers of workers.
        ways: of those.
    """
    return [
        Variant(way, count, _config(base, count, way))
        for count in counts
        for way in ways
        if count > 0 or not way.needs_workers
    ]


def _config(base: TrainConfig, num_workers: int, way: Way) -> TrainConfig:
    config = dataclasses.replace(base, num_workers=num_workers, **way.settings)
    if config.acting != "worker":
        return config
    return dataclasses.replace(config, num_groups=max(config.groups, min(num_workers, config.envs)))


def bases(chosen: Sequence[Variant], way: Way, base: Way) -> dict[str, str]:
    """Names of variants, each with the one on as many workers that it is compared with.

    Args:
        chosen: variants.
        way: of those that are compared.
        base: what they are compared with.
    """
    return {
        each.name: f"{base.name}-{each.num_workers}"
        for each in chosen
        if each.way == way and any(o.way == base and o.num_workers == each.num_workers for o in chosen)
    }
