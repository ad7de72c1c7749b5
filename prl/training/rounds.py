"""What a round is: whole episodes, or a fixed number of steps. Which env continues, with which seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from workers.pool import EnvPool, StepBatch
from workers.replay import ActionLog, replay
from workers.seeding import episode_seed

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class EpisodeTracker:
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
        # Sorting is stable: an env's own episodes stay in the order of time.
        episodes = sorted(self._finished, key=lambda episode: episode[0])
        self._finished = []
        return np.array([e[1] for e in episodes]), np.array([e[2] for e in episodes], np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Which episodes were started, and how far the running ones are."""
        return {
            "started": self.started.tolist(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }

    def running_seeds(self) -> Ids:
        """The seeds i64[N] of the episodes that were started last."""
        episodes = enumerate((self.started - 1).tolist())
        return np.array([episode_seed(self.seed, env, episode) for env, episode in episodes], np.int64)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.started = np.array(state["started"], np.int64)
        self.returns = np.array(state["returns"])
        self.lengths = np.array(state["lengths"], np.int64)
        self._derive(np.arange(self.num_envs))


class RoundKind(Protocol):
    """One kind of round."""

    tracker: EpisodeTracker

    def begin(self, pool: EnvPool, groups: Sequence[Ids]) -> Iterator[tuple[Ids, Array]]:
        """What each group acts on first: env ids i64[G] and observations [G, *O]."""

    def send(self, pool: EnvPool, env_ids: Ids, env_actions: Array) -> None:
        """Give the pool one step to do."""

    def after_step(self, batch: StepBatch, ended: Flags) -> tuple[Flags, Array]:
        """After a step: which envs are done with the round, bool[G], and what the others act on next."""

    def state_dict(self) -> dict[str, Any]:
        """What the next round depends on, the state of envs included."""

    def load_state_dict(self, state: dict[str, Any], pool: EnvPool) -> None:
        """The inverse of `state_dict`; the envs of the pool, with no command open, are brought back.

        Raises:
            ReplayError: an env is not a function of its seed and its actions.
        """


class WholeEpisodes:
    """Every env plays one whole episode; envs that have finished leave the batch. Implements `RoundKind`."""

    def __init__(self, tracker: EpisodeTracker) -> None:
        self.tracker = tracker

    def begin(self, pool: EnvPool, groups: Sequence[Ids]) -> Iterator[tuple[Ids, Array]]:
        """See `RoundKind`."""
        yield from _start_all(pool, self.tracker, groups)

    def send(self, pool: EnvPool, env_ids: Ids, env_actions: Array) -> None:
        """See `RoundKind`."""
        pool.send(env_ids, env_actions)

    def after_step(self, batch: StepBatch, ended: Flags) -> tuple[Flags, Array]:
        """See `RoundKind`."""
        return ended, batch.obs

    def state_dict(self) -> dict[str, Any]:
        """See `RoundKind`. No env is in mid-episode between two rounds."""
        return {"tracker": self.tracker.state_dict()}

    def load_state_dict(self, state: dict[str, Any], pool: EnvPool) -> None:
        """See `RoundKind`."""
        self.tracker.load_state_dict(state["tracker"])


def _start_all(pool: EnvPool, tracker: EpisodeTracker, groups: Sequence[Ids]) -> Iterator[tuple[Ids, Array]]:
    """Start an episode in every env; the first observations, group after group."""
    for ids in groups:
        pool.reset(ids, tracker.start(ids))
    for _ in groups:
        batch = pool.recv()
        yield batch.env_ids, batch.obs


class FixedSteps:
    """Every env plays `num_steps` steps; ended episodes are followed by the next ones at once. A `RoundKind`.

    Args:
        tracker: of the envs' episodes.
        num_steps: per env and round.
    """

    def __init__(self, tracker: EpisodeTracker, num_steps: int) -> None:
        self.tracker = tracker
        self.num_steps = num_steps
        self._played = np.zeros(tracker.num_envs, np.int64)
        self._obs: Array | None = None
        self._log = ActionLog(tracker.num_envs)

    def begin(self, pool: EnvPool, groups: Sequence[Ids]) -> Iterator[tuple[Ids, Array]]:
        """See `RoundKind`."""
        self._played[:] = 0
        self._log.trim()
        if self._obs is not None:
            for ids in groups:
                yield ids, self._obs[ids]
            return
        yield from _start_all(pool, self.tracker, groups)

    def send(self, pool: EnvPool, env_ids: Ids, env_actions: Array) -> None:
        """See `RoundKind`."""
        self._log.add(env_ids, env_actions)
        pool.send(env_ids, env_actions, self.tracker.next_seeds[env_ids])

    def after_step(self, batch: StepBatch, ended: Flags) -> tuple[Flags, Array]:
        """See `RoundKind`."""
        ids = batch.env_ids
        obs = batch.obs if batch.next_obs is None else batch.next_obs
        if self._obs is None:
            self._obs = np.zeros((self.tracker.num_envs, *obs.shape[1:]), obs.dtype)
        self._obs[ids] = obs
        if ended.any():
            self.tracker.start(ids[ended])  # the pool has reset them with just these seeds
            self._log.restart(ids[ended])
        self._played[ids] += 1
        return self._played[ids] == self.num_steps, obs

    def state_dict(self) -> dict[str, Any]:
        """See `RoundKind`. Of each env, in mid-episode: its actions since the reset, and what it shows."""
        return {
            "tracker": self.tracker.state_dict(),
            "actions": [torch.as_tensor(np.stack(env)) if env else None for env in self._log.of_envs()],
            "obs": None if self._obs is None else torch.as_tensor(self._obs.copy()),
        }

    def load_state_dict(self, state: dict[str, Any], pool: EnvPool) -> None:
        """See `RoundKind`."""
        self.tracker.load_state_dict(state["tracker"])
        actions = [[] if env is None else list(env.numpy()) for env in state["actions"]]
        self._log.load(actions)
        self._obs = None if state["obs"] is None else state["obs"].numpy().copy()
        if self._obs is not None:  # before the first round there is nothing to bring back
            replay(pool, self.tracker.running_seeds(), actions, self._obs)
