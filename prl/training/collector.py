"""Rounds, until a batch is full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prl.training.failures import add_what_came_before
from prl.training.group_round import GroupRollout
from prl.training.players import Players, Weights
from prl.training.rounds import Round, RoundKind
from workers.arrays import Ids
from workers.errors import WorkerError
from workers.seeding import Stream


@dataclass
class Collector:
    """Has players play one round after the other.

    Attributes:
        players: play.
        rounds: say what a group plays next.
        groups: env ids i64[G] of each, ascending, a partition of the N envs.
        batch_size: steps that are enough.
        next_round: number of the round that begins next; groups that play in it already are in `begun`.
        begun: numbers of these groups.
        calls: of envs that come before the batch at hand, and before the next.
    """

    players: Players
    rounds: RoundKind
    groups: Sequence[Ids]
    batch_size: int
    next_round: int = 0
    calls: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.begun: set[int] = set()

    def collect(self, weights: Weights, following: Weights | None = None) -> Iterator[Round]:
        """As many rounds as a batch needs.

        Args:
            weights: act.
            following: act in the next batch, which each group begins as soon as it has done its part of this
                one and it is certain that this batch is full with the present round. None: nobody does.

        Raises:
            WorkerError: see `Players.play`; if an env failed, it says what has led there.
        """
        steps = 0
        while steps < self.batch_size:
            try:
                played = self._round(weights, following, steps)
            except WorkerError as error:
                add_what_came_before(error, self.players.pool, self.rounds)
                raise
            steps += played.steps
            yield played

    def begin(self, weights: Weights) -> None:
        """Whoever has not begun the next round does it now."""
        others = [group for group in range(len(self.groups)) if group not in self.begun]
        self._give(weights, others, self.calls[1])

    def abandon(self) -> None:
        """Forget what has begun, and is not done."""
        self.players.abandon()
        self.begun.clear()

    def _round(self, weights: Weights, following: Weights | None, steps: int) -> Round:
        """One round, in a batch that has so many steps already."""
        parts: dict[int, GroupRollout] = {}
        least = [self.rounds.least_steps(env_ids) for env_ids in self.groups]
        certain = steps + sum(least)
        others = [group for group in range(len(self.groups)) if group not in self.begun]
        open_parts = self._give(weights, others, self.calls[0])
        self.next_round += 1
        self.begun.clear()
        for part in open_parts:
            parts[part.group] = part
            self.rounds.take(self.groups[part.group], part)
            certain += len(part.rollout) - least[part.group]
            if following is not None and certain >= self.batch_size:
                done = [group for group in parts if group not in self.begun]
                self._give(following, done, self.calls[1])
        return Round.of([parts[group] for group in sorted(parts)], self.players.active.mean_wait())

    def _give(self, weights: Weights, groups: Sequence[int], calls: int) -> Iterator[GroupRollout]:
        """Give players the next round of these groups; what comes of all that are open."""
        self.begun.update(groups)
        noise = (Stream.NOISE, self.next_round)
        return self.players.play(
            weights, [self.rounds.task(group, self.groups[group], noise, calls) for group in groups]
        )
