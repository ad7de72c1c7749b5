"""What a run leaves behind: metrics in its sinks, and at the end its weights and a summary."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from learner.state import copied
from prl.run.background import BackgroundSink
from prl.run.checkpointing import Checkpointing, NoCheckpoints, SafePoint
from prl.run.files import WriteError
from prl.run.periodic_evaluation import NO_EVALUATION, Evaluation, EvaluationSchedule, PeriodicEvaluation
from prl.run.progress_bar import ProgressBar
from prl.run.resume import AT_THE_BEGINNING, Begun, run_state
from prl.run.rewinding import rewind_csv, rewind_events
from prl.run.run_folder import RunFolder
from prl.run.sinks import CsvSink, FaultTolerantSink, Hold, Sink, TensorBoardSink, open_sink, summarize
from prl.run.trackers import Tracker, written_settings
from prl.run.weights import weights_sha256
from prl.training.trainer import Report, Trainer


class Recorder:
    """Records the updates of a trainer: `begin`, `record` after each, and in any case `finish`.

    For the arguments see `prl.run.train.run_training`.

    Args:
        trainer: at its beginning, or where the run goes on.
        total_timesteps: of the run.
        folder: where to write; None writes nothing.
        name: of the env, for the summary.
        schedule: of evaluations; None does without.
        hold: makes the context in which something is written; see `Signals.held`.
        sinks: get all metrics.
        checkpoints: writes them.
        begun: how far the run has come.
        trackers: get all metrics and the summary, if there is a folder.
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
        checkpoints: Checkpointing | None = None,
        begun: Begun = AT_THE_BEGINNING,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._start = time.perf_counter()
        self._trainer = trainer
        self._policy = trainer.learner.policy
        self._folder = folder
        self._name = name
        self._hold = hold
        self._begun = self._reached = begun
        self._point = begun.point
        self._checkpoints = checkpoints or NoCheckpoints()
        self._weights = copied(self._policy.state_dict())
        self._total_timesteps = total_timesteps
        self._schedule = schedule
        self._evaluation: PeriodicEvaluation | None = None
        self._callers: list[Sink] = [FaultTolerantSink(sink, hold) for sink in sinks]
        self._wanted = trackers
        self._trackers: list[BackgroundSink] = []
        self._sinks: list[Sink] = []
        self._evaluation_sinks: list[Sink] = []

    def begin(self) -> None:
        """Open the sinks; a new run writes its first checkpoint.

        If opening them fails, `finish` closes those that are open, and the caller's.
        """
        self._start_trackers()
        self._start = time.perf_counter()  # the user may have been asked for a password
        self._sinks.append(
            FaultTolerantSink(ProgressBar(self._total_timesteps, self._begun.timesteps), self._hold)
        )
        self._open_sinks(self._schedule is not None)
        if self._schedule is not None:
            self._evaluation = PeriodicEvaluation(
                self._policy,
                self._schedule,
                total_timesteps=self._total_timesteps,
                seed=self._trainer.seed,
                sinks=self._evaluation_sinks,
                on_best=self._keep_best,
                so_far=self._begun.evaluations,
                env_calls=self._trainer.evaluation_calls,
            )
        if self._point is None:
            state = self._checkpoints.state_of(self._trainer)
            written = run_state(state, self._begun.evaluations, self._seconds())
            self._point = SafePoint(self._begun.timesteps, self._begun.updates, written)
            self._checkpoints.at_the_beginning(self._point)

    def _start_trackers(self) -> None:
        """Before the progress bar, since tools print how to look at a run."""
        if self._folder is not None:
            for tracker in self._wanted:
                self._trackers.append(tracker.start(self._folder.path))
        for sink in self._trackers:
            sink.wait_until_open()

    def _open_sinks(self, evaluates: bool) -> None:
        # One object for both kinds of metrics: TensorBoard reads only the newest file of a folder.
        shared = list(self._callers)
        if self._folder is not None:
            path = self._folder.path
            columns = ("time/total_timesteps", "eval/timesteps")
            of_updates, of_evaluations = (partial(self._csv, column=column) for column in columns)
            self._sinks += open_sink(of_updates, path / "progress.csv", self._hold)
            if evaluates:
                self._evaluation_sinks += open_sink(of_evaluations, path / "evaluations.csv", self._hold)
            if TensorBoardSink.available():
                shared += open_sink(self._tensorboard, path / "tensorboard", self._hold)
        shared += self._trackers
        self._sinks += shared
        self._evaluation_sinks += shared

    def _csv(self, path: Path, column: str) -> CsvSink:
        """A sink that goes on where the run does."""
        if self._begun.point is None:
            return CsvSink(path)
        return CsvSink(path, rewind_csv(path, column, self._begun.timesteps))

    def _tensorboard(self, folder: Path) -> TensorBoardSink:
        """A sink that goes on where the run does."""
        if self._begun.point is None:
            return TensorBoardSink(folder, settings=written_settings(folder.parent))
        rewind_events(folder, self._begun.timesteps)
        return TensorBoardSink(folder, self._begun.timesteps)

    def record(self, report: Report) -> None:
        """Pass the metrics of an update to the sinks, evaluate and write a checkpoint if it is time to.

        What comes of an error or a signal on the way is a run that goes back to the update before.

        Raises:
            WorkerError, NonFiniteError: the evaluation failed.
        """
        state = self._checkpoints.state_of(self._trainer)
        self._weights = state["learner"]["policy"]
        self._reached = _reached(report)
        metrics = MappingProxyType(report.metrics | self._checkpoints.metrics())
        for sink in self._sinks:
            sink.write(report.timesteps, metrics)
        evaluations = self._begun.evaluations
        if self._evaluation is not None:
            self._evaluation.after_update(report.timesteps)
            evaluations = self._evaluation.so_far
        best = None if evaluations.best is None else evaluations.best.timesteps
        written = run_state(state, evaluations, self._seconds())
        self._point = SafePoint(report.timesteps, report.iteration, written, best)
        self._checkpoints.after_update(self._point)

    def _seconds(self) -> float:
        """That the run has taken, before it was interrupted too."""
        return self._begun.seconds + time.perf_counter() - self._start

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
        seconds = self._seconds()
        for key in self._trainer.unsaid_infos():
            warnings.warn(f"log_info {key}: no episode had it in its last info", stacklevel=2)
        self._policy.load_state_dict(self._weights)  # an update may have been cut short
        folder, errors = self._folder, list[WriteError]()
        if folder is not None:
            _try(lambda: folder.save_weights(self._policy), errors)  # first: the run was for them
        self._checkpoints.finish(self._point)
        summary = self._summary(status, seconds)
        opened = (*self._sinks, *self._evaluation_sinks, *self._callers)
        _end({id(sink): sink for sink in opened if sink not in self._trackers}.values(), summary)
        if folder is not None:
            _try(lambda: folder.write_summary(summary), errors)
        _end(self._trackers, summary)  # last: a server may keep us waiting
        if errors and status == "finished":
            raise WriteError("; ".join(map(str, errors)))
        for error in errors:
            warnings.warn(str(error), stacklevel=2)
        return summary

    def _summary(self, status: str, seconds: float) -> dict[str, Any]:
        trainer, reached = self._trainer, self._reached
        return {
            "status": status,
            "env_id": self._name,
            "seed": trainer.seed,
            "timesteps": reached.timesteps,
            "iterations": reached.updates,
            "episodes": reached.episodes,
            "mean_return": None if math.isnan(reached.mean_return) else round(reached.mean_return, 4),
            "steps_per_second": round(reached.timesteps / seconds, 1),
            "wall_seconds": round(seconds, 3),
            "num_workers": trainer.pool.num_workers,
            "num_envs": trainer.pool.num_envs,
            "torch_threads": torch.get_num_threads(),
            "lost_episodes": reached.lost_episodes,
            "worker_restarts": self._trainer.pool.restarts,
            "weights_sha256": weights_sha256(self._policy),
            **self._checkpoints.summary(),
            **(self._evaluation.summary() if self._evaluation else NO_EVALUATION),
        }


def _reached(report: Report) -> Begun:
    return Begun(
        timesteps=report.timesteps,
        updates=report.iteration,
        episodes=report.episodes,
        lost_episodes=report.lost_episodes,
        mean_return=report.mean_return,
    )


def _end(sinks: Iterable[Sink], summary: Mapping[str, Any]) -> None:
    for sink in sinks:
        summarize(sink, MappingProxyType(summary))
        sink.close()


def _try(write: Callable[[], object], errors: list[WriteError]) -> None:
    try:
        write()
    except WriteError as error:
        errors.append(error)
