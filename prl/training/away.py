"""Envs that have to be brought back, since the process in which they were is gone."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from prl.training.group_round import GroupTask
from prl.training.players import FirstCalls, RunningActions, RunningCalls
from workers.arrays import Ids
from workers.episode_record import NO_CALLS, EpisodeCalls
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool
from workers.seeding import episode_seed

_NOBODY = np.zeros(0, np.int64)


class OpenTask(NamedTuple):
    """A task of which nothing has come yet.

    Attributes:
        version: of the weights that play it.
        task: what to play.
        called: whether the worker's present process was called for it.
        begun: envs i64[E] that begin another episode in it, since the running one is lost.
    """

    version: int
    task: GroupTask
    called: bool = False
    begun: Ids = _NOBODY


class Away:
    """Which envs are not where their next task begins.

    Args:
        pool: hosts the envs.

    Attributes:
        running_actions, running_calls, first_calls: see `prl.training.players.Players.remember`.
    """

    def __init__(self, pool: ProcessPool | RecoveringPool) -> None:
        self._pool = pool
        self._mask = np.zeros(pool.num_envs, np.bool_)
        self.running_actions: RunningActions = lambda: [[] for _ in range(pool.num_envs)]
        self.running_calls: RunningCalls = lambda: [NO_CALLS] * pool.num_envs
        self.first_calls: FirstCalls = lambda count: ()

    def leave(self, env_ids: range) -> None:
        """The process of these envs is gone."""
        self._mask[env_ids.start : env_ids.stop] = True

    def arrive(self, env_ids: Ids) -> None:
        """These envs are where the last task has left them."""
        self._mask[env_ids] = False

    def _delays(self, task: GroupTask) -> bool:
        """Whether envs have to be brought back before a task begins: those that are in mid-episode."""
        return task.obs is not None and bool(self._mask[task.env_ids].any())

    def is_unready(self, task: GroupTask) -> bool:
        """Whether something has to be done in the envs of a task before it begins."""
        is_behind = bool(task.calls) and self._pool.env_calls.behind(task.env_ids, task.calls)
        return is_behind or self._delays(task)

    def ready(self, open_task: OpenTask) -> OpenTask:
        """Bring the envs of a task to where it begins, calls included; see `_brought_back`."""
        worker = self._pool.worker_of(int(open_task.task.env_ids[0]))
        while True:
            open_task = self._brought_back(open_task)
            incarnation = self._pool.incarnation(worker)
            self._make_calls(open_task.task, open_task.task.env_ids)
            if self._pool.incarnation(worker) == incarnation:
                return open_task
            self.leave(self._pool.envs_of(worker))  # it has broken meanwhile

    def _make_calls(self, task: GroupTask, env_ids: Ids) -> None:
        """Make the calls that come before a task in some of its envs. Their worker has nothing open.

        Raises:
            WorkerError: the pool does not start their worker again.
            EnvCallError: an env raised.
        """
        if task.calls:
            self._pool.env_calls.carry_out(env_ids, self.first_calls(task.calls))

    def _brought_back(self, open_task: OpenTask) -> OpenTask:
        """Bring the envs of a task to where it begins. Their worker has no command or call open.

        Returns:
            The task; another one, if episodes are lost.

        Raises:
            WorkerError: the pool does not start their worker again.
        """
        task = open_task.task
        if task.obs is None or not self._delays(task):
            return open_task
        assert isinstance(self._pool, RecoveringPool), "only workers that are started again leave envs away"
        running, called = self.running_actions(), self.running_calls()
        episodes, lost = [], []
        for row, env in enumerate(task.env_ids.tolist()):
            actions = [] if env in open_task.begun else running[env]
            if actions is None:
                lost.append(env)
            else:
                seed = episode_seed(task.seed, env, int(task.started[row]) - 1)
                calls = EpisodeCalls(task.calls) if env in open_task.begun else called[env]
                episodes.append((env, seed, actions, task.obs[row], calls))
        lost += self._pool.restore(episodes).tolist()
        self.arrive(task.env_ids)
        return self._with_others(open_task, np.array(sorted(lost), np.int64))

    def _with_others(self, open_task: OpenTask, lost: Ids) -> OpenTask:
        """The task in which the next episodes of some envs begin in place of those that are lost."""
        task = open_task.task
        if not len(lost) or task.obs is None:
            return open_task
        rows = np.searchsorted(task.env_ids, lost)
        started, obs = task.started.copy(), task.obs.copy()
        returns, lengths = task.returns.copy(), task.lengths.copy()
        seeds = [episode_seed(task.seed, env, int(started[row])) for env, row in zip(lost, rows, strict=True)]
        self._make_calls(task, lost)
        self._pool.reset(lost, seeds)
        obs[rows] = self._pool.recv().obs
        started[rows] += 1
        returns[rows] = lengths[rows] = 0
        task = dataclasses.replace(task, started=started, obs=obs, returns=returns, lengths=lengths)
        return open_task._replace(task=task, begun=np.union1d(open_task.begun, lost))
