"""Evaluate a policy: whole episodes on any pool, and nothing is learnt from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.actor import Actor
from learner.policy import ActorCritic
from workers.pool import EnvPool

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

_ROWS = 16  # of every forward pass; a power of two, which matrix kernels like
_NOISE_STREAM = 1  # of an episode's seed; the env has the seed itself


@dataclass(frozen=True)
class Episode:
    """What one episode came to: `episode_return` is undiscounted, `length` in steps."""

    episode_return: float
    length: int


class EpisodeActor:
    """Acts for some episodes so that none depends on which others are played beside it.

    The last bits of a matrix product depend on the number of rows and on the row's place among them, and an
    env may make a different episode of them. So every forward pass has the same number of rows, and an
    episode always has the same place.

    Args:
        policy: acts.
        seeds: of the episodes.
        deterministic: take the most likely actions; otherwise noise is drawn by a generator per episode.
        first: number of the first of the episodes, which decides on its place.
    """

    def __init__(
        self, policy: ActorCritic, seeds: Sequence[int], deterministic: bool = True, first: int = 0
    ) -> None:
        self._actor = Actor(policy)
        self._first = first
        self._rngs = None if deterministic else [_noise_generator(seed) for seed in seeds]

    def act(self, episodes: Ids, obs: Array) -> Array:
        """Env actions [G, *A].

        Args:
            episodes: i64[G], ascending, counted from 0 among the actor's own.
            obs: [G, *O].

        Raises:
            NonFiniteError: actions are not finite.
        """
        noise = self._noise(episodes)
        numbers = self._first + episodes
        cuts = np.flatnonzero(np.diff(numbers // _ROWS)) + 1
        parts = [
            self._act(numbers[part] % _ROWS, obs[part], None if noise is None else noise[part])
            for part in np.split(np.arange(len(episodes)), cuts)
        ]
        actions = np.concatenate(parts)
        return self._actor.to_env(actions)

    def _noise(self, episodes: Ids) -> Array | None:
        if self._rngs is None:
            return None
        draw = self._actor.draw_noise
        return np.concatenate([draw(self._rngs[episode], 1) for episode in episodes.tolist()])

    def _act(self, places: Ids, obs: Array, noise: Array | None) -> Array:
        """Actions for at most _ROWS observations, each in its place of a full batch."""
        source = np.zeros(_ROWS, np.intp)  # free places hold a copy of the first: any legal one will do
        source[places] = np.arange(len(places))
        actions = self._actor.act(obs[source], None if noise is None else noise[source])
        return actions[places]


def _noise_generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_NOISE_STREAM,))))


def evaluate(
    policy: ActorCritic, pool: EnvPool, seeds: Sequence[int], *, deterministic: bool = True
) -> list[Episode]:
    """Play one whole episode per seed; what comes of it depends on policy and seed alone, not on the pool.

    Nothing about the policy changes: running statistics are used as they are.

    Args:
        policy: plays.
        pool: N envs with no command open. Several pools give the same episodes.
        seeds: [E], any number; N episodes are played at a time.
        deterministic: take the most likely actions instead of drawing them.

    Returns:
        E episodes in the order of the seeds.

    Raises:
        WorkerError: a worker died, hung or reported a failed env.
        NonFiniteError: the policy's actions are not finite.
    """
    episodes: list[Episode] = []
    with _frozen(policy):
        for first in range(0, len(seeds), pool.num_envs):
            batch = seeds[first : first + pool.num_envs]
            episodes += _play_batch(pool, EpisodeActor(policy, batch, deterministic, first), batch)
    return episodes


def _play_batch(pool: EnvPool, actor: EpisodeActor, seeds: Sequence[int]) -> list[Episode]:
    """One episode in each of the first len(seeds) envs; who has finished leaves the batch."""
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    env_ids: Ids = np.arange(len(seeds))
    pool.reset(env_ids, seeds)
    obs = pool.recv().obs
    while len(env_ids):
        pool.send(env_ids, actor.act(env_ids, obs))
        batch = pool.recv()
        returns[env_ids] += batch.reward
        lengths[env_ids] += 1
        active = ~batch.ended
        env_ids, obs = env_ids[active], batch.obs[active]
    return [Episode(*found) for found in zip(returns.tolist(), lengths.tolist(), strict=True)]


@contextlib.contextmanager
def _frozen(policy: ActorCritic) -> Iterator[None]:
    """Modules of an encoder of one's own may learn or draw while they train (batch norm, dropout)."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
