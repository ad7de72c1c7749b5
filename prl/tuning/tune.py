"""A whole study, or the part of it that this process does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.settings import ConfigError
from prl.config.train_config import TrainConfig, described, unused_settings
from prl.run.build import build_factory, check_trainable
from prl.run.files import replace_file
from prl.run.resume import MAY_CHANGE
from prl.run.signals import Stopped
from prl.tuning.outcome import BEST, as_table, best_or_none, differences, update_files
from prl.tuning.runs import Plan, TrialRuns
from prl.tuning.space import Space
from prl.tuning.study import RETURNS, Study

if TYPE_CHECKING:
    from optuna import Trial

_SPACE = "space.yaml"
_MOST_FAILURES = 3
_OF_ONE_PROCESS = {"run_folder", *MAY_CHANGE} - {"total_timesteps", "log_info"}


@dataclass(frozen=True)
class Search:
    """What a study is to do.

    Attributes:
        plan: of each trial.
        space: what is searched.
        trials: of the whole study; those of processes that were killed do not count.
        startup_trials: drawn at random, before results are learnt from.
    """

    plan: Plan
    space: Space
    trials: int
    startup_trials: int

    def about(self) -> dict[str, Any]:
        """What all processes of a study have to agree in."""
        plan = self.plan
        settings = {
            name: value
            for name, value in described(plan.config).items()
            if name not in _OF_ONE_PROCESS and name not in self.space.settings
        }
        start = self.space.settings_of(self.space.params_of(plan.config))
        searched = {name: repr(allowed.written()) for name, allowed in self.space.settings.items()}
        return {
            **settings,
            **{f"space of {name}": allowed for name, allowed in searched.items()},
            **{f"first {name}": repr(value) for name, value in start.items()},
            "seeds": plan.seeds,
            "evaluations": plan.last,
            "prune": plan.prune,
            "startup_trials": self.startup_trials,
        }


def tune(
    folder: Path,
    search: Search,
    log: Callable[[str], None] = lambda line: None,
    show: Callable[[str], None] = lambda line: None,
) -> None:
    """Run trials until the study has as many as it is to have, in this and in other processes.

    Args:
        folder: of the study; one that has begun goes on.
        search: what to do.
        log: called with messages for the user.
        show: called with the lines of the result.

    Raises:
        ConfigError, EnvError: the study cannot be carried out, or three trials in a row could not.
        WorkerError: an env failed in three trials in a row.
        WriteError: a file cannot be written.
        Stopped: a signal has arrived; the trial is repeated when the study goes on.
    """
    base, space = search.plan.config, search.space
    _check_env(base)  # before there is a folder
    start = space.params_of(base)
    with Study(folder, search.about(), space, start, base.seed, search.startup_trials) as study:
        replace_file(study.folder / _SPACE, space.to_yaml())
        _say_what_is_searched(search, log)
        failures = 0
        while (trial := study.ask(search.trials)) is not None:
            messages = log if trial.number == 0 else lambda line: None
            runs = TrialRuns(study, trial, search.plan, space.settings_of(trial.params), messages)
            try:
                runs.play()
            except Stopped:
                log(f"trial {trial.number} is not finished; the same command repeats it")
                raise
            study.end(trial, runs.returns, runs.timesteps, runs.reason)
            with study.locked:
                problem = update_files(study.folder, study.trials(), space, base)
            log(_how_it_ended(study, trial, runs) + ("" if problem is None else f"; {problem}"))
            failures = 0 if runs.failure is None else failures + 1
            if runs.failure is not None and failures == _MOST_FAILURES:
                raise runs.failure
        _show_result(study, search, show)


def _check_env(config: TrainConfig) -> None:
    factory = build_factory(config)
    if config.rollout == "episodes":
        check_trainable(factory)


def _say_what_is_searched(search: Search, log: Callable[[str], None]) -> None:
    space, base = search.space, search.plan.config
    number = len(space.settings)
    log(f"{number} setting{' is' if number == 1 else 's are'} searched: {', '.join(space.settings)}")
    start = space.params_of(base)
    for name in space.settings:
        if name not in start:
            log(f"{name} {getattr(base, name)!r} is not in the space, so the first trial draws another")
        if (needed := _unused_without(name, search)) is not None:
            log(f"{name} is searched, but changes nothing without {needed}")


def _unused_without(name: str, search: Search) -> str | None:
    """The option without which a setting changes nothing; None if it does, or the option is searched, too."""
    base, settings = search.plan.config, search.space.settings
    for value in settings[name].limits():
        with contextlib.suppress(ConfigError):  # together with others it may be possible
            changed = dataclasses.replace(base, **{name: value})
            needed = dict(unused_settings(changed)).get(name)
            if needed is not None and needed.split()[0] not in settings:
                return needed
    return None


def _how_it_ended(study: Study, trial: Trial, runs: TrialRuns) -> str:
    if runs.reason is not None:
        return f"trial {trial.number}: {runs.reason}"
    mean = sum(runs.returns) / len(runs.returns)
    best = best_or_none(study.trials())
    others = "" if best is None else f"; best is trial {best.number} with {best.values[0]:.1f}"
    by_seed = ", ".join(f"{value:.1f}" for value in runs.returns)
    return f"trial {trial.number}: mean return {mean:.1f} ({by_seed}){others}"


def _show_result(study: Study, search: Search, show: Callable[[str], None]) -> None:
    trials = study.trials()
    for line in as_table(trials):
        show(line)
    best = best_or_none(trials)
    if best is None:
        return
    changed = differences(search.plan.config, search.space.settings_of(best.params))
    show(f"trial {best.number} has {changed or 'the settings that the study began with'}")
    show(
        f"prl train --config {study.folder / BEST} repeats the run of its first seed "
        f"({best.user_attrs[RETURNS][0]:.1f})"
    )
