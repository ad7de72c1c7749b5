"""A pool that brings back what a dead, hung or failed worker takes with it."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from workers.arrays import Array, Ids
from workers.episode_record import EpisodeCalls, EpisodeRecord
from workers.errors import WorkerDied, WorkerError
from workers.failed_episode import FORGOTTEN, FailedEpisode, LostEpisode
from workers.guest import Bytes
from workers.pool import Seeds, StepBatch
from workers.process_pool import ProcessPool
from workers.recovered_calls import RecoveredCalls
from workers.restarts import Restarts

_STRIKES = 3
"""Deaths of its worker at the same env and step that are the env's fault; fewer may be somebody else's."""
STARTS = 6
"""Processes in a row that may die before they have built their envs: nothing can be given up for that."""
_FAILED_IN_A_ROW = 3
"""Episodes of one env that may be lost by its failures before one comes to its end."""
_FAILED_TOGETHER = 8
"""Episodes of all envs that may be lost by failures before one of any env comes to its end."""
_NOTICES = 5
"""Restarts that are told of."""
_NOBODY: Collection[int] = ()


@dataclass(frozen=True)
class Recovery:
    """How a pool recovers.

    Attributes:
        max_restarts: of workers, in any ten minutes.
        replay_limit: steps after which an episode is not recorded any more, and would be lost.
    """

    max_restarts: int = 100
    replay_limit: int = 100_000


class _Sent(NamedTuple):
    """A command whose answer has not been taken.

    Attributes:
        env_ids: i64[G].
        actions: [G, *A]; None for a reset.
        seeds: i64[G], of episodes that begin: with a reset, or after those that end. None if none does.
    """

    env_ids: Ids
    actions: Array | None
    seeds: Ids | None


class RecoveringPool:
    """A process pool whose workers may die. Implements `workers.pool.EnvPool`.

    When a worker dies, hangs, or one of its envs fails, a new process takes its place: running episodes are
    started again with their seeds, their actions are repeated, and rewards and observation are compared with
    what the learner has seen. If they are equal, nothing has happened. If not, or if the worker breaks again
    at the same step, the episode is *lost*: its next step is answered with `lost`, no reward, and what the
    env showed last.

    Args:
        pool: what can break; closed together with this one.
        recovery: its limits.
        on_lost: told of every episode that is lost.
    """

    def __init__(
        self,
        pool: ProcessPool,
        recovery: Recovery | None = None,
        on_lost: Callable[[LostEpisode], None] = lambda lost: None,
    ) -> None:
        self._pool = pool
        self.num_envs, self.num_workers, self.factory = pool.num_envs, pool.num_workers, pool.factory
        self.info_columns = pool.info_columns
        self.on_lost = on_lost
        recovery = Recovery() if recovery is None else recovery
        self._restarts = Restarts(recovery.max_restarts)
        self._record = EpisodeRecord(pool.num_envs, pool.slab.obs, pool.slab.action, recovery.replay_limit)
        self.env_calls = RecoveredCalls(pool.env_calls, self._record, self.recover)
        self._of_guests = np.zeros(pool.num_envs, np.bool_)  # the record does not know their episodes
        self._sent: deque[_Sent] = deque()
        self._doomed = np.zeros(pool.num_envs, np.bool_)  # their episode is lost, and nobody has been told
        self._failed_in_a_row = np.zeros(pool.num_envs, np.int64)  # episodes that were lost by failures
        self._failed_since_an_end = 0  # of all envs together
        self._any_doomed = self._any_failures = False

    @property
    def restarts(self) -> int:
        """Workers that were started again, so far."""
        return self._restarts.count

    @property
    def guest_memory(self) -> Bytes | None:
        """See `ProcessPool`."""
        return self._pool.guest_memory

    @property
    def cores(self) -> list[int]:
        """See `ProcessPool`."""
        return self._pool.cores

    def worker_of(self, env: int) -> int:
        """See `ProcessPool.worker_of`."""
        return self._pool.worker_of(env)

    def envs_of(self, worker: int) -> range:
        """See `ProcessPool.envs_of`."""
        return self._pool.envs_of(worker)

    def incarnation(self, worker: int) -> int:
        """See `ProcessPool.incarnation`."""
        return self._pool.incarnation(worker)

    @property
    def worker_pids(self) -> list[int | None]:
        """See `ProcessPool.worker_pids`."""
        return self._pool.worker_pids

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        listed = np.array(seeds, np.int64)
        self._pool.reset(env_ids, listed)
        self._sent.append(_Sent(env_ids, None, listed))

    def send(self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        rows = np.array(actions, self._pool.slab.action.dtype)  # the caller may go on with his own
        seeds = None if next_seeds is None else np.array(next_seeds, np.int64)
        aside = self._workers_of_doomed(env_ids) if self._any_doomed else _NOBODY
        self._pool.send(env_ids, rows, seeds, aside)
        self._sent.append(_Sent(env_ids, rows, seeds))
        for worker in aside:
            self._serve(worker, self._sent[-1])

    def _workers_of_doomed(self, env_ids: Ids) -> Collection[int]:
        """Of those of the envs whose episode is lost, and nobody has been told."""
        return {self._pool.worker_of(env) for env in env_ids[self._doomed[env_ids]].tolist()}

    def _serve(self, worker: int, sent: _Sent) -> None:
        """Answer a worker's part of a command env by env, since some of them have lost their episode."""
        try:
            self._pool.drain(worker)
            for env in self._pool.envs_of(worker):
                if env in sent.env_ids:
                    self._carry_out(env, sent)
        except WorkerError as error:
            self.recover(error)

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`.

        Raises:
            WorkerError: the budget of restarts is used up, an env cannot be built or reset, or one fails in
                every episode.
        """
        while True:
            try:
                batch = self._pool.recv(timeout)
                break
            except WorkerError as error:
                self.recover(error)
        sent = self._sent.popleft()
        if sent.actions is None:
            assert sent.seeds is not None, "a reset has seeds"
            self._doomed[sent.env_ids] = False
            self._record.begin(sent.env_ids, sent.seeds, batch.obs)
        else:
            self._record.step(sent.actions, batch, sent.seeds)
            if self._any_failures:
                self._after_failures(batch)
        return batch

    def _after_failures(self, batch: StepBatch) -> None:
        """Episodes that are lost have been told of by now; envs that come to an end are trusted again."""
        self._doomed[batch.env_ids[batch.lost]] = False
        self._any_doomed = bool(self._doomed.any())
        ended = batch.env_ids[batch.terminated | batch.truncated]
        self._failed_in_a_row[ended] = 0
        if len(ended):
            self._failed_since_an_end = 0
        self._any_failures = self._any_doomed or bool(self._failed_in_a_row.any())

    def recover(self, error: WorkerError) -> None:
        """Start a worker again, and bring its envs to where they were.

        Raises:
            WorkerError: see `recv`.
        """
        worker, first = error.worker, error
        strikes: Counter[int] = Counter()  # by env; -1 counts starts
        while True:
            self._restarts.spend(error, in_a_row=strikes.total())
            self._notice(error)
            env = -1
            try:
                self._pool.restart(worker)
                for env in self._pool.envs_of(worker):
                    self._bring_back(env)
                self._pool.settle(worker)
                return
            except WorkerError as again:
                error = again
                strikes[env] += 1
                if strikes[env] >= _allowed(env, again, first):
                    self._give_up(env, again)

    def _notice(self, error: WorkerError) -> None:
        if self.restarts <= _NOTICES:
            more = "; further restarts are only counted" if self.restarts == _NOTICES else ""
            # A place in prl, whoever calls: commands print such warnings as one line.
            warnings.warn(f"{error}; it is started again{more}", stacklevel=1)

    def _bring_back(self, env: int) -> None:
        """Repeat the env's episode, and its open command."""
        sent = next((sent for sent in self._sent if env in sent.env_ids), None)
        begins = sent is not None and sent.actions is None
        if self._record.plays(env) and not self._doomed[env] and not begins:
            self._repeat(env)
        elif sent is not None or not self._of_guests[env]:
            self.env_calls.catch_up(env, self._pool.env_alone(env))
        if sent is not None:
            self._carry_out(env, sent)

    def _repeat(self, env: int) -> None:
        if self._record.has_forgotten(env):
            self._doom(self._known(env), "it is longer than replay_limit")
            return
        episode, alone = self._record.of(env), self._pool.env_alone(env)
        calls = self.env_calls.before(env, episode, alone)
        alone.reset(episode.seed)
        rewards = alone.repeat_with(episode.actions, calls, episode.calls)
        known = rewards[len(rewards) - len(episode.rewards) :]
        if len(rewards) != len(episode.actions) or (len(rewards) and self._pool.slab.flags[env]):
            self._doom(self._known(env), "it ends earlier than it did")
        elif known.tobytes() != episode.rewards.tobytes() or alone.obs.tobytes() != episode.obs.tobytes():
            self._doom(self._known(env), "the env is not a function of seed and actions")

    def _carry_out(self, env: int, sent: _Sent) -> None:
        """One env's part of a command."""
        row = int(np.searchsorted(sent.env_ids, env))
        alone = self._pool.env_alone(env)
        seed = None if sent.seeds is None else int(sent.seeds[row])
        if sent.actions is None:
            assert seed is not None, "a reset has seeds"
            alone.reset(seed)
        elif self._doomed[env]:
            alone.lose(self._record.shown(env), seed)
        else:
            alone.step(sent.actions[row], seed)

    def _give_up(self, env: int, error: WorkerError) -> None:
        """Its worker breaks again and again.

        Raises:
            WorkerError: no episode can be lost for that, or too many were.
        """
        sent = next((sent for sent in self._sent if env in sent.env_ids), None)
        if env < 0 or not self._record.plays(env) or self._doomed[env] or (sent and sent.actions is None):
            if error.episode is None and sent is not None and sent.seeds is not None:  # of a reset
                seed = int(sent.seeds[np.searchsorted(sent.env_ids, env)])
                error.episode = FailedEpisode(env, seed, steps=0)
            raise error
        self._failed_in_a_row[env] += 1
        self._failed_since_an_end += 1
        failed = self._known(env, sent, error.episode)
        if self._failed_in_a_row[env] > _FAILED_IN_A_ROW or self._failed_since_an_end > _FAILED_TOGETHER:
            error.episode = failed
            raise error
        self._doom(failed, str(error), error.traceback)

    def _known(
        self, env: int, sent: _Sent | None = None, reported: FailedEpisode | None = None
    ) -> FailedEpisode:
        """The running episode of an env as it is known.

        Args:
            env: its index.
            sent: the command that it could not carry out.
            reported: what its worker has said of its failure.
        """
        if reported is not None and reported.steps == 0:  # the reset after a step
            return reported.with_calls(self.env_calls.made(env))
        if self._record.has_forgotten(env):
            return reported or FailedEpisode(env, self._record.seed(env), FORGOTTEN)
        episode = self._record.of(env)
        actions = episode.actions
        if sent is not None and sent.actions is not None:
            actions = np.concatenate([actions, sent.actions[np.searchsorted(sent.env_ids, env)][None]])
        actions = actions[: reported.steps] if reported else actions
        failed = FailedEpisode(env, episode.seed, len(actions), actions)
        return failed.with_calls(self.env_calls.made(env), episode.calls)

    def _doom(self, failed: FailedEpisode, reason: str, traceback: str = "") -> None:
        self._doomed[failed.env] = self._any_doomed = self._any_failures = True
        self.on_lost(LostEpisode(failed, " ".join(reason.split()), traceback))

    def restore(self, episodes: Sequence[tuple[int, int, Sequence[Array], Array, EpisodeCalls]]) -> Ids:
        """Bring envs of new processes into the middle of episodes; their workers have no command open.

        Args:
            episodes: env, seed, the T actions [*A] since the reset, the observation [*O] that they lead to,
                and the calls that the env has had.

        Returns:
            Envs i64[E] whose episode is lost instead: they show something else, or fail. The next command
            to them is a reset.

        Raises:
            WorkerError: see `recv`.
        """
        self._renew_changed(episodes)
        for env, seed, actions, obs, calls in episodes:
            self._doomed[env] = False
            action = self._pool.slab.action[env]
            rows = np.array(actions, action.dtype).reshape(len(actions), *action.shape)
            self._record.load(env, seed, rows, obs, calls.at)
            self.env_calls.load(env, calls)
        recovered: set[int] = set()  # with all of their envs
        for env, *_ in episodes:
            if self.worker_of(env) not in recovered:
                try:
                    self._repeat(env)
                except WorkerError as error:
                    self.recover(error)
                    recovered.add(error.worker)
        ids = np.array([env for env, *_ in episodes], np.int64)
        lost: Ids = ids[self._doomed[ids]]
        self._doomed[lost] = False
        self._record.end(lost)
        return lost

    def _renew_changed(
        self, episodes: Sequence[tuple[int, int, Sequence[Array], Array, EpisodeCalls]]
    ) -> None:
        """Start workers anew whose envs have had calls already that came in the middle of their episodes."""
        done = self._pool.env_calls
        done.look_at_processes()
        for worker in {self.worker_of(env) for env, *_, calls in episodes if done.done[env] > calls.before}:
            try:
                self._pool.restart(worker)
            except WorkerError as error:
                self.recover(error)

    def call(self, worker: int, request: bytes) -> None:
        """See `ProcessPool.call`. What the worker's envs play from here on is the caller's to repeat."""
        env_ids = np.array(self._pool.envs_of(worker))
        self._record.end(env_ids)
        self._doomed[env_ids] = False
        self._of_guests[env_ids] = True
        self._pool.call(worker, request)

    def take_answer(self, on_news: Callable[[int, bytes], None]) -> tuple[int, bytes]:
        """See `ProcessPool.take_answer`."""
        return self._pool.take_answer(on_news)

    def blames(self, worker: int) -> AbstractContextManager[None]:
        """See `ProcessPool.blames`."""
        return self._pool.blames(worker)

    def close(self) -> None:
        """See `EnvPool.close`."""
        self._sent.clear()
        self._pool.close()

    def __enter__(self) -> RecoveringPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _allowed(env: int, error: WorkerError, first: WorkerError) -> int:
    """How often a new process may break in the same way.

    Args:
        env: whose repetition it is; -1 for the start.
        error: how it breaks.
        first: what the worker was started again for.
    """
    # Whoever kills workers at random hits the same env's same step once, not three times.
    if isinstance(error, WorkerDied):
        return STARTS if env < 0 else _STRIKES
    if env < 0:
        return _STRIKES
    return 1 if type(error) is type(first) else 2  # who hangs or fails twice, hangs or fails
