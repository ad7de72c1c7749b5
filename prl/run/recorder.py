"""What a run leaves behind: metrics in its sinks, and at the end its weights and a summary."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import torch

from learner.policy import ActorCritic
from prl.run.files import WriteError
from prl.run.periodic_evaluation import NO_EVALUATION, Evaluation, EvaluationSchedule, PeriodicEvaluation
from prl.run.run_folder import RunFolder
from prl.run.sinks import CsvSink, FaultTolerantSink, Hold, ProgressBar, Sink, TensorBoardSink, open_sink
from prl.run.weights import weights_sha256
from prl.training.trainer import Report, Trainer


class Recorder:
    """Records the updates of a trainer: `begin`, `record` after each, and in any case `finish`.

    For the arguments see `prl.run.train.run_training`.

    Args:
        trainer: at its beginning.
        total_timesteps: of the run.
        folder: where to write; None writes nothing.
        name: of the env, for the summary.
        schedule: of evaluations; None does without.
        hold: makes the context in which something is written; see `Signals.held`.
        sinks: get all metrics.
    """

    def __init__(
        self,
        trainer: Trainer,
        total_timesteps: int,
        folder: RunFolder | None,
        name: str,
        schedule: EvaluationSchedule | None,
        hold: Hold,
        sinks: Sequence[Sink],
    ) -> None:
        self._start = time.perf_counter()
        self._trainer = trainer
        self._policy = trainer.learner.policy
        self._folder = folder
        self._name = name
        self._hold = hold
        self._last: Report | None = None
        self._weights = _snapshot(self._policy)
        self._total_timesteps = total_timesteps
        self._schedule = schedule
        self._evaluation: PeriodicEvaluation | None = None
        self._callers: list[Sink] = [FaultTolerantSink(sink, hold) for sink in sinks]
        self._sinks: list[Sink] = []
        self._evaluation_sinks: list[Sink] = []

    def begin(self) -> None:
        """Open the sinks. If that fails, `finish` closes those that are open, and the caller's."""
        self._sinks.append(FaultTolerantSink(ProgressBar(self._total_timesteps), self._hold))
        self._open_sinks(self._schedule is not None)
        if self._schedule is not None:
            self._evaluation = PeriodicEvaluation(
                self._policy,
                self._schedule,
                total_timesteps=self._total_timesteps,
                seed=self._trainer.seed,
                sinks=self._evaluation_sinks,
                on_best=self._keep_best,
            )

    def _open_sinks(self, evaluates: bool) -> None:
        # One object for both kinds of metrics: TensorBoard reads only the newest file of a folder.
        shared = list(self._callers)
        if self._folder is not None:
            path = self._folder.path
            self._sinks += open_sink(CsvSink, path / "progress.csv", self._hold)
            if evaluates:
                self._evaluation_sinks += open_sink(CsvSink, path / "evaluations.csv", self._hold)
            if TensorBoardSink.available():
                shared += open_sink(TensorBoardSink, path / "tensorboard", self._hold)
        self._sinks += shared
        self._evaluation_sinks += shared

    def record(self, report: Report) -> None:
        """Pass the metrics of an update to the sinks, and evaluate if it is time to.

        Raises:
            WorkerError, NonFiniteError: the evaluation failed.
        """
        self._last, self._weights = report, _snapshot(self._policy)
        metrics = MappingProxyType(report.metrics)
        for sink in self._sinks:
            sink.write(report.timesteps, metrics)
        if self._evaluation is not None:
            self._evaluation.after_update(report.timesteps)

    def _keep_best(self, evaluation: Evaluation) -> None:
        if self._folder is None:
            return
        about = {
            "timesteps": evaluation.timesteps,
            "mean_return": evaluation.mean_return,
            "std_return": evaluation.std_return,
        }
        try:
            with self._hold():
                self._folder.save_best(self._policy, about)
        except WriteError as error:  # the next one may fit
            warnings.warn(f"the best policy is not saved: {error}", stacklevel=2)

    def finish(self, status: str) -> dict[str, Any]:
        """Write weights and summary and close the sinks. A step that fails does not keep the others from it.

        Args:
            status: "finished", "stopped" or "failed"; an error is already on its way except after "finished".

        Returns:
            The summary.

        Raises:
            WriteError: something could not be written, and `status` is "finished"; else that is a warning.
        """
        seconds = time.perf_counter() - self._start
        self._policy.load_state_dict(self._weights)  # an update may have been cut short
        folder, errors = self._folder, list[WriteError]()
        if folder is not None:
            _try(lambda: folder.save_weights(self._policy), errors)  # first: the run was for them
        opened = (*self._sinks, *self._evaluation_sinks, *self._callers)
        for sink in {id(sink): sink for sink in opened}.values():
            sink.close()
        summary = self._summary(status, seconds)
        if folder is not None:
            _try(lambda: folder.write_summary(summary), errors)
        if errors and status == "finished":
            raise WriteError("; ".join(map(str, errors)))
        for error in errors:
            warnings.warn(str(error), stacklevel=2)
        return summary

    def _summary(self, status: str, seconds: float) -> dict[str, Any]:
        trainer, last = self._trainer, self._last
        timesteps = last.timesteps if last else 0
        mean_return = last.mean_return if last else math.nan
        return {
            "status": status,
            "env_id": self._name,
            "seed": trainer.seed,
            "timesteps": timesteps,
            "iterations": last.iteration if last else 0,
            "episodes": last.episodes if last else 0,
            "mean_return": None if math.isnan(mean_return) else round(mean_return, 4),
            "steps_per_second": round(timesteps / seconds, 1),
            "wall_seconds": round(seconds, 3),
            "num_workers": trainer.pool.num_workers,
            "num_envs": trainer.pool.num_envs,
            "torch_threads": torch.get_num_threads(),
            "lost_episodes": last.lost_episodes if last else 0,
            "weights_sha256": weights_sha256(self._policy),
            **(self._evaluation.summary() if self._evaluation else NO_EVALUATION),
        }


def _snapshot(policy: ActorCritic) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def _try(write: Callable[[], object], errors: list[WriteError]) -> None:
    try:
        write()
    except WriteError as error:
        errors.append(error)
