"""What the learner remembers of running episodes, so that they can be repeated."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workers.arrays import Array, Floats, Ids
from workers.pool import StepBatch

_MOST_UNREAD = 64  # steps of a pool
_UNREAD_BYTES = 4 << 20  # of observations
_NEVER = np.iinfo(np.int64).max
_NO_SEED = np.iinfo(np.int64).min


class _Step(NamedTuple):
    """One step of some envs."""

    env_ids: Ids
    actions: Array
    rewards: Floats


class _Answer(NamedTuple):
    """A step that has not been looked at yet. `next_seeds`: None if nothing has followed what has ended."""

    actions: Array
    batch: StepBatch
    next_seeds: Ids | None


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

    A step costs a microsecond whatever N is: its answer is kept as it is, and what it means is worked out for
    many steps at once, or when somebody asks. Memory is proportional to N times the longest running episode.

    Args:
        num_envs: N.
        obs: [N, *O], like the observations.
        actions: [N, *A], like the actions.
        limit: steps after which an episode is forgotten, which bounds memory.
    """

    def __init__(self, num_envs: int, obs: Array, actions: Array, limit: int) -> None:
        self._num_envs = num_envs
        self._limit = limit
        self._action = actions[0]
        self._steps: deque[_Step] = deque()
        self._dropped = 0  # steps that were there before the first one
        self._unread: list[_Answer] = []  # what the following does not know yet
        self._read_every = max(1, min(_MOST_UNREAD, _UNREAD_BYTES // max(1, obs.nbytes)))
        self._obs = np.zeros_like(obs)
        self._playing = np.zeros(num_envs, np.bool_)
        self._forgotten = np.zeros(num_envs, np.bool_)
        self._seeds = np.zeros(num_envs, np.int64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._since = np.full(num_envs, _NEVER)  # number of the first step of an env's episode
        self._earlier: dict[int, Array] = {}  # by env: actions from before the record
        self._calls: dict[int, list[int]] = {}  # by env: steps before each call since the reset

    def begin(self, env_ids: Ids, seeds: Ids, obs: Array) -> None:
        """Episodes begin: env ids i64[G], seeds i64[G], first observations [G, *O]."""
        self._read()
        self._obs[env_ids] = obs
        self._start(env_ids, seeds, self._dropped + len(self._steps))

    def _start(self, env_ids: Ids, seeds: Ids, since: int | Ids) -> None:
        """Episodes begin; the first of their steps has the number `since`."""
        self._seeds[env_ids] = seeds
        self._since[env_ids] = since
        self._lengths[env_ids] = 0
        self._playing[env_ids] = True
        self._forgotten[env_ids] = False
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
        self._read()
        for env, count in zip(env_ids.tolist(), counts.tolist(), strict=True):
            if count and self._playing[env]:
                self._calls.setdefault(env, []).extend([int(self._lengths[env])] * count)

    def step(self, actions: Array, batch: StepBatch, next_seeds: Ids | None) -> None:
        """A step of the envs in `batch`, by actions [G, *A].

        Args:
            actions: not changed any more.
            batch: the answer; likewise.
            next_seeds: i64[G] of the episodes that have followed those that ended; None if none has.
        """
        self._unread.append(_Answer(actions, batch, next_seeds))
        if len(self._unread) >= self._read_every:
            self._read()

    def end(self, env_ids: Ids) -> None:
        """These envs play no episode that the record knows."""
        self._read()
        self._stop(env_ids)

    def _stop(self, env_ids: Ids) -> None:
        self._playing[env_ids] = False
        self._forgotten[env_ids] = False
        self._since[env_ids] = _NEVER
        self._lengths[env_ids] = 0
        self._forget(env_ids)

    def _read(self) -> None:
        """Work out what the unread answers mean, and forget what nobody needs any more."""
        if not self._unread:
            return
        first = self._dropped + len(self._steps)
        for actions, batch, _ in self._unread:
            self._steps.append(_Step(batch.env_ids, actions, batch.reward))
            # All rows as a slice is several times faster.
            index = slice(None) if len(batch.env_ids) == self._num_envs else batch.env_ids
            self._obs[index] = batch.obs if batch.next_obs is None else batch.next_obs
        env_ids = np.concatenate(
            [answer.batch.env_ids for answer in self._unread]
        )  # a row for each step of an env
        ended = np.concatenate([answer.batch.ended for answer in self._unread])
        last_end = np.full(self._num_envs, -1)  # by env: the last row that ended an episode
        last_end[env_ids[ended]] = np.flatnonzero(ended)  # of several values for an env, the last one stays
        later = np.arange(len(env_ids)) > last_end[env_ids]
        self._follow(last_end, first)
        self._lengths += np.bincount(env_ids[later], minlength=self._num_envs)
        self._unread.clear()
        self._trim()

    def _follow(self, last_end: Ids, first: int) -> None:
        """Envs whose episodes have ended play the next ones, or none.

        Args:
            last_end: as in `_read`.
            first: number of the first unread step.
        """
        sizes = [len(answer.batch.env_ids) for answer in self._unread]
        numbers = first + np.repeat(np.arange(len(sizes)), sizes)
        seeds = np.concatenate([_seeds_after(answer) for answer in self._unread])
        over = np.flatnonzero(last_end >= 0)
        rows = last_end[over]
        begun = seeds[rows] != _NO_SEED
        self._stop(over[~begun])
        self._start(over[begun], seeds[rows[begun]], numbers[rows[begun]] + 1)

    def _forget(self, env_ids: Ids) -> None:
        """What came before the steps that are kept, and calls between them."""
        for by_env in (self._earlier, self._calls):
            for env in env_ids.tolist() if by_env else ():
                by_env.pop(env, None)

    def _trim(self) -> None:
        """Forget what no running episode needs, and episodes that are too long."""
        too_long = np.flatnonzero(self._lengths > self._limit)
        if len(too_long):
            self._forgotten[too_long] = True
            self._since[too_long] = _NEVER
            self._forget(too_long)
        needed = self._since.min()
        while self._steps and self._dropped < needed:
            self._steps.popleft()
            self._dropped += 1

    def plays(self, env: int) -> bool:
        """Whether an episode of the env is running that the record knows."""
        self._read()
        return bool(self._playing[env])

    def has_forgotten(self, env: int) -> bool:
        """Whether the running episode of an env that plays is longer than the limit."""
        self._read()
        return bool(self._forgotten[env])

    def seed(self, env: int) -> int:
        """Of the running episode of an env that plays."""
        self._read()
        return int(self._seeds[env])

    def shown(self, env: int) -> Array:
        """What an env shows that plays: [*O], a view."""
        self._read()
        return self._obs[env, ...]

    def of(self, env: int) -> Episode:
        """The running episode of an env that plays, and whose episode is not forgotten."""
        self._read()
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
        return Episode(int(self._seeds[env]), stacked, known, self.shown(env), calls)


def _seeds_after(answer: _Answer) -> Ids:
    if answer.next_seeds is None:
        return np.full(len(answer.batch.env_ids), _NO_SEED)
    return answer.next_seeds
