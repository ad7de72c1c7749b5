"""The learner's buffers of a batch: append-only, as large as what was played, never N times the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from learner.spaces import row_field

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rollout:
    """Steps of whole episodes or of parts of them, env after env, each env's in the order of time.

    Attributes:
        env_ids: i64[S].
        obs: [S, *O], what the policy saw.
        actions: [S, *A], unsquashed.
        rewards: f32[S].
        ends: bool[S], the last steps of episodes, or of what was played of them.
        terminated: bool[E], in the order of the ends: the episode reached a terminal state.
        continues: bool[E], the episode continues after this step, in the next rollout. An end that is neither
            terminated nor continues was truncated or lost.
        final_obs: [E, *O], the observation after the last step.
        extra: further columns, [S], by the names given to the store.
    """

    env_ids: Ids
    obs: Array
    actions: Array
    rewards: npt.NDArray[np.float32]
    ends: Flags
    terminated: Flags
    continues: Flags
    final_obs: Array
    extra: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def episode_ends(self) -> Flags:
        """bool[S], the steps after which an episode is over."""
        over = self.ends.copy()
        over[self.ends] = ~self.continues
        return over

    @property
    def last_of_env(self) -> Flags:
        """bool[S], the last step of each env."""
        return np.append(self.env_ids[1:] != self.env_ids[:-1], True)

    def next_obs(self) -> Array:
        """[S, *O], the observation after each step, before any reset."""
        following = np.empty_like(self.obs)
        following[:-1] = self.obs[1:]
        following[self.ends] = self.final_obs
        return following


def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
    """Several rollouts as one, in env order; each env's episodes follow one another as they were played."""

    def joined(name: str) -> Array:
        return np.concatenate([getattr(rollout, name) for rollout in rollouts])

    ends = joined("ends")
    order = np.argsort(joined("env_ids"), kind="stable")
    end_order = (np.cumsum(ends) - 1)[order][ends[order]]
    of_steps = {name: joined(name)[order] for name in ("env_ids", "obs", "actions", "rewards", "ends")}
    of_ends = {name: joined(name)[end_order] for name in ("terminated", "continues", "final_obs")}
    extra = {name: np.concatenate([r.extra[name] for r in rollouts])[order] for name in rollouts[0].extra}
    return Rollout(**of_steps, **of_ends, extra=extra)


class Store:
    """Collects the steps of N envs, in whatever order they come.

    A step is opened by `add_actions` (observation and action) and closed by `add_outcomes` (what came of it).

    Args:
        observation_space: of one env.
        action_space: of what is stored; a head's `action_space`, not the env's.
        num_envs: N.
        extra: names of further f32 columns that every `add_actions` brings.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        num_envs: int,
        extra: Sequence[str] = (),
    ) -> None:
        self.num_envs = num_envs
        self._extra = tuple(extra)
        self._columns: dict[str, Array] = {
            "env_id": np.zeros(0, np.int64),
            "obs": _column(observation_space),
            "action": _column(action_space),
            "reward": np.zeros(0, np.float32),
            "end": np.zeros(0, np.bool_),
            "terminated": np.zeros(0, np.bool_),
            "continues": np.zeros(0, np.bool_),
            **{name: np.zeros(0, np.float32) for name in extra},
        }
        self.clear()

    def clear(self) -> None:
        """Forget everything; the memory is kept for the next batch."""
        self._size = 0
        self._open = np.full(self.num_envs, -1, np.int64)  # the row of each env's open step
        self._final_rows: list[Ids] = []
        self._final_obs: list[Array] = []

    def __len__(self) -> int:
        return self._size

    def add_actions(self, env_ids: Ids, obs: Array, actions: Array, **extra: Array) -> None:
        """Open a step in each env: it saw `obs` [G, *O] and does `actions` [G, *A]; `extra` are [G].

        Raises:
            ValueError: an env's step is still open, or an env id is out of bounds.
        """
        self._check_bounds(env_ids)
        if (self._open[env_ids] >= 0).any():
            raise ValueError(f"add_actions: steps of envs {env_ids[self._open[env_ids] >= 0]} are still open")
        start, stop = self._size, self._size + len(env_ids)
        self._reserve(stop)
        rows = slice(start, stop)
        self._columns["env_id"][rows] = env_ids
        self._columns["obs"][rows] = obs
        self._columns["action"][rows] = actions
        for name in self._extra:
            self._columns[name][rows] = extra[name]
        self._columns["end"][rows] = False
        self._columns["terminated"][rows] = False
        self._columns["continues"][rows] = False
        self._open[env_ids] = np.arange(start, stop)
        self._size = stop

    def add_outcomes(
        self,
        env_ids: Ids,
        obs: Array,
        rewards: Array,
        terminated: Flags,
        ended: Flags,
        last: Flags | None = None,
    ) -> None:
        """Close the open step of each env.

        Args:
            env_ids: i64[G].
            obs: [G, *O]; kept only where the episode has ended (elsewhere the next `add_actions` brings it).
            rewards: f32[G].
            terminated: bool[G], the episode reached a terminal state.
            ended: bool[G], the episode is over for whatever reason.
            last: bool[G], the env plays no further step of this episode in this rollout; the episode itself
                may continue.

        Raises:
            ValueError: an env has no open step, or an env id is out of bounds.
        """
        self._check_bounds(env_ids)
        rows = self._open[env_ids]
        if (rows < 0).any():
            raise ValueError(f"add_outcomes: envs {env_ids[rows < 0]} have no open step")
        self._open[env_ids] = -1
        self._columns["reward"][rows] = rewards
        closed = ended if last is None else ended | last
        if closed.any():
            self._columns["end"][rows] = closed
            self._columns["terminated"][rows] = terminated
            self._columns["continues"][rows] = closed & ~ended
            self._final_rows.append(rows[closed])
            self._final_obs.append(obs[closed])

    def truncate_open_episodes(self) -> None:
        """End every episode that is not over, as truncated after its last step.

        What followed that step is not known, so the observation of the step itself stands in for it. A step
        that is still open is closed with the reward 0.
        """
        self._columns["reward"][self._open[self._open >= 0]] = 0.0
        self._open[:] = -1
        env_ids = self._columns["env_id"][: self._size]
        _, from_the_end = np.unique(env_ids[::-1], return_index=True)
        last = self._size - 1 - from_the_end
        last = last[~self._columns["end"][last]]
        self._columns["end"][last] = True
        self._final_rows.append(last)
        self._final_obs.append(self._columns["obs"][last])

    def rollout(self) -> Rollout:
        """Everything that was stored, in env order.

        Raises:
            ValueError: nothing was stored, or an episode is not over.
        """
        if self._size == 0:
            raise ValueError("the store is empty")
        columns = {name: column[: self._size] for name, column in self._columns.items()}
        order = np.argsort(columns["env_id"], kind="stable")
        ends = columns["end"][order]
        env_ids = columns["env_id"][order]
        last = np.append(env_ids[1:] != env_ids[:-1], True)
        if (last & ~ends).any():
            raise ValueError(f"episodes of envs {env_ids[last & ~ends]} are not over")
        final_rows = np.concatenate(self._final_rows)
        position = np.argsort(np.argsort(order)[final_rows])
        return Rollout(
            env_ids=env_ids,
            obs=columns["obs"][order],
            actions=columns["action"][order],
            rewards=columns["reward"][order],
            ends=ends,
            terminated=columns["terminated"][order][ends],
            continues=columns["continues"][order][ends],
            final_obs=np.concatenate(self._final_obs)[position],
            extra={name: columns[name][order] for name in self._extra},
        )

    def _check_bounds(self, env_ids: Ids) -> None:
        # NumPy would take -1 for the last env.
        if len(env_ids) and (env_ids.min() < 0 or env_ids.max() >= self.num_envs):
            raise ValueError(f"env ids must lie in 0..{self.num_envs - 1}, got {env_ids}")

    def _reserve(self, size: int) -> None:
        """Grow by doubling, so that appending costs O(1) on average."""
        if size <= len(self._columns["env_id"]):
            return
        capacity = max(1024, size, 2 * len(self._columns["env_id"]))
        for name, column in self._columns.items():
            grown = np.zeros((capacity, *column.shape[1:]), column.dtype)
            grown[: self._size] = column[: self._size]
            self._columns[name] = grown


def _column(space: gym.Space[Any]) -> Array:
    shape, dtype = row_field(space)
    return np.zeros((0, *shape), dtype)
