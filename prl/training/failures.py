"""What led to the failure of an env: whoever hands on the error adds what he knows. Free of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from workers.arrays import Array, Ids
from workers.episode_record import EpisodeCalls
from workers.errors import EnvFailure, WorkerError
from workers.pool import ChangeablePool


class RunningEpisodes(Protocol):
    """What is known of the episodes that were running before the open tasks; `RoundKind` is one."""

    def running_actions(self) -> Sequence[Sequence[Array] | None]:
        """Of each env; None if they are forgotten."""

    def running_calls(self) -> Sequence[EpisodeCalls]:
        """To each env."""


def given_to(env: int, env_ids: Sequence[Ids], actions: Sequence[Array]) -> Array | None:
    """The actions [T, *A] that an env was given, in the order of time; None if there were none.

    Args:
        env: its id.
        env_ids: i64[G] of each step of several envs, ascending.
        actions: [G, *A] of each step.
    """
    found = []
    for ids, rows in zip(env_ids, actions, strict=True):
        row = int(ids.searchsorted(env))
        if row < len(ids) and ids[row] == env:
            found.append(rows[row])
    return np.stack(found) if found else None


class GivenActions:
    """The actions that envs are given, step after step."""

    def __init__(self) -> None:
        self._env_ids: list[Ids] = []
        self._actions: list[Array] = []

    @contextlib.contextmanager
    def told(self, env_ids: Ids, actions: Array) -> Iterator[None]:
        """One more step, whose answer is awaited in the block: an error gets to know of all."""
        self._env_ids.append(env_ids)
        self._actions.append(actions)
        try:
            yield
        except (EnvFailure, WorkerError) as error:
            add_actions(error, lambda env: given_to(env, self._env_ids, self._actions))
            raise


def add_actions(error: EnvFailure | WorkerError, given: Callable[[int], Array | None]) -> None:
    """Add the actions to what an error says of an episode, unless it has them.

    Args:
        error: of a pool.
        given: the actions [T, *A] that an env was given, up to its failure; None if there were none.
    """
    failed = error.episode
    if failed is not None and failed.actions is None and (rows := given(failed.env)) is not None:
        error.episode = failed.with_actions(rows)


def add_calls(error: WorkerError, pool: ChangeablePool) -> None:
    """Add the calls that the env has had, if all came before the episode."""
    failed = error.episode
    if failed is not None and failed.calls is None:
        error.episode = failed.with_calls(pool.env_calls.made(failed.env))


def add_what_came_before(error: WorkerError, pool: ChangeablePool, episodes: RunningEpisodes) -> None:
    """Add the steps and calls of earlier rounds, if the episode has begun in one of them."""
    failed = error.episode
    if failed is None:
        return
    if failed.is_whole:
        add_calls(error, pool)
        return
    earlier = episodes.running_actions()[failed.env]
    if earlier is None:
        return
    failed = failed.with_earlier(earlier)
    if failed.calls is None:
        calls, had = pool.env_calls.made(failed.env), episodes.running_calls()[failed.env]
        new = max(0, len(calls) - had.before - len(had.at))  # since the last round
        failed = failed.with_calls(calls, (*had.at, *[len(earlier)] * new))
    error.episode = failed
