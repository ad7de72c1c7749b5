"""Evaluate a policy: whole episodes on any pool, and nothing is learnt from them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from learner.actor import Actor
from learner.policy import ActorCritic
from prl.training.episode_infos import said
from prl.training.failures import GivenActions
from workers.errors import WorkerError
from workers.final_infos import SUCCESS
from workers.pool import EnvPool
from workers.seeding import Stream, generator

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

# Rows per forward pass; a power of two suits matrix kernels. With images, each row costs time even if it is
# only a filler, as most are at the end of an evaluation and all but one in `play`.
_ROWS = 16
_IMAGE_ROWS = 4


@dataclass(frozen=True)
class Episode:
    """The outcome of one episode.

    Attributes:
        episode_return: undiscounted.
        length: in steps.
        infos: what its last info says, by the names of the pool's `info_columns`.
    """

    episode_return: float
    length: int
    infos: Mapping[str, float] = field(default_factory=dict)

    @property
    def success(self) -> bool | None:
        """Whether it has reached its goal; None if its last info does not say."""
        found = self.infos.get(SUCCESS.name)
        return None if found is None else bool(found)


def mean_infos(episodes: Sequence[Episode]) -> dict[str, float]:
    """The means of what infos say, each over the episodes that say it; in alphabetical order."""
    names = sorted({name for episode in episodes for name in episode.infos})
    return {name: float(np.mean([e.infos[name] for e in episodes if name in e.infos])) for name in names}


def success_rate(episodes: Sequence[Episode]) -> float | None:
    """The share of successes among the episodes whose env tells; None if none does."""
    return mean_infos(episodes).get(SUCCESS.name)


class EpisodeActor:
    """Acts in several episodes at once so that none depends on which others are played beside it.

    The last bits of a matrix product depend on the number of rows and on the row's place among them, and an
    env may make a different episode of them. So every forward pass has the same number of rows, and an
    episode always has the same place.

    Args:
        policy: acts.
        seeds: of the episodes.
        deterministic: take the most likely actions; otherwise noise is drawn by a generator per episode.
        first: number of the first of the episodes, which determines its place.
    """

    def __init__(
        self, policy: ActorCritic, seeds: Sequence[int], deterministic: bool = True, first: int = 0
    ) -> None:
        self._actor = Actor(policy)
        self._first = first
        self._rows = _IMAGE_ROWS if _is_convolutional(policy) else _ROWS
        self._rngs = None if deterministic else [generator(seed, Stream.NOISE) for seed in seeds]

    def act(self, episodes: Ids, obs: Array) -> Array:
        """Env actions [G, *A].

        Args:
            episodes: i64[G], ascending, counted from 0 for the first of `seeds`.
            obs: [G, *O].

        Raises:
            NonFiniteError: actions are not finite.
        """
        noise = self._noise(episodes)
        numbers = self._first + episodes
        cuts = np.flatnonzero(np.diff(numbers // self._rows)) + 1
        parts = [
            self._act(numbers[part] % self._rows, obs[part], None if noise is None else noise[part])
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
        """Actions for a few observations, each in its place of a full batch."""
        source = np.zeros(self._rows, np.intp)  # free places hold a copy of the first: any legal one will do
        source[places] = np.arange(len(places))
        actions = self._actor.act(obs[source], None if noise is None else noise[source])
        return actions[places]


def _is_convolutional(policy: ActorCritic) -> bool:
    return any(isinstance(module, torch.nn.Conv2d) for module in policy.modules())


def evaluate(
    policy: ActorCritic,
    pool: EnvPool,
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    max_episode_steps: int | None = None,
) -> list[Episode]:
    """Play one whole episode per seed; the outcome depends on policy and seed alone, not on the pool.

    Nothing about the policy changes: running statistics are used as they are.

    Args:
        policy: plays.
        pool: N envs with no command open. Several pools give the same episodes.
        seeds: [E], any number; N episodes are played at a time.
        deterministic: take the most likely actions instead of drawing them.
        max_episode_steps: episodes are cut after this number of steps, with a warning; None never cuts. For
            envs without a time limit.

    Returns:
        E episodes in the order of the seeds, without those that were lost because their env failed or their
        worker could not bring them back; a warning says how many.

    Raises:
        WorkerError: a worker died, hung or reported a failed env, or no episode is left.
        NonFiniteError: the policy's actions are not finite.
    """
    played = iterate_episodes(
        policy, pool, seeds, deterministic=deterministic, max_episode_steps=max_episode_steps
    )
    episodes = list(played)
    if len(seeds) and not episodes:
        raise WorkerError(
            "lost all episodes of an evaluation: the env fails in each of them",
            worker=0,
            env_ids=range(pool.num_envs),
        )
    return episodes


def iterate_episodes(
    policy: ActorCritic,
    pool: EnvPool,
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    max_episode_steps: int | None = None,
) -> Iterator[Episode]:
    """The episodes of `evaluate`, as soon as the pool has played them (N at a time)."""
    for first in range(0, len(seeds), pool.num_envs):
        batch = seeds[first : first + pool.num_envs]
        with _frozen(policy):
            actor = EpisodeActor(policy, batch, deterministic, first)
            episodes, cut = _play_batch(pool, actor, batch, max_episode_steps)
        if len(episodes) < len(batch):
            warnings.warn(
                f"{len(batch) - len(episodes)} of {len(batch)} episodes are lost, since their env failed, "
                "and left out of the evaluation",
                stacklevel=3,
            )
        if cut:
            warnings.warn(
                f"{cut} of {len(batch)} episodes did not end within {max_episode_steps:,} steps "
                "and were cut; max_episode_steps sets another limit",
                stacklevel=3,
            )
        yield from episodes


def _play_batch(
    pool: EnvPool, actor: EpisodeActor, seeds: Sequence[int], max_episode_steps: int | None
) -> tuple[list[Episode], int]:
    """One episode in each of the first len(seeds) envs, and how many were cut. Finished envs drop out.

    Episodes that are lost are left out: what was played of them says nothing about the policy.
    """
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    lost = np.zeros(len(seeds), np.bool_)
    infos: list[dict[str, float]] = [{} for _ in seeds]
    env_ids: Ids = np.arange(len(seeds))
    given = GivenActions()
    pool.reset(env_ids, seeds)
    obs = pool.recv().obs
    while len(env_ids):
        if lengths[env_ids[0]] == max_episode_steps:  # all that still play have made the same number of steps
            break
        actions = actor.act(env_ids, obs)
        pool.send(env_ids, actions)
        with given.told(env_ids, actions):
            batch = pool.recv()
        returns[env_ids] += batch.reward
        lengths[env_ids] += 1
        lost[env_ids] |= batch.lost
        if batch.final_info is not None:
            for env, row in zip(env_ids[batch.ended].tolist(), batch.final_info, strict=True):
                infos[env] = said(pool.info_columns, row)
        active = ~batch.ended
        env_ids, obs = env_ids[active], batch.obs[active]
    episodes = [Episode(*found) for found in zip(returns.tolist(), lengths.tolist(), infos, strict=True)]
    return [episode for episode, gone in zip(episodes, lost, strict=True) if not gone], len(env_ids)


@contextlib.contextmanager
def _frozen(policy: ActorCritic) -> Iterator[None]:
    """Modules of a custom encoder may learn or draw while they train (batch norm, dropout)."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
