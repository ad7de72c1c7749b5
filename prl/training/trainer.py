"""The training loop as a generator: stopping, logging and saving are laid on it from outside."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.ppo import PPOLearner
from learner.store import Store
from prl.training.collect import Group, Round, collect, split_groups
from prl.training.rounds import EpisodeTracker, FixedSteps, RoundKind, WholeEpisodes
from workers.pool import EnvPool

# Streams of randomness that are derived from the run seed; workers.seeding uses 0 for episodes. Each draw is
# a function of (seed, stream, counter), so there is no generator state that a checkpoint could forget.
_NOISE_STREAM = 1
_SHUFFLE_STREAM = 2
_WARM_UP_STREAM = 3

_WARM_UP_STEPS = 2048
_WARM_UP_EPISODE = 1 << 31  # beyond all episodes of the run itself
_RECENT_EPISODES = 100


@dataclass(frozen=True)
class Report:
    """What one iteration (rounds, then an update) came to.

    Attributes:
        iteration: counts from 1.
        timesteps: env steps since the run began.
        episodes: finished since the run began.
        returns: f64[episodes of this iteration], undiscounted, round after round in env order; there may be
            none in rounds of a fixed number of steps.
        lengths: i64[episodes of this iteration].
        mean_return: over the last 100 episodes; NaN before the first has ended.
        lost_episodes: since the run began.
        metrics: by name, e.g. "rollout/ep_rew_mean" (the names of Stable-Baselines3).
    """

    iteration: int
    timesteps: int
    episodes: int
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    mean_return: float
    lost_episodes: int
    metrics: dict[str, float]


class Trainer:
    """RoundKind and updates, for ever; the caller decides when to stop.

    Args:
        pool: N envs.
        learner: its policy plays, and is improved in place.
        batch_size: an update waits for at least so many steps.
        total_timesteps: what annealing takes for the length of the run.
        seed: of everything that is drawn during the run.
        num_groups: envs are stepped in so many groups; 2 lets the policy act while envs step. Part of
            what a seed means: another number gives other weights.
        num_steps: a round is so many steps of every env; None makes it one whole episode of every env.

    Raises:
        ValueError: `num_groups` is not in 1..N.
    """

    def __init__(
        self,
        pool: EnvPool,
        learner: PPOLearner,
        *,
        batch_size: int,
        total_timesteps: int,
        seed: int,
        num_groups: int = 1,
        num_steps: int | None = None,
    ) -> None:
        if not 1 <= num_groups <= pool.num_envs:
            raise ValueError(f"num_groups must lie in 1..{pool.num_envs} (num_envs), got {num_groups}")
        self.pool = pool
        self.learner = learner
        self.batch_size = batch_size
        self.total_timesteps = total_timesteps
        self.seed = seed
        self._num_steps = num_steps
        self._groups = split_groups(pool.num_envs, num_groups)
        policy = learner.policy
        self._store = Store(policy.observation_space, policy.head.action_space, pool.num_envs)
        tracker = EpisodeTracker(pool.num_envs, seed)
        self._rounds: RoundKind = (
            WholeEpisodes(tracker) if num_steps is None else FixedSteps(tracker, num_steps)
        )
        self._iteration = 0
        self._round = 0
        self._episodes = 0
        self._timesteps = 0
        self._lost = 0
        self._recent_returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._recent_lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)

    def iterations(self) -> Iterator[Report]:
        """One report per update."""
        start, start_steps = time.perf_counter(), self._timesteps
        if self._iteration == 0 and self.learner.policy.normalizes:
            self._warm_up()
        while True:
            began = time.perf_counter()
            self._store.clear()
            rounds: list[Round] = []
            while len(self._store) < self.batch_size:
                rounds.append(self._play_round())
            played = time.perf_counter()
            losses = self.learner.update(
                self._store.rollout(), self._rng(_SHUFFLE_STREAM, self._iteration), self._progress()
            )
            self._iteration += 1
            done = time.perf_counter()
            times = {
                "time/fps": (self._timesteps - start_steps) / (done - start),
                "time/iteration_fps": len(self._store) / (done - began),
                "time/env_wait_share": sum(r.wait_seconds for r in rounds) / (done - began),
                "time/update_share": (done - played) / (done - began),
            }
            yield self._report(rounds, times, losses)
            start += time.perf_counter() - done  # what the caller does meanwhile is not training

    def _warm_up(self) -> None:
        """First statistics of observations, from steps of the untrained policy that are not learnt from."""
        num_envs = self.pool.num_envs
        wanted = min(_WARM_UP_STEPS, self.total_timesteps // 10)
        per_env = max(1, -(-wanted // num_envs))
        steps = FixedSteps(EpisodeTracker(num_envs, self.seed, _WARM_UP_EPISODE), per_env)
        groups = [Group(ids, self._rng(_WARM_UP_STREAM, group)) for group, ids in enumerate(self._groups)]
        self._store.clear()
        played = collect(self.pool, self.learner.policy, self._store, steps, groups)
        self.learner.policy.update_statistics(self._store.rollout().obs)
        self._timesteps += played.steps

    def _play_round(self) -> Round:
        groups = [
            Group(ids, self._rng(_NOISE_STREAM, self._round, group)) for group, ids in enumerate(self._groups)
        ]
        played = collect(self.pool, self.learner.policy, self._store, self._rounds, groups)
        self._round += 1
        self._episodes += len(played.returns)
        self._timesteps += played.steps
        self._lost += played.lost
        self._recent_returns.extend(played.returns.tolist())
        self._recent_lengths.extend(played.lengths.tolist())
        return played

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))

    def _progress(self) -> float:
        """The share of the run that lay behind this iteration when it began."""
        return min(1.0, (self._timesteps - len(self._store)) / self.total_timesteps)

    def _report(self, rounds: list[Round], times: dict[str, float], losses: dict[str, float]) -> Report:
        mean_return = _mean(self._recent_returns)
        steps = sum(r.steps for r in rounds)
        capacity = sum(r.longest for r in rounds) * self.pool.num_envs
        metrics = {
            "rollout/ep_rew_mean": mean_return,
            "rollout/ep_len_mean": _mean(self._recent_lengths),
            "rollout/iteration_rew_mean": _mean(np.concatenate([r.returns for r in rounds])),
            "rollout/occupancy": steps / capacity,
            "time/iterations": float(self._iteration),
            "time/total_timesteps": float(self._timesteps),
            **times,
            **{f"train/{name}": value for name, value in losses.items()},
        }
        return Report(
            iteration=self._iteration,
            timesteps=self._timesteps,
            episodes=self._episodes,
            returns=np.concatenate([r.returns for r in rounds]),
            lengths=np.concatenate([r.lengths for r in rounds]),
            mean_return=mean_return,
            lost_episodes=self._lost,
            metrics=metrics,
        )

    def _kind(self) -> dict[str, Any]:
        """What has to be the same in a trainer that goes on from a state of this one."""
        return {
            "num_envs": self.pool.num_envs,
            "num_groups": len(self._groups),
            "num_steps": self._num_steps,
            "seed": self.seed,
            "exploration": type(self.learner.exploration).__name__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, the state of envs included.

        It stays as it is while training goes on.
        """
        return {
            "kind": self._kind(),
            "learner": self.learner.state_dict(),
            "iteration": self._iteration,
            "round": self._round,
            "episodes": self._episodes,
            "rounds": self._rounds.state_dict(),
            "timesteps": self._timesteps,
            "lost": self._lost,
            "recent_returns": list(self._recent_returns),
            "recent_lengths": list(self._recent_lengths),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, which it leaves as it is.

        Raises:
            ValueError: the state is that of a trainer of another kind; nothing has changed.
        """
        other, own = state["kind"], self._kind()
        differences = [f"{name} {other[name]}, not {own[name]}" for name in own if other[name] != own[name]]
        if differences:
            raise ValueError(f"the state is of a trainer with {'; '.join(differences)}")
        self.learner.load_state_dict(state["learner"])
        self._iteration = state["iteration"]
        self._round = state["round"]
        self._episodes = state["episodes"]
        self._rounds.load_state_dict(state["rounds"])
        self._timesteps = state["timesteps"]
        self._lost = state["lost"]
        self._recent_returns = deque(state["recent_returns"], _RECENT_EPISODES)
        self._recent_lengths = deque(state["recent_lengths"], _RECENT_EPISODES)


def _mean(numbers: Iterable[float]) -> float:
    """NaN if there are none."""
    values = np.fromiter(numbers, np.float64)
    return float(values.mean()) if len(values) else float("nan")
