"""Bringing envs back to where they were: an env's state is its episode's seed and the actions since."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workers.arrays import Array, Ids
from workers.pool import EnvPool


class ReplayError(RuntimeError):
    """An env is not a function of its seed and its actions."""


def in_lockstep(actions: Sequence[Sequence[Array]]) -> list[tuple[Ids, Array]]:
    """The t-th actions of all envs that have that many: env ids i64[G] and rows [G, *A], for every t."""
    lengths = np.array([len(env) for env in actions], np.int64)
    steps = []
    for t in range(int(lengths.max(initial=0))):
        ids = np.flatnonzero(lengths > t)
        steps.append((ids, np.stack([actions[env][t] for env in ids.tolist()])))
    return steps


def replay(pool: EnvPool, seeds: Ids, actions: Sequence[Sequence[Array]], expected: Array) -> None:
    """Start every env's episode anew and repeat its actions.

    Args:
        pool: N envs, with no command open.
        seeds: i64[N], of the episodes.
        actions: of each env, in the order of time.
        expected: [N, *O], what the envs have to show in the end.

    Raises:
        ReplayError: one shows something else, or its episode ends on the way.
    """
    everyone = np.arange(len(seeds))
    pool.reset(everyone, seeds)
    shown = pool.recv().obs
    for ids, rows in in_lockstep(actions):
        pool.send(ids, rows)
        batch = pool.recv()
        shown[ids] = batch.obs
        if batch.ended.any():
            raise ReplayError(f"the episodes of envs {ids[batch.ended].tolist()} end earlier than they did")
    same = [shown[env].tobytes() == expected[env].tobytes() for env in everyone.tolist()]
    if not all(same):
        raise ReplayError(
            f"envs {np.flatnonzero(~np.array(same)).tolist()} are not what they were after the same seed and "
            "actions: they depend on something else"
        )
