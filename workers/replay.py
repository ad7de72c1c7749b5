"""Bringing envs back to where they were: an env's state is its episode's seed and the actions since."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workers.arrays import Array, Ids
from workers.pool import EnvPool


def in_lockstep(actions: Sequence[Sequence[Array]]) -> list[tuple[Ids, Array]]:
    """The t-th actions of all envs that have that many: env ids i64[G] and rows [G, *A], for every t."""
    lengths = np.array([len(env) for env in actions], np.int64)
    steps = []
    for t in range(int(lengths.max(initial=0))):
        ids = np.flatnonzero(lengths > t)
        steps.append((ids, np.stack([actions[env][t] for env in ids.tolist()])))
    return steps


def replay(pool: EnvPool, seeds: Ids, actions: Sequence[Sequence[Array] | None], expected: Array) -> Ids:
    """Start every env's episode anew and repeat its actions.

    Args:
        pool: N envs, with no command open.
        seeds: i64[N], of the episodes.
        actions: of each env, in the order of time; None if nobody knows them any more.
        expected: [N, *O], what the envs have to show in the end.

    Returns:
        Envs i64[L] whose episode is lost: their actions are not known, they show something else in the end,
        or an episode ends on the way. The next command to them has to be a reset.
    """
    on_the_way = np.array([env is not None for env in actions])
    shown = np.zeros_like(expected)
    known = np.flatnonzero(on_the_way)
    if len(known):
        pool.reset(known, seeds[known])
        shown[known] = pool.recv().obs
    for ids, rows in in_lockstep([env or () for env in actions]):
        going = on_the_way[ids]
        if going.any():
            pool.send(ids[going], rows[going])
            batch = pool.recv()
            shown[batch.env_ids] = batch.obs
            on_the_way[batch.env_ids[batch.ended]] = False
    same = [left.tobytes() == right.tobytes() for left, right in zip(shown, expected, strict=True)]
    return np.flatnonzero(~(on_the_way & same))
