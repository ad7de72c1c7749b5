"""Evaluation of the policy at regular intervals while it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from learner.policy import ActorCritic
from prl.run.sinks import Sink
from prl.training.evaluate import Episode, evaluate, mean_infos
from prl.training.failures import add_calls
from workers.env_call import EnvCall
from workers.errors import WorkerError
from workers.pool import ChangeablePool
from workers.seeding import episode_seed, evaluation_seed

NO_EVALUATION: dict[str, Any] = {"eval_mean_return": None, "best_mean_return": None, "best_timesteps": None}
"""What the summary of a run without evaluations says about them."""


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        timesteps: env steps of training before it.
        episodes: at least one, in the order of their seeds.
    """

    timesteps: int
    episodes: tuple[Episode, ...]

    @property
    def mean_return(self) -> float:
        """The mean of the episodes' undiscounted returns."""
        return float(np.mean(self._returns))

    @property
    def std_return(self) -> float:
        """The standard deviation of the episodes' returns themselves (divided by E, not by E - 1)."""
        return float(np.std(self._returns))

    @property
    def mean_length(self) -> float:
        """The mean length of the episodes, in steps."""
        return float(np.mean([episode.length for episode in self.episodes]))

    @property
    def _returns(self) -> list[float]:
        return [episode.episode_return for episode in self.episodes]

    def as_numbers(self) -> dict[str, Any]:
        """As JSON can hold it."""
        episodes = [[one.episode_return, one.length, dict(one.infos)] for one in self.episodes]
        return {"timesteps": self.timesteps, "episodes": episodes}

    @classmethod
    def of_numbers(cls, numbers: Mapping[str, Any]) -> Evaluation:
        """The inverse of `as_numbers`.

        Raises:
            KeyError, TypeError, ValueError: they are something else.
        """
        episodes = [Episode(*fields) for fields in numbers["episodes"]]
        evaluation = cls(int(numbers["timesteps"]), tuple(episodes))
        if not episodes or not all(map(math.isfinite, evaluation.metrics().values())):
            raise ValueError("an evaluation has at least one episode, and finite returns")
        return evaluation

    def metrics(self) -> dict[str, float]:
        """For sinks, under the names of Stable-Baselines3."""
        return {
            "eval/timesteps": float(self.timesteps),
            "eval/mean_reward": self.mean_return,
            "eval/std_reward": self.std_return,
            "eval/min_reward": min(self._returns),
            "eval/max_reward": max(self._returns),
            "eval/mean_ep_length": self.mean_length,
            "eval/episodes": float(len(self.episodes)),
            **{f"eval/{name}": mean for name, mean in mean_infos(self.episodes).items()},
        }


@dataclass(frozen=True)
class EvaluationsSoFar:
    """What the coming evaluations of a run depend on.

    Attributes:
        timesteps: env steps of the run at its last update.
        best: the best evaluation so far.
        last: the last evaluation.
    """

    timesteps: int = 0
    best: Evaluation | None = None
    last: Evaluation | None = None

    def as_numbers(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "timesteps": self.timesteps,
            "best": None if self.best is None else self.best.as_numbers(),
            "last": None if self.last is None else self.last.as_numbers(),
        }

    @classmethod
    def of_numbers(cls, numbers: Mapping[str, Any]) -> EvaluationsSoFar:
        """The inverse of `as_numbers`.

        Raises:
            KeyError, TypeError, ValueError: they are something else.
        """
        best, last = (
            None if numbers[name] is None else Evaluation.of_numbers(numbers[name])
            for name in ("best", "last")
        )
        return cls(int(numbers["timesteps"]), best, last)


NOTHING_SO_FAR = EvaluationsSoFar()


@dataclass(frozen=True)
class EvaluationSchedule:
    """When a run evaluates its policy, and where.

    Attributes:
        pool: of envs that training does not use.
        freq: env steps of training from one evaluation to the next.
        episodes: of each evaluation.
        max_episode_steps: episodes are cut after this number of steps, with a warning; None never cuts.
    """

    pool: ChangeablePool
    freq: int
    episodes: int
    max_episode_steps: int | None = None


class PeriodicEvaluation:
    """Evaluates after the first update at or beyond each multiple of `freq` steps, and at the end of the run.

    It stands outside the training loop and changes nothing about the training. The episodes have the same
    seeds in every evaluation, and training has others.

    Args:
        policy: under training; plays deterministically and is not changed.
        schedule: when and where.
        total_timesteps: of the run.
        seed: of the run.
        sinks: get the metrics of every evaluation; they are closed by their owner.
        on_best: called with each evaluation whose mean return is higher than all before, after the sinks.
        so_far: what a run has evaluated that this one continues.
        env_calls: those that the envs are to have had, from the first on.

    Attributes:
        best: the best evaluation so far; of equal ones the earliest.
        last: the last evaluation.
    """

    def __init__(
        self,
        policy: ActorCritic,
        schedule: EvaluationSchedule,
        *,
        total_timesteps: int,
        seed: int,
        sinks: Sequence[Sink] = (),
        on_best: Callable[[Evaluation], None] = lambda evaluation: None,
        so_far: EvaluationsSoFar = NOTHING_SO_FAR,
        env_calls: Callable[[], Sequence[EnvCall]] = list,
    ) -> None:
        self._policy = policy
        self._schedule = schedule
        self._total_timesteps = total_timesteps
        self._seeds = evaluation_seeds(seed, schedule.episodes)
        self._sinks = tuple(sinks)
        self._on_best = on_best
        self._env_calls = env_calls
        self._timesteps = so_far.timesteps
        self.best = so_far.best
        self.last = so_far.last

    def after_update(self, timesteps: int) -> None:
        """Evaluate if it is time to.

        Args:
            timesteps: env steps since the run began.

        Raises:
            WorkerError, NonFiniteError: see `evaluate`.
            EnvCallError: a call that comes before it failed.
        """
        freq = self._schedule.freq
        is_due = timesteps // freq > self._timesteps // freq or timesteps >= self._total_timesteps
        self._timesteps = timesteps
        if is_due:
            self._record(self._evaluate(timesteps))

    def _evaluate(self, timesteps: int) -> Evaluation:
        schedule, calls = self._schedule, self._env_calls()
        try:
            if calls:
                schedule.pool.env_calls.carry_out(np.arange(schedule.pool.num_envs), calls)
            episodes = evaluate(
                self._policy, schedule.pool, self._seeds, max_episode_steps=schedule.max_episode_steps
            )
        except WorkerError as error:
            add_calls(error, schedule.pool)
            error.args = (f"in the evaluation, {error}",)  # its env and episode numbers are not training's
            raise
        return Evaluation(timesteps, tuple(episodes))

    def _record(self, evaluation: Evaluation) -> None:
        improved = self.best is None or evaluation.mean_return > self.best.mean_return
        self.last = evaluation
        metrics = MappingProxyType(evaluation.metrics())
        for sink in self._sinks:
            sink.write(evaluation.timesteps, metrics)
        if improved:
            self.best = evaluation
            self._on_best(evaluation)

    @property
    def so_far(self) -> EvaluationsSoFar:
        """What a run that continues this one begins with."""
        return EvaluationsSoFar(self._timesteps, self.best, self.last)

    def summary(self) -> dict[str, Any]:
        """What the run's summary says about its evaluations."""
        if self.last is None or self.best is None:
            return NO_EVALUATION
        return {
            "eval_mean_return": round(self.last.mean_return, 4),
            "best_mean_return": round(self.best.mean_return, 4),
            "best_timesteps": self.best.timesteps,
        }


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes of every evaluation in a run with this seed: a stream apart from training's."""
    root = evaluation_seed(seed)
    return [episode_seed(root, 0, episode) for episode in range(episodes)]
