"""What a round is: whole episodes, or a fixed number of steps. Which env plays on, with which seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workers.protocol import EnvPool, StepBatch
from workers.seeding import episode_seed

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Receive = Callable[[], StepBatch]


class Ledger:
    """Episodes of N envs: seeds of the coming ones, returns and lengths of the running and finished ones.

    Args:
        num_envs: N.
        seed: of the run; episode k of env i has `episode_seed(seed, i, k)`.
        first_episode: k of every env's first episode.
    """

    def __init__(self, num_envs: int, seed: int, first_episode: int = 0) -> None:
        self.num_envs = num_envs
        self.seed = seed
        self.started = np.full(num_envs, first_episode, np.int64)
        self.next_seeds = np.zeros(num_envs, np.int64)
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)
        self._finished: list[tuple[int, float, int]] = []
        self._derive(np.arange(num_envs))

    def _derive(self, env_ids: Ids) -> None:
        # Kept, because deriving the seeds of all envs would cost more than a step does.
        for env in env_ids.tolist():
            self.next_seeds[env] = episode_seed(self.seed, env, int(self.started[env]))

    def start(self, env_ids: Ids) -> Ids:
        """The next episode of each env begins; its seeds i64[G]."""
        seeds = self.next_seeds[env_ids]
        self.started[env_ids] += 1
        self.returns[env_ids] = 0.0
        self.lengths[env_ids] = 0
        self._derive(env_ids)
        return seeds

    def count(self, batch: StepBatch, ended: Flags) -> None:
        """One step of each env of the batch."""
        ids = batch.env_ids
        self.returns[ids] += batch.reward
        self.lengths[ids] += 1
        for env in ids[ended].tolist():
            self._finished.append((env, float(self.returns[env]), int(self.lengths[env])))

    def take_finished(self) -> tuple[npt.NDArray[np.float64], Ids]:
        """Returns f64[E] and lengths i64[E] of the episodes ended since the last call, env by env."""
        episodes = sorted(
            self._finished, key=lambda episode: episode[0]
        )  # stable: an env's own in time's order
        self._finished = []
        return np.array([e[1] for e in episodes]), np.array([e[2] for e in episodes], np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Which episodes were started. Running returns are those of envs, and not in here."""
        return {"started": self.started.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.started = np.array(state["started"], np.int64)
        self._derive(np.arange(self.num_envs))


class Rounds(Protocol):
    """One kind of round."""

    ledger: Ledger

    def begin(self, pool: EnvPool, groups: Sequence[Ids], receive: Receive) -> Iterator[tuple[Ids, Array]]:
        """What each group acts on first: env ids i64[G] and observations [G, *O]."""

    def send(self, pool: EnvPool, env_ids: Ids, env_actions: Array) -> None:
        """Give the pool one step to do."""

    def settle(self, batch: StepBatch, ended: Flags) -> tuple[Flags, Array]:
        """After a step: which envs have done their part, bool[G], and what the others act on next."""


class WholeEpisodes:
    """Every env plays one whole episode; who has finished leaves the batch. Implements `Rounds`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def begin(self, pool: EnvPool, groups: Sequence[Ids], receive: Receive) -> Iterator[tuple[Ids, Array]]:
        """See `Rounds`."""
        for ids in groups:
            pool.reset(ids, self.ledger.start(ids))
        for _ in groups:
            batch = receive()
            yield batch.env_ids, batch.obs

    def send(self, pool: EnvPool, env_ids: Ids, env_actions: Array) -> None:
        """See `Rounds`."""
        pool.send(env_ids, env_actions)

    def settle(self, batch: StepBatch, ended: Flags) -> tuple[Flags, Array]:
        """See `Rounds`."""
        return ended, batch.obs


class FixedSteps:
    """Every env plays `num_steps` steps; ended episodes are followed by the next ones at once. A `Rounds`.

    Args:
        ledger: of the envs' episodes.
        num_steps: per env and round.
    """

    def __init__(self, ledger: Ledger, num_steps: int) -> None:
        self.ledger = ledger
        self.num_steps = num_steps
        self._played = np.zeros(ledger.num_envs, np.int64)
        self._obs: Array | None = None

    def begin(self, pool: EnvPool, groups: Sequence[Ids], receive: Receive) -> Iterator[tuple[Ids, Array]]:
        """See `Rounds`."""
        self._played[:] = 0
        if self._obs is not None:
            for ids in groups:
                yield ids, self._obs[ids]
            return
        for ids in groups:
            pool.reset(ids, self.ledger.start(ids))
        for _ in groups:
            batch = receive()
            yield batch.env_ids, batch.obs

    def send(self, pool: EnvPool, env_ids: Ids, env_actions: Array) -> None:
        """See `Rounds`."""
        pool.send(env_ids, env_actions, self.ledger.next_seeds[env_ids])

    def settle(self, batch: StepBatch, ended: Flags) -> tuple[Flags, Array]:
        """See `Rounds`."""
        ids = batch.env_ids
        obs = batch.obs if batch.next_obs is None else batch.next_obs
        if self._obs is None:
            self._obs = np.zeros((self.ledger.num_envs, *obs.shape[1:]), obs.dtype)
        self._obs[ids] = obs
        if ended.any():
            self.ledger.start(ids[ended])  # the pool has reset them with just these seeds
        self._played[ids] += 1
        return self._played[ids] == self.num_steps, obs
