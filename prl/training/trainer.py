"""The training loop as a generator: stopping, logging and saving are up to its user."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.store import Rollout, Store
from prl.training.collect import Group, Round, collect, split_groups
from prl.training.rounds import EpisodeTracker, FixedSteps, RoundKind, WholeEpisodes
from prl.training.timed_pool import TimedPool
from workers.pool import EnvPool
from workers.seeding import Stream, generator

_WARM_UP_STEPS = 2048
_WARM_UP_EPISODE = 1 << 31  # beyond all episodes of the run itself
_RECENT_EPISODES = 100


@dataclass(frozen=True)
class Report:
    """The outcome of one iteration: rounds, then an update.

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


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        iteration: updates so far.
        round: rounds so far.
        episodes: finished so far.
        timesteps: env steps so far.
        lost_episodes: so far.
        recent_returns, recent_lengths: of the last 100 episodes.
    """

    iteration: int = 0
    round: int = 0
    episodes: int = 0
    timesteps: int = 0
    lost_episodes: int = 0
    recent_returns: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_EPISODES))
    recent_lengths: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT_EPISODES))

    def count(self, played: Round) -> None:
        """One more round."""
        self.round += 1
        self.episodes += len(played.returns)
        self.timesteps += played.steps
        self.lost_episodes += played.lost
        self.recent_returns.extend(played.returns.tolist())
        self.recent_lengths.extend(played.lengths.tolist())

    def state_dict(self) -> dict[str, Any]:
        """All fields, as numbers and lists of numbers."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: list(v) if isinstance(v, deque) else v for name, v in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for item in fields(self):
            value = state[item.name]
            setattr(self, item.name, deque(value, _RECENT_EPISODES) if isinstance(value, list) else value)


@dataclass(frozen=True)
class Collected:
    """What an update learns from.

    Attributes:
        rollout: S steps.
        acting_policy: has played them.
        rounds: in which they were played.
        timesteps_before: env steps of the run before the first of them.
        seconds: that playing took.
        wait_seconds: of these, waiting for envs.
    """

    rollout: Rollout
    acting_policy: ActorCritic
    rounds: list[Round]
    timesteps_before: int
    seconds: float
    wait_seconds: float


class Trainer:
    """Rounds and updates without end; the caller decides when to stop.

    Args:
        pool: N envs.
        learner: its policy plays, and is improved in place.
        batch_size: steps that an update waits for, at least.
        total_timesteps: length of the run, for annealing.
        seed: of everything that is drawn during the run.
        num_groups: in which envs are stepped; 2 lets the policy act while envs step. Part of what a seed
            means: another number gives other weights.
        num_steps: of every env in a round; None makes a round one whole episode of every env.

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
        self.pool = TimedPool(pool)
        self.learner = learner
        self.batch_size = batch_size
        self.total_timesteps = total_timesteps
        self.seed = seed
        self._num_steps = num_steps
        self._groups = split_groups(pool.num_envs, num_groups)
        policy = learner.policy
        self._store = Store(policy.observation_space, policy.head.action_space, pool.num_envs)
        self._rounds = _round_kind(EpisodeTracker(pool.num_envs, seed), num_steps)
        self._progress = Progress()
        self._stopwatch = _Stopwatch(0)

    def iterations(self) -> Iterator[Report]:
        """One report per update: collect with the present weights, then learn from what was collected.

        Nothing is running at the `yield`: the policy is that of the report. Other schedules are other
        generators over `collect` and `learn`.
        """
        self._stopwatch = _Stopwatch(self._progress.timesteps)
        self._warm_up()
        while True:
            report = self.learn(self.collect(self.learner.policy))
            self._stopwatch.pause()
            yield report
            self._stopwatch.resume()

    def collect(self, policy: ActorCritic) -> Collected:
        """Play as many rounds as a batch needs.

        Args:
            policy: acts; the learner's own, or a copy whose weights may be older.
        """
        began, waited, before = time.perf_counter(), self.pool.wait_seconds, self._progress.timesteps
        self._store.clear()
        rounds: list[Round] = []
        while len(self._store) < self.batch_size:
            rounds.append(self._play_round(policy))
        return Collected(
            rollout=self._store.rollout(),
            acting_policy=policy,
            rounds=rounds,
            timesteps_before=before,
            seconds=time.perf_counter() - began,
            wait_seconds=self.pool.wait_seconds - waited,
        )

    def learn(self, collected: Collected) -> Report:
        """One update, and the report of the iteration that ends with it."""
        began = time.perf_counter()
        share_done = min(1.0, collected.timesteps_before / self.total_timesteps)
        rng = generator(self.seed, Stream.SHUFFLE, self._progress.iteration)
        losses = self.learner.update(collected.rollout, rng, share_done, collected.acting_policy)
        self._progress.iteration += 1
        update_seconds = time.perf_counter() - began
        seconds = collected.seconds + update_seconds
        times = {
            "time/fps": self._stopwatch.steps_per_second(self._progress.timesteps),
            "time/iteration_fps": len(collected.rollout) / seconds,
            "time/env_wait_share": collected.wait_seconds / seconds,
            "time/update_share": update_seconds / seconds,
        }
        return self._report(collected.rounds, times, losses)

    def _warm_up(self) -> None:
        """First statistics of observations, from steps of the untrained policy that are not learnt from."""
        policy = self.learner.policy
        if self._progress.iteration > 0 or not policy.normalizes:
            return
        num_envs = self.pool.num_envs
        wanted = min(_WARM_UP_STEPS, self.total_timesteps // 10)
        per_env = max(1, -(-wanted // num_envs))
        steps = FixedSteps(EpisodeTracker(num_envs, self.seed, _WARM_UP_EPISODE), per_env)
        self._store.clear()
        played = collect(self.pool, policy, self._store, steps, self._noisy_groups(Stream.WARM_UP))
        policy.update_statistics(self._store.rollout().obs)
        self._progress.timesteps += played.steps

    def _play_round(self, policy: ActorCritic) -> Round:
        groups = self._noisy_groups(Stream.NOISE, self._progress.round)
        played = collect(self.pool, policy, self._store, self._rounds, groups)
        self._progress.count(played)
        return played

    def _noisy_groups(self, stream: Stream, *counters: int) -> list[Group]:
        return [
            Group(ids, generator(self.seed, stream, *counters, group))
            for group, ids in enumerate(self._groups)
        ]

    def _report(self, rounds: list[Round], times: dict[str, float], losses: dict[str, float]) -> Report:
        progress = self._progress
        mean_return = _mean(progress.recent_returns)
        steps = sum(r.steps for r in rounds)
        capacity = sum(r.longest for r in rounds) * self.pool.num_envs
        metrics = {
            "rollout/ep_rew_mean": mean_return,
            "rollout/ep_len_mean": _mean(progress.recent_lengths),
            "rollout/iteration_rew_mean": _mean(np.concatenate([r.returns for r in rounds])),
            "rollout/occupancy": steps / capacity,
            "time/iterations": float(progress.iteration),
            "time/total_timesteps": float(progress.timesteps),
            **times,
            **{f"train/{name}": value for name, value in losses.items()},
        }
        return Report(
            iteration=progress.iteration,
            timesteps=progress.timesteps,
            episodes=progress.episodes,
            returns=np.concatenate([r.returns for r in rounds]),
            lengths=np.concatenate([r.lengths for r in rounds]),
            mean_return=mean_return,
            lost_episodes=progress.lost_episodes,
            metrics=metrics,
        )

    def _signature(self) -> dict[str, Any]:
        """What has to be equal in a trainer that continues from a state of this one."""
        return {
            "num_envs": self.pool.num_envs,
            "num_groups": len(self._groups),
            "num_steps": self._num_steps,
            "seed": self.seed,
            "exploration": type(self.learner.exploration).__name__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, the state of envs included.

        Further training does not change it.
        """
        return {
            "signature": self._signature(),
            "learner": self.learner.state_dict(),
            "progress": self._progress.state_dict(),
            "rounds": self._rounds.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, which it leaves as it is.

        Raises:
            ValueError: the state is that of another kind of trainer; nothing has changed.
        """
        other, own = state["signature"], self._signature()
        differences = [f"{name} {other[name]}, not {own[name]}" for name in own if other[name] != own[name]]
        if differences:
            raise ValueError(f"the state is of a trainer with {'; '.join(differences)}")
        self.learner.load_state_dict(state["learner"])
        self._progress.load_state_dict(state["progress"])
        self._rounds.load_state_dict(state["rounds"], self.pool)


def _round_kind(tracker: EpisodeTracker, num_steps: int | None) -> RoundKind:
    return WholeEpisodes(tracker) if num_steps is None else FixedSteps(tracker, num_steps)


class _Stopwatch:
    """The time of training itself, without what the caller does between two reports."""

    def __init__(self, timesteps: int) -> None:
        self._start = time.perf_counter()
        self._paused_at = self._start
        self._start_steps = timesteps

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def resume(self) -> None:
        self._start += time.perf_counter() - self._paused_at

    def steps_per_second(self, timesteps: int) -> float:
        return (timesteps - self._start_steps) / (time.perf_counter() - self._start)


def _mean(numbers: Iterable[float]) -> float:
    """NaN if there are none."""
    values = np.fromiter(numbers, np.float64)
    return float(values.mean()) if len(values) else float("nan")
