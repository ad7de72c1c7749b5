"""Who plays the groups' parts of a round: the interface, and the learner itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from learner.actor import Actor
from learner.blas import blas_threads
from learner.policy import ActorCritic
from prl.training.active import ActiveEnvs
from prl.training.group_round import GroupRollout, GroupTask, PlayingTime, goes_on_after_episodes, play_groups
from workers.arrays import Array, Ids
from workers.env_call import EnvCall
from workers.episode_record import EpisodeCalls
from workers.pool import ChangeablePool

RunningActions = Callable[[], Sequence[Sequence[Array] | None]]
"""The env actions of each env's running episode; see `prl.training.rounds.RoundKind`."""
RunningCalls = Callable[[], Sequence[EpisodeCalls]]
"""The calls that each env has had; see `prl.training.rounds.RoundKind`."""
FirstCalls = Callable[[int], Sequence[EnvCall]]
"""The first so many calls to the envs of a run."""


def no_calls(count: int) -> Sequence[EnvCall]:
    """`FirstCalls` of a run whose envs are never called."""
    return ()


@dataclass(frozen=True)
class Weights:
    """The weights of a policy as players know them.

    Attributes:
        version: counts from 0; two versions can be played at the same time.
        policy: keeps its weights as long as tasks are played with them.
    """

    version: int
    policy: ActorCritic


class Players(Protocol):
    """Play groups. What comes of a task depends on the weights and the task, never on who played it."""

    active: ActiveEnvs
    """Which envs still do their part of the tasks at hand."""
    seconds: PlayingTime
    """Spent on playing so far, by all processes together."""
    num_processes: int
    """That act and step at the same time."""

    @property
    def bound(self) -> tuple[Sequence[int], Sequence[int | None]]:
        """Cores and processes bound to them that play while the learner updates (`own_core`); often none."""

    @property
    def pool(self) -> ChangeablePool:
        """The envs that they play in; free whenever no task is open."""

    def remember(
        self,
        running_actions: RunningActions,
        running_calls: RunningCalls | None = None,
        first_calls: FirstCalls = no_calls,
    ) -> None:
        """Where to ask for what tasks do not say.

        Args:
            running_actions, running_calls: of the episodes that are in their middle when a task begins. None:
                envs are never called.
            first_calls: the calls that come before a task.
        """

    def publish(self, policy: ActorCritic) -> Weights:
        """Make the present weights of a policy known; tasks of the version before the last are done."""

    def play(self, weights: Weights, tasks: Sequence[GroupTask]) -> Iterator[GroupRollout]:
        """What comes of all open tasks of a version, in any order: of these, and of those given earlier.

        Players in other processes begin at once, the iterator only waits for them.

        Raises:
            WorkerError: a worker died, hung or reported a failed env.
            NoLegalAction, NonFiniteError: see `learner.actor.Actor.act`.
            EnvCallError: a call that comes before a task failed.
        """

    def abandon(self) -> None:
        """Let all open tasks come to their end, and forget them."""


class LearnerPlayers:
    """The learner acts, exchanging actions and observations with a pool step by step. Implements `Players`.

    It does so while its iterator is consumed: a task that is given and not asked for is not begun.

    Args:
        pool: of N envs.
    """

    num_processes = 1
    bound: tuple[Sequence[int], Sequence[int | None]] = ((), ())

    def __init__(self, pool: ChangeablePool) -> None:
        self._pool = pool
        self.active = ActiveEnvs(pool.num_envs)
        self.seconds = PlayingTime()
        self._version = 0
        self._open: dict[int, list[GroupTask]] = {}
        self._first_calls: FirstCalls = no_calls

    @property
    def pool(self) -> ChangeablePool:
        """See `Players`."""
        return self._pool

    def remember(
        self,
        running_actions: RunningActions,
        running_calls: RunningCalls | None = None,
        first_calls: FirstCalls = no_calls,
    ) -> None:
        """See `Players`. A pool that recovers remembers episodes itself."""
        self._first_calls = first_calls

    def publish(self, policy: ActorCritic) -> Weights:
        """See `Players`."""
        self._version += 1
        return Weights(self._version, policy)

    def play(self, weights: Weights, tasks: Sequence[GroupTask]) -> Iterator[GroupRollout]:
        """See `Players`."""
        self._open.setdefault(weights.version, []).extend(tasks)
        return self._play(weights)

    def _play(self, weights: Weights) -> Iterator[GroupRollout]:
        tasks = self._open.pop(weights.version, [])
        for task in tasks:
            if task.calls:
                self._pool.env_calls.carry_out(task.env_ids, self._first_calls(task.calls))
            self.active.start(task.env_ids)
        acts = Actor(weights.policy).now()
        env_ids = {task.group: task.env_ids for task in tasks}

        def on_ended(ended: Ids) -> None:
            if not any(map(goes_on_after_episodes, tasks)):
                self.active.leave(ended)

        with blas_threads(1):  # as in workers, whose bits are to be the same
            for part in play_groups(self._pool, acts, tasks, on_ended, self.seconds):
                self.active.leave(env_ids[part.group])
                yield part

    def abandon(self) -> None:
        """See `Players`. No open task has begun."""
        self._open.clear()
