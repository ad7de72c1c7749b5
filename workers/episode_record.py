"""What the learner remembers of running episodes, so that they can be repeated."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workers.arrays import Array, Flags, Floats, Ids
from workers.pool import StepBatch

_TRIM_EVERY = 64  # steps of a pool
_NEVER = np.iinfo(np.int64).max


class _Step(NamedTuple):
    """One step of some envs."""

    env_ids: Ids
    actions: Array
    rewards: Floats


class EpisodeCalls(NamedTuple):
    """Calls to an env whose episode is running (see `workers.env_calls`).

    Attributes:
        before: how many came before the episode.
        at: of each later one, the steps of the episode that came before it.
    """

    before: int = 0
    at: Sequence[int] = ()


NO_CALLS = EpisodeCalls()


class Episode(NamedTuple):
    """A running episode as the learner knows it.

    Attributes:
        seed: it began with.
        actions: [T, *A], its steps so far.
        rewards: f32[R], of the last R of them; R < T if it began before the record.
        obs: [*O], what the env shows.
        calls: to the env since it began: of each, the steps before it.
    """

    seed: int
    actions: Array
    rewards: Floats
    obs: Array
    calls: Sequence[int] = ()


class EpisodeRecord:
    """Seeds, actions and rewards of the running episodes of N envs, and what the envs show.

    A step costs a few microseconds whatever N is: it is kept as it is, and taken apart only when somebody
    asks. Memory is proportional to N times the longest running episode.

    Args:
        num_envs: N.
        obs: [N, *O], like the observations.
        actions: [N, *A], like the actions.
        limit: steps after which an episode is forgotten, which bounds memory.

    Attributes:
        obs: [N, *O], what envs show whose episode is running.
        playing: bool[N], envs whose episode is running.
        forgotten: bool[N], those of them whose episode is longer than the limit.
    """

    def __init__(self, num_envs: int, obs: Array, actions: Array, limit: int) -> None:
        self.obs = np.zeros_like(obs)
        self.playing = np.zeros(num_envs, np.bool_)
        self.forgotten = np.zeros(num_envs, np.bool_)
        self._limit = limit
        self._seeds = np.zeros(num_envs, np.int64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._earlier: dict[int, Array] = {}  # by env: actions from before the record
        self._calls: dict[int, list[int]] = {}  # by env: steps before each call since the reset
        self._action = actions[0]
        self._steps: deque[_Step] = deque()
        self._dropped = 0  # steps that were there before the first one
        self._since = np.full(num_envs, _NEVER)  # number of the first step of an env's episode

    def begin(self, env_ids: Ids, seeds: Ids, obs: Array) -> None:
        """Episodes begin: env ids i64[G], seeds i64[G], first observations [G, *O]."""
        self.obs[env_ids] = obs
        self._seeds[env_ids] = seeds
        self._since[env_ids] = self._dropped + len(self._steps)
        self._lengths[env_ids] = 0
        self.playing[env_ids] = True
        self.forgotten[env_ids] = False
        self._forget(env_ids)

    def load(self, env: int, seed: int, actions: Array, obs: Array, calls: Sequence[int] = ()) -> None:
        """An episode that is running already.

        Args:
            env, seed: of it.
            actions: [T, *A], its steps so far.
            obs: [*O], what the env shows.
            calls: see `Episode`.
        """
        self.begin(np.array([env]), np.array([seed]), obs[None])
        self._earlier[env] = actions
        self._lengths[env] = len(actions)
        if calls:
            self._calls[env] = list(calls)

    def called(self, env_ids: Ids, counts: Ids) -> None:
        """So many calls i64[G] to envs; they matter to episodes that are running."""
        for env, count in zip(env_ids.tolist(), counts.tolist(), strict=True):
            if count and self.playing[env]:
                self._calls.setdefault(env, []).extend([int(self._lengths[env])] * count)

    def step(self, actions: Array, batch: StepBatch, next_seeds: Ids | None) -> None:
        """A step of the envs in `batch`, by actions [G, *A].

        Args:
            actions: not changed any more.
            batch: the answer.
            next_seeds: i64[G] of the episodes that have followed those that ended; None if none has.
        """
        env_ids = batch.env_ids
        self._steps.append(_Step(env_ids, actions, batch.reward))
        # All rows as a slice, and counting instead of `any`: each is several times faster.
        index = slice(None) if len(env_ids) == len(self._lengths) else env_ids
        self._lengths[index] += 1
        self.obs[index] = batch.obs
        ended = batch.ended
        if np.count_nonzero(ended):
            self._after_ends(batch, ended, next_seeds)
        if (self._dropped + len(self._steps)) % _TRIM_EVERY == 0:
            self._trim()

    def _after_ends(self, batch: StepBatch, ended: Flags, next_seeds: Ids | None) -> None:
        over = batch.env_ids[ended]
        if next_seeds is None or batch.next_obs is None:
            self.end(over)
        else:
            self.begin(over, next_seeds[ended], batch.next_obs[ended])

    def end(self, env_ids: Ids) -> None:
        """These envs play no episode that the record knows."""
        self.playing[env_ids] = False
        self.forgotten[env_ids] = False
        self._since[env_ids] = _NEVER
        self._lengths[env_ids] = 0
        self._forget(env_ids)

    def _forget(self, env_ids: Ids) -> None:
        """What came before the steps that are kept, and calls between them."""
        for by_env in (self._earlier, self._calls):
            for env in env_ids.tolist() if by_env else ():
                by_env.pop(env, None)

    def _trim(self) -> None:
        """Forget what no running episode needs, and episodes that are too long."""
        too_long = np.flatnonzero(self._lengths > self._limit)
        if len(too_long):
            self.forgotten[too_long] = True
            self._since[too_long] = _NEVER
            self._forget(too_long)
        needed = self._since.min()
        while self._steps and self._dropped < needed:
            self._steps.popleft()
            self._dropped += 1

    def seed(self, env: int) -> int:
        """Of the running episode of an env that plays."""
        return int(self._seeds[env])

    def of(self, env: int) -> Episode:
        """The running episode of an env that plays, and whose episode is not forgotten."""
        rewards: list[np.float32] = []
        skipped = max(0, int(self._since[env]) - self._dropped)
        found = []
        for number, step in enumerate(self._steps):
            if number >= skipped:
                row = int(np.searchsorted(step.env_ids, env))
                if row < len(step.env_ids) and step.env_ids[row] == env:
                    found.append(step.actions[row])
                    rewards.append(step.rewards[row])
        actions = [*self._earlier.get(env, ()), *found]
        stacked = np.stack(actions) if actions else np.zeros((0, *self._action.shape), self._action.dtype)
        known = np.array(rewards, np.float32)
        calls = tuple(self._calls.get(env, ()))
        return Episode(int(self._seeds[env]), stacked, known, self.obs[env, ...], calls)
