"""One round: the policy plays in all envs, and the store gets every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.actor import Actor
from learner.policy import ActorCritic
from learner.store import Store
from prl.training.rounds import RoundKind
from workers.pool import EnvPool

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Envs that are stepped together.

    Attributes:
        env_ids: i64[G], ascending.
        rng: draws the action noise of this group for one round.
    """

    env_ids: Ids
    rng: np.random.Generator


@dataclass(frozen=True)
class Round:
    """The outcome of one round.

    Attributes:
        returns: f64[E] of the episodes that ended in it, undiscounted, in env order.
        lengths: i64[E], steps.
        steps: of all envs.
        longest: steps of the env that played most.
        lost: episodes that were closed because their worker failed.
    """

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    steps: int
    longest: int
    lost: int


def split_groups(num_envs: int, num_groups: int) -> list[Ids]:
    """Env indices by their remainder: the groups depend on nothing but the two numbers."""
    return [np.arange(group, num_envs, num_groups) for group in range(num_groups)]


def collect(
    pool: EnvPool, policy: ActorCritic, store: Store, rounds: RoundKind, groups: Sequence[Group]
) -> Round:
    """Play one round; envs that have done their part leave the batch.

    With several groups, the policy acts for one while the envs of another step.

    Args:
        pool: N envs, with no command open.
        policy: acts on the rows of active envs only.
        store: gets every step.
        rounds: says which envs continue.
        groups: a partition of the N envs.
    """
    active = np.ones(pool.num_envs, np.bool_)
    steps = np.zeros(pool.num_envs, np.int64)
    lost = 0
    actor = Actor(policy)
    group_of = {int(env): group for group in groups for env in group.env_ids}

    def act(env_ids: Ids, obs: npt.NDArray[Any]) -> None:
        group = group_of[int(env_ids[0])]
        # Noise for all rows of the group, then the rows at hand: an env's noise does not depend on
        # which others are still playing.
        noise = actor.draw_noise(group.rng, len(group.env_ids))
        actions = actor.act(obs, noise[np.searchsorted(group.env_ids, env_ids)], env_ids)
        store.add_actions(env_ids, obs, actions)
        rounds.send(pool, env_ids, actor.to_env(actions))

    for env_ids, obs in rounds.begin(pool, [group.env_ids for group in groups]):
        act(env_ids, obs)
    while active.any():
        batch = pool.recv()
        ended = batch.ended
        rounds.tracker.count(batch, ended)
        done, next_obs = rounds.after_step(batch, ended)
        store.add_outcomes(batch.env_ids, batch.obs, batch.reward, batch.terminated, ended, done)
        steps[batch.env_ids] += 1
        lost += int(batch.lost.sum())
        active[batch.env_ids[done]] = False
        if not done.all():
            act(batch.env_ids[~done], next_obs[~done])
    returns, lengths = rounds.tracker.take_finished()
    return Round(returns, lengths, int(steps.sum()), int(steps.max()), lost)
