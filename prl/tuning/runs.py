"""One trial: runs that differ only in their seeds, one after the other, for as long as they are good."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.errors import NoLegalAction, NonFiniteError
from learner.settings import ConfigError
from prl.config.train_config import TrainConfig
from prl.run.train import train
from prl.tuning.pruning import Steps, below_median
from prl.tuning.study import Study
from workers.errors import EnvError, WorkerError

if TYPE_CHECKING:
    from optuna import Trial

TRIALS = "trials"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done in each trial.

    Attributes:
        config: settings that are not searched; `seed` is that of the first run.
        seeds: runs of a trial, with consecutive seeds.
        last: evaluations at the end of a run whose mean is its result.
        prune: end trials that fall behind.
    """

    config: TrainConfig
    seeds: int
    last: int
    prune: bool

    @property
    def steps(self) -> Steps:
        """How evaluations are numbered."""
        return Steps(self.config.total_timesteps, self.config.eval_freq)


class _Evaluations:
    """A sink that keeps the results of evaluations."""

    def __init__(self) -> None:
        self.timesteps = 0
        self.means: list[float] = []

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `prl.run.sinks.Sink`."""
        if "eval/mean_reward" in metrics:
            self.timesteps = timesteps
            self.means.append(metrics["eval/mean_reward"])

    def close(self) -> None:
        """See `prl.run.sinks.Sink`."""


class TrialRuns:
    """The runs of one trial.

    Args:
        study: that the trial is of.
        trial: of this process.
        plan: of the study.
        settings: that the trial tries.
        log: called with messages for the user.

    Attributes:
        returns: the results of the runs that came to their end.
        timesteps: of all runs.
        reason: why the trial was ended; None if it was not.
        failure: the error that has ended the trial, unless it belongs to the settings alone.
    """

    def __init__(
        self,
        study: Study,
        trial: Trial,
        plan: Plan,
        settings: Mapping[str, Any],
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._study = study
        self._trial = trial
        self._plan = plan
        self._settings = settings
        self._log = log
        self.returns: list[float] = []
        self.timesteps = 0
        self.reason: str | None = None
        self.failure: WorkerError | ConfigError | EnvError | None = None

    def play(self) -> None:
        """Run them.

        Raises:
            ConfigError, EnvError: the settings that the study begins with cannot be run.
            WriteError: a folder cannot be written.
            Stopped: a signal has arrived.
        """
        for run in range(self._plan.seeds):
            try:
                config = self._config(run)
            except ConfigError as error:
                self.reason = f"not possible: {error}"
                return
            try:
                self._run(run, config)
            except (NonFiniteError, NoLegalAction) as error:
                self.reason = f"failed: {error}"
            except WorkerError as error:
                self.reason, self.failure = f"failed: {error}", error
            except (ConfigError, EnvError) as error:  # as of an encoder that is one of the choices
                if self._trial.number == 0:
                    raise
                self.reason, self.failure = f"not possible: {error}", error
            if self.reason is not None:
                return

    def _config(self, run: int) -> TrainConfig:
        base = self._plan.config
        seed = base.seed + run
        return dataclasses.replace(
            base,
            **self._settings,
            seed=seed,
            run_folder=run_folder(self._study.folder, self._trial.number, seed),
            checkpoint_every=0,  # a trial that was interrupted begins again
        )

    def _run(self, run: int, config: TrainConfig) -> None:
        evaluations = _Evaluations()
        reported = 0

        def stop() -> bool:
            nonlocal reported
            if len(evaluations.means) > reported:
                reported = len(evaluations.means)
                self._judge(run, evaluations)
            return self.reason is not None

        log = self._log if run == 0 else lambda line: None
        summary = train(config, log=log, sinks=[evaluations], stop=stop)
        self.timesteps += int(summary["timesteps"])
        if self.reason is None:
            self.returns.append(self._value(evaluations))
            self._judge(run, evaluations)  # `stop` is not asked after the last update

    def _value(self, evaluations: _Evaluations) -> float:
        return float(np.mean(evaluations.means[-self._plan.last :]))

    def _judge(self, run: int, evaluations: _Evaluations) -> None:
        """Report the newest evaluation, and end the trial if it falls behind."""
        plan, timesteps, value = self._plan, evaluations.timesteps, self._value(evaluations)
        step = plan.steps.step(run, timesteps)
        self._study.report(self._trial, step, value)
        is_the_end = run + 1 == plan.seeds and timesteps >= plan.steps.total
        if not plan.prune or is_the_end or not plan.steps.decides(timesteps):
            return
        if below_median(value, self._study.values_at(step)):
            seed = plan.config.seed + run
            self.reason = f"pruned at {timesteps:,} steps of seed {seed}, return {value:.1f}"


def run_folder(study: Path, trial: int, seed: int) -> Path:
    """The folder of a run.

    Args:
        study: its folder.
        trial: the number of the trial.
        seed: of the run.
    """
    return study / TRIALS / f"{trial:04}" / f"seed{seed}"
