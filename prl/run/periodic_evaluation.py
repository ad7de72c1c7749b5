"""Evaluation of the present policy from time to time while it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from learner.policy import ActorCritic
from prl.run.run_folder import RunFolder
from prl.run.sinks import Sink
from prl.training.evaluate import Episode, evaluate
from prl.training.trainer import Report
from workers.errors import WorkerError
from workers.pool import EnvPool
from workers.seeding import episode_seed

_STREAM = 4  # of the run's seed; the trainer uses 1 to 3, and 0 is that of training's episodes

NO_EVALUATION: dict[str, Any] = {"eval_mean_return": None, "best_mean_return": None, "best_timesteps": None}
"""What the summary of a run says that has no evaluation."""


class PeriodicEvaluation:
    """Evaluates after the first update at or beyond each multiple of `freq` steps, and at the end of the run.

    A sink of the trainer's reports, so the trainer knows nothing of it. The episodes have the same seeds in
    every evaluation, and training has others. Where the results go is up to `sinks` and `best_sinks`: they
    get the trainer's report with the evaluation's metrics in place of its own.

    Args:
        policy: under training; plays deterministically and is not changed.
        pool: of envs that are not those of training.
        freq: env steps.
        episodes: of an evaluation.
        total_timesteps: of the run.
        seed: of the run.

    Attributes:
        sinks: get every evaluation.
        best_sinks: get those whose mean return is higher than all before.
        best: the report of the best evaluation so far; of equals the earliest.
        last: the report of the last evaluation.
    """

    def __init__(
        self,
        policy: ActorCritic,
        pool: EnvPool,
        *,
        freq: int,
        episodes: int,
        total_timesteps: int,
        seed: int,
    ) -> None:
        self._policy = policy
        self._pool = pool
        self._freq = freq
        self._total_timesteps = total_timesteps
        self._seeds = evaluation_seeds(seed, episodes)
        self._timesteps = 0
        self.sinks: list[Sink] = []
        self.best_sinks: list[Sink] = []
        self.best: Report | None = None
        self.last: Report | None = None

    def write(self, report: Report) -> None:
        """See `Sink`.

        Raises:
            WorkerError, NonFiniteError: see `evaluate`.
        """
        passed = report.timesteps // self._freq > self._timesteps // self._freq
        self._timesteps = report.timesteps
        if not passed and report.timesteps < self._total_timesteps:
            return
        try:
            episodes = evaluate(self._policy, self._pool, self._seeds)
        except WorkerError as error:
            error.args = (f"in the evaluation, {error}",)  # its env and episode numbers are not training's
            raise
        found = dataclasses.replace(report, metrics=summarize(episodes, report.timesteps))
        improved = self.best is None or _mean_return(found) > _mean_return(self.best)
        self.last = found
        self.best = found if improved else self.best
        for sink in [*self.sinks, *(self.best_sinks if improved else [])]:
            sink.write(found)

    def close(self) -> None:
        """See `Sink`."""
        for sink in [*self.sinks, *self.best_sinks]:
            sink.close()

    def summary(self) -> dict[str, Any]:
        """What the run's summary says of its evaluations."""
        if self.last is None or self.best is None:
            return NO_EVALUATION
        return {
            "eval_mean_return": round(_mean_return(self.last), 4),
            "best_mean_return": round(_mean_return(self.best), 4),
            "best_timesteps": self.best.timesteps,
        }


class BestSink:
    """Keeps the present policy as the best of its run: a sink for evaluations better than all before.

    Args:
        folder: of the run.
        policy: under training.
    """

    def __init__(self, folder: RunFolder, policy: ActorCritic) -> None:
        self._folder = folder
        self._policy = policy

    def write(self, report: Report) -> None:
        """See `Sink`."""
        found = {
            "timesteps": report.timesteps,
            "mean_return": report.metrics["eval/mean_reward"],
            "std_return": report.metrics["eval/std_reward"],
        }
        self._folder.save_best(self._policy, found)

    def close(self) -> None:
        """See `Sink`."""


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes of every evaluation in a run with this seed: a stream apart from training's."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
    own = int(sequence.generate_state(1, np.uint64)[0])
    return [episode_seed(own, 0, episode) for episode in range(episodes)]


def summarize(episodes: Sequence[Episode], timesteps: int) -> dict[str, float]:
    """Metrics of an evaluation after so many steps of training, under the names of Stable-Baselines3.

    `eval/std_reward` is that of the episodes' returns themselves (not of an estimate: divided by E).
    """
    returns = np.array([episode.episode_return for episode in episodes])
    return {
        "eval/timesteps": float(timesteps),
        "eval/mean_reward": float(returns.mean()),
        "eval/std_reward": float(returns.std()),
        "eval/min_reward": float(returns.min()),
        "eval/max_reward": float(returns.max()),
        "eval/mean_ep_length": float(np.mean([episode.length for episode in episodes])),
        "eval/episodes": float(len(episodes)),
    }


def _mean_return(report: Report) -> float:
    return report.metrics["eval/mean_reward"]
