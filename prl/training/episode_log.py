"""The actions of running episodes, from the rollouts in which they were played."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from learner.store import Rollout
from workers.arrays import Array, Flags, Ids

ToEnv = Callable[[Array], Array]
"""Env actions [S, *A] for actions [S, *A]."""


class EpisodeLog:
    """The env actions since the beginning of every env's running episode.

    Memory is proportional to N times the longest running episode. What a round adds is kept as it is, and
    taken apart only if somebody asks.

    Args:
        num_envs: N.
        to_env: makes env actions of those in rollouts.
    """

    def __init__(self, num_envs: int, to_env: ToEnv) -> None:
        self._to_env = to_env
        self._loaded: list[list[Array]] = [[] for _ in range(num_envs)]
        self._parts: deque[tuple[Ids, Array, Flags]] = deque()
        self._dropped = 0  # parts that were there before the first one
        self._since = np.full(num_envs, -1, np.int64)  # the part in which an env's episode began; -1: before

    def add(self, part: Rollout) -> None:
        """The steps of a group in one round; those of its earlier rounds came before."""
        number = self._dropped + len(self._parts)
        self._parts.append((part.env_ids, part.actions, part.episode_ends))
        self._since[part.env_ids[part.episode_ends]] = number
        while self._dropped < self._since.min():
            self._parts.popleft()
            self._dropped += 1

    def of_envs(self) -> list[list[Array]]:
        """The env actions of each env's running episode, in the order of time."""
        found = [
            list(loaded) if since < 0 else []
            for loaded, since in zip(self._loaded, self._since.tolist(), strict=True)
        ]
        for number, (env_ids, actions, ends) in enumerate(self._parts, self._dropped):
            env_actions = self._to_env(actions)
            for env in np.unique(env_ids).tolist():
                if number >= self._since[env]:
                    rows = np.flatnonzero(env_ids == env)
                    over = np.flatnonzero(ends[rows])
                    found[env] += list(env_actions[rows[over[-1] + 1 if len(over) else 0 :]])
        return found

    def load(self, actions: Sequence[Sequence[Array]]) -> None:
        """The inverse of `of_envs`."""
        self._loaded = [list(env) for env in actions]
        self._parts.clear()
        self._dropped = 0
        self._since[:] = -1
