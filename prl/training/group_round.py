"""One group's part of a round: a pure function of the weights and a task, whoever plays it.

A forward pass never mixes groups, noise is drawn per group, and episodes start with seeds of their own. So a
group's steps depend on nothing but the weights and what its `GroupTask` says: not on who plays it, nor beside
whom. This module is free of torch, since workers play groups, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from learner.arrays import Floats
from learner.numpy_policy import Acts
from learner.store import Rollout
from prl.training.failures import add_actions, given_to
from workers.arrays import Array, Flags, Ids
from workers.errors import EnvFailure, WorkerError
from workers.pool import EnvPool, StepBatch
from workers.seeding import Stream, episode_seed, generator


@dataclass(frozen=True)
class GroupTask:
    """One group's part in one round. With the weights, everything that its outcome depends on.

    Attributes:
        group: number of the group.
        env_ids: i64[G], its envs, ascending.
        seed: of the run.
        noise: stream and counters of the generator that draws the noise of actions.
        started: i64[G], episodes that each env has begun before.
        num_steps: of every env; None plays one whole episode of every env.
        obs: [G, *O], what envs show that are in mid-episode, and go on; None if all begin an episode.
        returns, lengths: f64[G] and i64[G], of the episodes that are in their middle.
        calls: of envs that come before it, since the run began; whoever hands it out has made them.
    """

    group: int
    env_ids: Ids
    seed: int
    noise: tuple[int, ...]
    started: Ids
    num_steps: int | None
    obs: Array | None
    returns: Floats
    lengths: Ids
    calls: int = 0


@dataclass(frozen=True)
class Episodes:
    """Episodes that have ended.

    Attributes:
        env_ids: i64[E], ascending; each env's own episodes in the order of time.
        returns: f64[E], undiscounted.
        lengths: i64[E], steps.
        infos: f64[E, K], what their last infos say (see `workers.pool.StepBatch.final_info`).
    """

    env_ids: Ids
    returns: Floats
    lengths: Ids
    infos: Floats


@dataclass
class PlayingTime:
    """Seconds that processes have spent on playing groups.

    Attributes:
        pool: in `recv`: stepping envs that are in the same process, or waiting for those that are not.
        act: choosing actions.
        store: the rest; above all keeping steps and putting them in order.
    """

    pool: float = 0.0
    act: float = 0.0
    store: float = 0.0

    def __add__(self, other: PlayingTime) -> PlayingTime:
        return PlayingTime(self.pool + other.pool, self.act + other.act, self.store + other.store)

    def __sub__(self, other: PlayingTime) -> PlayingTime:
        return PlayingTime(self.pool - other.pool, self.act - other.act, self.store - other.store)


@dataclass(frozen=True)
class GroupRollout:
    """What came of a task.

    Attributes:
        group: of the task.
        rollout: its steps.
        episodes: that ended in it.
        started: i64[G], episodes that each env has begun by now.
        returns, lengths: f64[G] and i64[G], of the episodes that are in their middle; else 0.
        obs: [G, *O], what each env shows now; None after whole episodes.
        longest: steps of the env that played most.
        lost: episodes that were closed because their worker failed.
        begun: envs i64[E] whose running episode was lost before the first step, so that another began there.
    """

    group: int
    rollout: Rollout
    episodes: Episodes
    started: Ids
    returns: Floats
    lengths: Ids
    obs: Array | None
    longest: int
    lost: int
    begun: Ids | None = None


def goes_on_after_episodes(task: GroupTask) -> bool:
    """Whether an env whose episode ends has more to do: in rounds of fixed steps."""
    return task.num_steps is not None


OnEnded = Callable[[Ids], None]
"""Told of the envs i64[E] whose episodes have just ended."""


def nobody_listens(env_ids: Ids) -> None:
    """The `OnEnded` that nobody needs."""


def play_groups(
    pool: EnvPool,
    acts: Acts,
    tasks: Sequence[GroupTask],
    on_ended: OnEnded = nobody_listens,
    seconds: PlayingTime | None = None,
) -> Iterator[GroupRollout]:
    """Play several groups side by side: the policy acts for one while the envs of another step.

    Args:
        pool: hosts the envs of all tasks, with no command open.
        acts: the policy, whose weights do not change meanwhile.
        tasks: of different groups.
        on_ended: see `OnEnded`.
        seconds: what playing takes is added to it.

    Yields:
        What came of each, in the order in which they are done.
    """
    seconds = PlayingTime() if seconds is None else seconds
    since = time.perf_counter()
    groups = [_GroupRound(pool, acts, task, on_ended, seconds) for task in tasks]
    of_env = {int(env): group for group in groups for env in group.task.env_ids}
    for group in groups:
        group.begin()
    remaining = len(groups)
    while remaining:
        before = time.perf_counter()
        try:
            batch = pool.recv()
        except (EnvFailure, WorkerError) as error:
            add_actions(error, lambda env: of_env[env].given_to(env) if env in of_env else None)
            raise
        after = time.perf_counter()
        seconds.pool += after - before
        seconds.store += before - since
        since = after
        group = of_env[int(batch.env_ids[0])]
        if group.take(batch):
            remaining -= 1
            result = group.result()
            seconds.store += time.perf_counter() - since
            yield result
            since = time.perf_counter()


class _GroupRound:
    """One group while it plays. Every command to the pool is about all of its envs that still play."""

    def __init__(
        self, pool: EnvPool, acts: Acts, task: GroupTask, on_ended: OnEnded, seconds: PlayingTime
    ) -> None:
        self.task = task
        self._pool, self._acts, self._on_ended, self._seconds = pool, acts, on_ended, seconds
        self._rng = generator(task.seed, Stream(task.noise[0]), *task.noise[1:])
        self._started = task.started.copy()
        self._next_seeds = self._seeds_of(np.arange(len(task.env_ids)))
        self._awaits_reset = task.obs is None
        self._lost: list[Flags] = []
        self._obs = task.obs
        # Columns of the rollout: an array per step of the group.
        self._env_ids: list[Ids] = []
        self._seen: list[Array] = []
        self._actions: list[Array] = []
        self._rewards: list[Array] = []
        self._ends: list[Flags] = []
        # Of the ends alone.
        self._terminated: list[Flags] = []
        self._continues: list[Flags] = []
        self._final_obs: list[Array] = []
        # Of the ends of episodes alone.
        self._ended: list[Ids] = []
        self._infos: list[Floats] = []

    def begin(self) -> None:
        """Give the pool the first command."""
        if self.task.obs is None:
            self._pool.reset(self.task.env_ids, self._next_seeds)
            self._start_episodes(np.arange(len(self.task.env_ids)))
        else:
            self._act(self.task.env_ids, self.task.obs)

    def take(self, batch: StepBatch) -> bool:
        """Take an answer of the pool and give it the next command. Whether the group is done instead."""
        if self._awaits_reset:
            self._awaits_reset = False
            self._act(batch.env_ids, batch.obs)
            return False
        ended = batch.ended
        self._rewards.append(batch.reward)
        if self.task.num_steps is None:
            return self._after_step_of_episodes(batch, ended)
        return self._after_fixed_step(batch, ended, self.task.num_steps)

    def _after_step_of_episodes(self, batch: StepBatch, ended: Flags) -> bool:
        """Envs whose episode has ended leave the batch."""
        self._ends.append(ended)
        if not ended.any():
            self._act(batch.env_ids, batch.obs)
            return False
        self._close(batch, ended, ended)
        playing = ~ended
        if not playing.any():
            return True
        self._act(batch.env_ids[playing], batch.obs[playing])
        return False

    def _after_fixed_step(self, batch: StepBatch, ended: Flags, num_steps: int) -> bool:
        """An episode that has ended is followed by the next; after the last step all pause where they are."""
        is_last = len(self._rewards) == num_steps
        closed = np.ones_like(ended) if is_last else ended
        self._ends.append(closed)
        if closed.any():
            self._close(batch, ended, closed)
            self._start_episodes(ended.nonzero()[0])  # the pool has reset them with just these seeds
        obs = batch.obs if batch.next_obs is None else batch.next_obs
        if is_last:
            self._obs = obs
            return True
        self._act(batch.env_ids, obs)
        return False

    def _act(self, env_ids: Ids, obs: Array) -> None:
        before = time.perf_counter()
        task, acts = self.task, self._acts
        # Noise for all rows of the group, then the rows at hand: an env's noise does not depend on
        # which others are still playing.
        noise = acts.draw_noise(self._rng, len(task.env_ids))
        if len(env_ids) < len(task.env_ids):
            noise = noise[np.searchsorted(task.env_ids, env_ids)]
        actions = acts.act(obs, noise, env_ids)
        env_actions = acts.to_env(actions)
        seconds = time.perf_counter() - before
        self._seconds.act += seconds
        self._seconds.store -= seconds  # in which `play_groups` has counted it
        self._env_ids.append(env_ids)
        self._seen.append(obs)
        self._actions.append(actions)
        self._pool.send(env_ids, env_actions, None if task.num_steps is None else self._next_seeds)

    def _close(self, batch: StepBatch, ended: Flags, closed: Flags) -> None:
        self._terminated.append(batch.terminated[closed])
        self._continues.append(~ended[closed])
        self._final_obs.append(batch.obs[closed])
        over = batch.env_ids[ended]
        self._ended.append(over)
        self._lost.append(batch.lost[ended])
        self._infos.append(np.zeros((len(over), 0)) if batch.final_info is None else batch.final_info)
        self._on_ended(over)

    def _start_episodes(self, rows: Ids) -> None:
        """The next episode of these envs begins."""
        self._started[rows] += 1
        self._next_seeds = self._next_seeds.copy()  # the pool may still hold the old ones
        self._next_seeds[rows] = self._seeds_of(rows)

    def _seeds_of(self, rows: Ids) -> Ids:
        """Of the next episodes."""
        task, started = self.task, self._started
        seeds = [episode_seed(task.seed, int(task.env_ids[row]), int(started[row])) for row in rows]
        return np.array(seeds, np.int64)

    def given_to(self, env: int) -> Array | None:
        """The env actions [T, *A] that an env was given so far; None if there were none."""
        rows = given_to(env, self._env_ids, self._actions)
        return None if rows is None else self._acts.to_env(rows)

    def result(self) -> GroupRollout:
        """What came of the task."""
        rollout = self._rollout()
        in_order = np.argsort(np.concatenate(self._ended), kind="stable")
        infos = np.concatenate(self._infos)[in_order]
        lost = np.concatenate(self._lost)[in_order]
        episodes, returns, lengths = episodes_of(rollout, self.task, infos, lost)
        return GroupRollout(
            group=self.task.group,
            rollout=rollout,
            episodes=episodes,
            started=self._started,
            returns=returns,
            lengths=lengths,
            obs=None if self.task.num_steps is None else self._obs,
            longest=len(self._rewards),
            lost=int(lost.sum()),
        )

    def _rollout(self) -> Rollout:
        """All steps in env order."""
        env_ids = np.concatenate(self._env_ids)
        order = np.argsort(env_ids, kind="stable")
        ends = np.concatenate(self._ends)
        end_order = (np.cumsum(ends) - 1)[order][ends[order]]
        return Rollout(
            env_ids=env_ids[order],
            obs=np.concatenate(self._seen)[order],
            actions=np.concatenate(self._actions)[order],
            rewards=np.concatenate(self._rewards)[order],
            ends=ends[order],
            terminated=np.concatenate(self._terminated)[end_order],
            continues=np.concatenate(self._continues)[end_order],
            final_obs=np.concatenate(self._final_obs)[end_order],
            extra={},
        )


def episodes_of(
    rollout: Rollout, task: GroupTask, infos: Floats, lost: Flags
) -> tuple[Episodes, Floats, Ids]:
    """The episodes that ended in a rollout, and of those that did not, returns f64[G] and lengths i64[G].

    Those that were lost did not come to their end: what was played of them says little about the policy.

    Args:
        rollout: of the task.
        task: that was played.
        infos: f64[E, K], of the episodes that ended, env after env.
        lost: bool[E], likewise.
    """
    stops = np.flatnonzero(rollout.ends) + 1
    starts = np.concatenate([[0], stops[:-1]])
    env_ids = rollout.env_ids[starts]
    returns = np.add.reduceat(rollout.rewards.astype(np.float64), starts)
    lengths = stops - starts
    is_first = np.append(True, env_ids[1:] != env_ids[:-1])  # of its env: it may have begun before
    returns[is_first] += task.returns
    lengths[is_first] += task.lengths
    over = ~rollout.continues
    is_last = np.append(is_first[1:], True)
    running_returns = np.where(over, 0.0, returns)[is_last]
    running_lengths = np.where(over, 0, lengths)[is_last]
    ended = ~lost
    episodes = Episodes(env_ids[over][ended], returns[over][ended], lengths[over][ended], infos[ended])
    return episodes, running_returns, running_lengths
