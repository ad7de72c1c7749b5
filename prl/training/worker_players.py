"""Players beside their envs: workers act, and nobody waits for anybody within a round."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Sequence

import numpy as np

from learner.actor import acting_plan, acting_weights
from learner.errors import NoLegalAction, NonFiniteError
from learner.policy import ActorCritic
from prl.training.active import ActiveEnvs
from prl.training.group_round import GroupRollout, GroupTask, PlayingTime
from prl.training.player_guest import NO_LEGAL_ACTION, NON_FINITE, ROLLOUT, SLOTS, PlayerKit, PlayRequest
from prl.training.players import Weights, goes_on_after_episodes
from prl.training.wire import WeightsLayout
from workers.arrays import Ids
from workers.errors import ProtocolError
from workers.guest import Invitation
from workers.pool import EnvPool
from workers.process_pool import ProcessPool


def player_kit(policy: ActorCritic) -> PlayerKit | None:
    """What players in workers need to act like a policy; None if only torch can (see `acting_plan`)."""
    plan = acting_plan(policy)
    if plan is None:
        return None
    return PlayerKit(plan, WeightsLayout.of(acting_weights(policy)), policy.observation_space)


def invitation(kit: PlayerKit) -> Invitation:
    """Brings players into the workers of a pool."""
    return Invitation(kit, SLOTS * kit.layout.nbytes)


class WorkerPlayers:
    """Workers play whole groups with their own envs. Implements `Players`.

    The weights go out once per version, in shared memory or, without it, with the first call. From a worker
    come the ids of envs whose episodes end, a sign of life from time to time, and in the end all rows.

    Args:
        pool: whose workers host players of this kit; the envs of every group share a worker.
        kit: see `player_kit`.
    """

    def __init__(self, pool: ProcessPool, kit: PlayerKit) -> None:
        self._pool = pool
        self.active = ActiveEnvs(pool.num_envs)
        self.seconds = PlayingTime()
        self.num_processes = pool.num_workers
        self._kit = kit
        self._codec = kit.codec()
        self._version = 0
        self._weights: dict[int, bytes] = {}  # by slot, where no memory is shared
        # Without shared memory: the version that each worker has in each slot.
        self._knows = [[0] * SLOTS for _ in range(pool.num_workers)]
        self._tasks: list[list[tuple[int, GroupTask]]] = [[] for _ in range(pool.num_workers)]
        self._done: dict[int, list[GroupRollout]] = {}
        self._num_open: dict[int, int] = {}

    @property
    def pool(self) -> EnvPool:
        """See `Players`."""
        return self._pool

    def publish(self, policy: ActorCritic) -> Weights:
        """See `Players`."""
        self._version += 1
        slot, arrays = self._version % SLOTS, acting_weights(policy)
        size = self._kit.layout.nbytes
        if self._pool.guest_memory is None:
            self._weights[slot] = b"".join(array.tobytes() for array in arrays)
        else:
            memory = self._pool.guest_memory[slot * size : (slot + 1) * size]
            for view, array in zip(self._kit.layout.views(memory), arrays, strict=True):
                view[...] = array
        return Weights(self._version, policy)

    def play(self, weights: Weights, tasks: Sequence[GroupTask]) -> Iterator[GroupRollout]:
        """See `Players`."""
        for task in tasks:
            self._begin(weights.version, task)
        return self._finish(weights.version)

    def _begin(self, version: int, task: GroupTask) -> None:
        worker, slot = self._pool.worker_of(int(task.env_ids[0])), version % SLOTS
        news = None
        if self._pool.guest_memory is None and self._knows[worker][slot] != version:
            news = self._weights[slot]
            self._knows[worker][slot] = version
        self.active.start(task.env_ids)
        self._pool.call(worker, pickle.dumps(PlayRequest(task, slot, news)))
        self._tasks[worker].append((version, task))
        self._num_open[version] = self._num_open.get(version, 0) + 1

    def _finish(self, version: int) -> Iterator[GroupRollout]:
        while self._num_open.get(version, 0):
            while not self._done.get(version):
                self._receive()
            self._num_open[version] -= 1
            yield self._done[version].pop(0)
        self._num_open.pop(version, None)
        self._done.pop(version, None)

    def _receive(self) -> None:
        """Take one answer, of whatever version it is."""
        worker, answer = self._pool.take_answer(self._on_news)
        version, task = self._tasks[worker].pop(0)
        self.active.leave(task.env_ids)
        with self._pool.blames(worker):
            part, seconds = self._read(answer, task)
        self.seconds += seconds
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
        part, seconds = self._codec.decode(payload)
        if part.group != task.group:
            raise ProtocolError(f"not an answer: of group {part.group} instead of {task.group}")
        return part, seconds

    def _on_news(self, worker: int, news: bytes) -> None:
        """Episodes have ended; in rounds of whole episodes, their envs have done their part."""
        env_ids = _env_ids(news)
        for _, task in self._tasks[worker]:
            if task.env_ids[0] <= env_ids.min() and env_ids.max() <= task.env_ids[-1]:
                if not goes_on_after_episodes(task):
                    self.active.leave(env_ids)
                return
        raise ProtocolError(f"not news: of envs {env_ids.tolist()}, which do not play")

    def abandon(self) -> None:
        """See `Players`."""
        while any(self._tasks):
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
