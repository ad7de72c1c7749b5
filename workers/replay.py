"""Bringing envs back to where they were: an env's state is its episode's seed and the actions since."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workers.arrays import Array, Ids
from workers.env_call import EnvCall
from workers.episode_record import EpisodeCalls
from workers.pool import ChangeablePool

_BEFORE = -1  # the steps of any episode


def in_lockstep(actions: Sequence[Sequence[Array]]) -> list[tuple[Ids, Array]]:
    """The t-th actions of all envs that have that many: env ids i64[G] and rows [G, *A], for every t."""
    lengths = np.array([len(env) for env in actions], np.int64)
    steps = []
    for t in range(int(lengths.max(initial=0))):
        ids = np.flatnonzero(lengths > t)
        steps.append((ids, np.stack([actions[env][t] for env in ids.tolist()])))
    return steps


def replay(
    pool: ChangeablePool,
    seeds: Ids,
    actions: Sequence[Sequence[Array] | None],
    expected: Array,
    calls: Sequence[EnvCall] = (),
    called: Sequence[EpisodeCalls] = (),
) -> Ids:
    """Start every env's episode anew and repeat its actions.

    Args:
        pool: N envs, with no command open.
        seeds: i64[N], of the episodes.
        actions: of each env, in the order of time; None if nobody knows them any more.
        expected: [N, *O], what the envs have to show in the end.
        calls: that all envs have had by then.
        called: when each env has had them; nothing is asked if there are none.

    Returns:
        Envs i64[L] whose episode is lost: their actions are not known, they show something else in the end,
        or an episode ends on the way. The next command to them has to be a reset.
    """
    on_the_way = np.array([env is not None for env in actions])
    shown = np.zeros_like(expected)
    known = np.flatnonzero(on_the_way)
    plan = _plan(called) if calls else {}
    _make(pool, calls, plan.get(_BEFORE, {}))
    if len(known):
        pool.reset(known, seeds[known])
        shown[known] = pool.recv().obs
    for t, (ids, rows) in enumerate(in_lockstep([env or () for env in actions])):
        _make(pool, calls, plan.get(t, {}))
        going = on_the_way[ids]
        if going.any():
            pool.send(ids[going], rows[going])
            batch = pool.recv()
            shown[batch.env_ids] = batch.obs
            on_the_way[batch.env_ids[batch.ended]] = False
    if calls:
        pool.env_calls.carry_out(np.arange(len(seeds)), calls)  # and those that are lost on the way
    same = [left.tobytes() == right.tobytes() for left, right in zip(shown, expected, strict=True)]
    return np.flatnonzero(~(on_the_way & same))


def _plan(called: Sequence[EpisodeCalls]) -> dict[int, dict[int, list[int]]]:
    """By the number of steps before: which envs have had so many calls then."""
    plan: dict[int, dict[int, list[int]]] = {}
    for env, (before, at) in enumerate(called):
        counts = {_BEFORE: before} | {step: before + number for number, step in enumerate(at, 1)}
        for step, count in counts.items():
            plan.setdefault(step, {}).setdefault(count, []).append(env)
    return plan


def _make(pool: ChangeablePool, calls: Sequence[EnvCall], counts: dict[int, list[int]]) -> None:
    for count, envs in counts.items():
        pool.env_calls.carry_out(np.array(envs), calls[:count])
