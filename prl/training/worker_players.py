"""Players beside their envs: workers act, and nobody waits for anybody within a round."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from learner.actor import Actor, acting_plan, acting_weights
from learner.blas import blas_threads
from learner.errors import NoLegalAction, NonFiniteError
from learner.policy import ActorCritic
from prl.training.active import ActiveEnvs
from prl.training.away import Away, OpenTask
from prl.training.group_round import (
    GroupRollout,
    GroupTask,
    OnEnded,
    PlayingTime,
    goes_on_after_episodes,
    nobody_listens,
    play_groups,
)
from prl.training.player_guest import NO_LEGAL_ACTION, NON_FINITE, ROLLOUT, SLOTS, PlayerKit, PlayRequest
from prl.training.players import (
    FirstCalls,
    RunningActions,
    RunningCalls,
    Weights,
    no_calls,
)
from prl.training.wire import WeightsLayout
from workers.arrays import Ids
from workers.cores import current_core
from workers.errors import ProtocolError, WorkerError, WorkerTimeout
from workers.guest import Invitation
from workers.pool import ChangeablePool
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool

_MAX_FAILURES = 2
"""Failures in a row after which the learner plays a worker's tasks itself."""


def player_kit(policy: ActorCritic) -> PlayerKit | None:
    """What players in workers need to act like a policy; None if only torch can (see `acting_plan`)."""
    plan = acting_plan(policy)
    if plan is None:
        return None
    return PlayerKit(plan, WeightsLayout.of(acting_weights(policy)), policy.observation_space)


def invitation(kit: PlayerKit) -> Invitation:
    """Brings players into the workers of a pool."""
    return Invitation(kit, SLOTS * kit.layout.nbytes)


@dataclass
class _WorkerState:
    """What the players know of a worker.

    Attributes:
        tasks: open ones, in the order in which it is called for them.
        incarnation: of the process that was called last.
        knows: without shared memory, the version that it has in each slot.
        failures: in a row, of its processes.
    """

    tasks: list[OpenTask] = field(default_factory=list)
    incarnation: int = 0
    knows: list[int] = field(default_factory=lambda: [0] * SLOTS)
    failures: int = 0


class WorkerPlayers:
    """Workers play whole groups with their own envs. Implements `Players`.

    The weights go out once per version, in shared memory or, without it, with the first call. From a worker
    come the ids of envs whose episodes end, a sign of life from time to time, and in the end all rows.

    A pool that recovers starts a worker that breaks again, and its tasks are played once more, from weights
    and seeds. If that does not help, the learner plays them step by step: with the same bits, and with what
    it has seen of an episode that has to be given up.

    Args:
        pool: whose workers host players of this kit; the envs of every group share a worker.
        kit: see `player_kit`.
    """

    def __init__(self, pool: ProcessPool | RecoveringPool, kit: PlayerKit) -> None:
        self._pool = pool
        self.active = ActiveEnvs(pool.num_envs)
        self.seconds = PlayingTime()
        self.num_processes = pool.num_workers
        self._kit = kit
        self._codec = kit.codec()
        self._version = 0
        self._policies: dict[int, ActorCritic] = {}  # by slot
        self._weights: dict[int, bytes] = {}  # by slot, where no memory is shared
        self._workers = [_WorkerState() for _ in range(pool.num_workers)]
        self._away = Away(pool)
        self._done: dict[int, list[GroupRollout]] = {}
        self._num_open: dict[int, int] = {}

    @property
    def bound(self) -> tuple[Sequence[int], Sequence[int | None]]:
        """See `Players`."""
        return self._pool.cores, self._pool.worker_pids

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
        """See `Players`."""
        self._away.running_actions = running_actions
        self._away.first_calls = first_calls
        if running_calls is not None:
            self._away.running_calls = running_calls

    def publish(self, policy: ActorCritic) -> Weights:
        """See `Players`."""
        self._version += 1
        slot, arrays = self._version % SLOTS, acting_weights(policy)
        size = self._kit.layout.nbytes
        self._policies[slot] = policy
        if self._pool.guest_memory is None:
            self._weights[slot] = b"".join(array.tobytes() for array in arrays)
        else:
            memory = self._pool.guest_memory[slot * size : (slot + 1) * size]
            for view, array in zip(self._kit.layout.views(memory), arrays, strict=True):
                view[...] = array
        return Weights(self._version, policy)

    def play(self, weights: Weights, tasks: Sequence[GroupTask]) -> Iterator[GroupRollout]:
        """See `Players`."""
        # A worker that wakes up on this process's core takes it away at once: the others first.
        core = current_core()
        for task in sorted(tasks, key=lambda task: core is not None and self._core_of(task) == core):
            self._begin(weights.version, task)
        return self._finish(weights.version)

    def _core_of(self, task: GroupTask) -> int | None:
        """The core that the worker is bound to whose task it is; None if it is bound to none."""
        cores = self._pool.cores
        return cores[self._worker_of(task) % len(cores)] if cores else None

    def _worker_of(self, task: GroupTask) -> int:
        return self._pool.worker_of(int(task.env_ids[0]))

    def _begin(self, version: int, task: GroupTask) -> None:
        worker = self._worker_of(task)
        self.active.start(task.env_ids)
        self._num_open[version] = self._num_open.get(version, 0) + 1
        self._workers[worker].tasks.append(OpenTask(version, task))
        self._call(worker)

    def _call(self, worker: int) -> None:
        """Call the worker for those of its tasks that its present process has not been called for."""
        state = self._workers[worker]
        while (index := self._next_call(worker)) is not None:
            incarnation = self._pool.incarnation(worker)
            state.tasks[index] = open_task = self._away.ready(state.tasks[index])
            if self._pool.incarnation(worker) != incarnation:  # it has broken meanwhile
                self._look_at_process(worker)
                self._away.arrive(open_task.task.env_ids)
                continue
            slot, weights = open_task.version % SLOTS, None
            if self._pool.guest_memory is None and state.knows[slot] != open_task.version:
                weights = self._weights[slot]
                state.knows[slot] = open_task.version
            with self._recovery():
                self._pool.call(worker, pickle.dumps(PlayRequest(open_task.task, slot, weights)))
                state.tasks[index] = open_task._replace(called=True)

    def _next_call(self, worker: int) -> int | None:
        """The first of the worker's tasks that it can be called for now, by its place among them."""
        self._look_at_process(worker)
        if self._workers[worker].failures >= _MAX_FAILURES:
            return None  # the learner plays the oldest one first, and needs the worker for that
        for index, open_task in enumerate(self._workers[worker].tasks):
            if not open_task.called:
                # Nothing else can be asked of a worker that plays.
                return None if index and self._away.is_unready(open_task.task) else index
        return None

    def _look_at_process(self, worker: int) -> None:
        """A new process knows neither tasks nor weights, and its envs are new."""
        state, incarnation = self._workers[worker], self._pool.incarnation(worker)
        if state.incarnation != incarnation:
            state.incarnation, state.knows = incarnation, [0] * SLOTS
            state.tasks = [open_task._replace(called=False) for open_task in state.tasks]
            self._away.leave(self._pool.envs_of(worker))

    @contextlib.contextmanager
    def _recovery(self) -> Iterator[None]:
        """Start a worker again that breaks in the block, if the pool can.

        Only for calls and their answers: what the pool raises in its other methods, it has given up.

        Raises:
            WorkerError: it cannot.
        """
        try:
            yield
        except WorkerError as error:
            if not isinstance(self._pool, RecoveringPool):
                raise
            self._pool.recover(error)
            state = self._workers[error.worker]
            if state.tasks:  # else it was idle, and has failed at nothing
                # To wait for a step that hangs takes long: it is not tried again in the worker's own hands.
                state.failures += _MAX_FAILURES if isinstance(error, WorkerTimeout) else 1

    def _finish(self, version: int) -> Iterator[GroupRollout]:
        while self._num_open.get(version, 0):
            while not self._done.get(version):
                self._receive()
            self._num_open[version] -= 1
            yield self._done[version].pop(0)
        self._num_open.pop(version, None)
        self._done.pop(version, None)

    def _receive(self) -> None:
        """Take one answer, of whatever version it is; or start a worker again that has broken."""
        for worker, state in enumerate(self._workers):
            self._call(worker)
            if state.tasks and state.failures >= _MAX_FAILURES:
                self._play_here(worker)
                return
        with self._recovery():
            worker, answer = self._pool.take_answer(self._on_news)
            tasks = self._workers[worker].tasks
            try:
                with self._pool.blames(worker):
                    part, seconds = self._read(answer, tasks[0].task)
            except (NoLegalAction, NonFiniteError):
                tasks.pop(0)
                raise
            self.seconds += seconds
            self._take(worker, part)

    def _play_here(self, worker: int) -> None:
        """The learner plays the worker's oldest task, of which the worker knows nothing."""
        state = self._workers[worker]
        self._look_at_process(worker)
        state.tasks[0] = open_task = self._away.ready(state.tasks[0])
        acts = Actor(self._policies[open_task.version % SLOTS]).now()
        try:
            with blas_threads(1):  # as in workers, whose bits are to be the same
                (part,) = play_groups(
                    self._pool, acts, [open_task.task], self._on_ended(open_task.task), self.seconds
                )
        except (NoLegalAction, NonFiniteError):  # nothing more comes of it
            state.tasks.pop(0)
            raise
        self._take(worker, part)

    def _take(self, worker: int, part: GroupRollout) -> None:
        """What came of the worker's oldest task."""
        self._look_at_process(worker)
        state = self._workers[worker]
        version, task, _, begun = state.tasks.pop(0)
        state.failures = 0
        self.active.leave(task.env_ids)
        self._away.arrive(task.env_ids)
        if len(begun):
            part = dataclasses.replace(part, begun=begun, lost=part.lost + len(begun))
        self._done.setdefault(version, []).append(part)

    def _read(self, answer: bytes, task: GroupTask) -> tuple[GroupRollout, PlayingTime]:
        """What a worker answers.

        Raises:
            NoLegalAction, NonFiniteError: it says so.
            ProtocolError: it says nothing that makes sense.
        """
        kind, payload = answer[:1], answer[1:]
        if kind == NO_LEGAL_ACTION:
            raise NoLegalAction(_env_ids(payload), "envs")
        if kind == NON_FINITE:
            raise NonFiniteError(payload.decode(errors="replace"))
        if kind != ROLLOUT:
            raise ProtocolError(f"not an answer: kind {kind!r}")
        part, seconds = self._codec.decode(payload, len(self._pool.info_columns))
        if part.group != task.group:
            raise ProtocolError(f"not an answer: of group {part.group} instead of {task.group}")
        return part, seconds

    def _on_news(self, worker: int, news: bytes) -> None:
        """Envs have done their part while others of their group play on.

        Raises:
            ProtocolError: it makes no sense.
        """
        env_ids, ago = _ended(news)
        for _, task, *_ in self._workers[worker].tasks:
            if task.env_ids[0] <= env_ids.min() and env_ids.max() <= task.env_ids[-1]:
                self.active.leave(env_ids, ago)
                return
        raise ProtocolError(f"not news: of envs {env_ids.tolist()}, which do not play")

    def _on_ended(self, task: GroupTask) -> OnEnded:
        """In rounds of whole episodes, envs whose episodes have ended have done their part."""
        return nobody_listens if goes_on_after_episodes(task) else self.active.leave

    def abandon(self) -> None:
        """See `Players`."""
        while any(state.tasks for state in self._workers):
            with contextlib.suppress(NoLegalAction, NonFiniteError):  # of what is not wanted any more
                self._receive()
        self._num_open.clear()
        self._done.clear()


def _env_ids(payload: bytes) -> Ids:
    """Ids i64[E] that a worker sent.

    Raises:
        ProtocolError: there are none, or a part of one.
    """
    if not payload or len(payload) % 8:
        raise ProtocolError(f"not env ids: {len(payload)} bytes")
    return np.frombuffer(payload, np.int64)


def _ended(news: bytes) -> tuple[Ids, npt.NDArray[np.float64]]:
    """Ids i64[E] of envs, and the seconds f64[E] for which they have done their part.

    Raises:
        ProtocolError: they are none of that.
    """
    half = len(news) // 2
    if half % 8 or len(news) % 2:
        raise ProtocolError(f"not news: {len(news)} bytes")
    env_ids, ago = np.frombuffer(news[:half], np.int64), np.frombuffer(news[half:])
    if not np.isfinite(ago).all() or ago.min() < 0.0:
        raise ProtocolError(f"not news: {ago.tolist()} seconds ago")
    return env_ids, ago
