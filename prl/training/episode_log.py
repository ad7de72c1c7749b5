"""The actions of running episodes, from the rollouts in which they were played."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from learner.store import Rollout
from workers.arrays import Array, Flags, Ids

_NEVER = np.iinfo(np.int64).max

ToEnv = Callable[[Array], Array]
"""Env actions [S, *A] for actions [S, *A]."""


class _Part(NamedTuple):
    """What a group has played in one round.

    Attributes:
        actions: [S, *A], of the env, env after env.
        rows: of each env: its index, its first step, the first one after its last end of an episode, and the
            one after its last step.
    """

    actions: Array
    rows: Sequence[tuple[int, int, int, int]]

    @classmethod
    def of(cls, part: Rollout, actions: Array) -> _Part:
        """From a rollout of at least one step, and its env actions."""
        envs, starts = np.unique(part.env_ids, return_index=True)  # a rollout lies env after env
        after_ends = np.where(part.episode_ends, np.arange(1, len(part) + 1), 0)
        begins = np.maximum(np.maximum.reduceat(after_ends, starts), starts)
        stops = [*starts[1:].tolist(), len(part)]
        return cls(actions, list(zip(envs.tolist(), starts.tolist(), begins.tolist(), stops, strict=True)))


class EpisodeLog:
    """The env actions since the beginning of every env's running episode.

    Memory is proportional to N times the longest running episode that is not forgotten. What a round adds is
    kept together, and put together only if somebody asks, which a run does after each update.

    Args:
        num_envs: N.
        to_env: makes env actions of those in rollouts, row by row.
    """

    def __init__(self, num_envs: int, to_env: ToEnv) -> None:
        self._to_env = to_env
        self._loaded: list[Array | None] = [None] * num_envs
        self._parts: deque[_Part] = deque()
        self._dropped = 0  # parts that were there before the first one
        self._since = np.full(num_envs, -1, np.int64)  # the part in which an env's episode began; -1: before

    def add(self, part: Rollout, begun: Ids | None = None) -> None:
        """The steps of a group in one round; those of its earlier rounds came before.

        Args:
            part: the steps.
            begun: envs i64[E] whose first step in it is the first one of an episode, though the one before
                did not end.
        """
        number = self._dropped + len(self._parts)
        self._parts.append(_Part.of(part, self._to_env(part.actions)))
        if begun is not None:
            self._since[begun] = number
        self._since[part.env_ids[part.episode_ends]] = number
        self._drop()

    def forget(self, env_ids: Ids) -> None:
        """The running episodes of these envs are too long to be repeated."""
        self._since[env_ids] = _NEVER
        self._drop()

    @property
    def forgotten(self) -> Flags:
        """bool[N], envs whose running episode is forgotten."""
        flags: Flags = self._since == _NEVER
        return flags

    def _drop(self) -> None:
        """Drop the parts that no running episode needs."""
        needed = self._since.min()
        while self._parts and self._dropped < needed:
            self._parts.popleft()
            self._dropped += 1

    def of_envs(self) -> list[Array | None]:
        """The env actions [T, *A] of each env's running episode, in the order of time; None if T is 0.

        Nothing is known of the steps of those that are forgotten.
        """
        since = self._since.tolist()
        found: list[list[Array]] = [
            [loaded] if loaded is not None and first < 0 else []
            for loaded, first in zip(self._loaded, since, strict=True)
        ]
        for number, (actions, rows) in enumerate(self._parts, self._dropped):
            for env, start, begin, stop in rows:
                first = begin if number == since[env] else start
                if number >= since[env] and first < stop:
                    found[env].append(actions[first:stop])
        return [np.concatenate(chunks) if chunks else None for chunks in found]

    def load(self, actions: Sequence[Array | None]) -> None:
        """The inverse of `of_envs`."""
        self._loaded = list(actions)
        self._parts.clear()
        self._dropped = 0
        self._since[:] = -1
