"""What a study has come to: the best settings as a file, all trials as a table."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.settings import ConfigError
from prl.config.train_config import TrainConfig, to_yaml
from prl.run.files import replace_file
from prl.run.run_files import load_config
from prl.tuning.runs import run_folder
from prl.tuning.space import Space
from prl.tuning.study import REASON, RETURNS, TIMESTEPS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BEST = "best.yaml"
TABLE = "trials.csv"
_SHOWN = 10


def best_first(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that have a result; of equal ones the earliest is first."""
    with_result = [trial for trial in trials if _has_result(trial)]
    return sorted(with_result, key=lambda trial: (-trial.values[0], trial.number))


def write_table(folder: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    """Write `trials.csv`: a row per trial that has begun.

    Args:
        folder: of the study.
        trials: of the study.
        space: of the study; a column per setting.

    Raises:
        WriteError: it cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["trial", "state", "mean_return", "returns", "timesteps", "reason", *space.settings])
    for trial in trials:
        about = trial.user_attrs
        settings = space.settings_of(trial.params)
        table.writerow(
            [
                trial.number,
                _state(trial),
                repr(trial.values[0]) if _has_result(trial) else "",
                " ".join(map(repr, about.get(RETURNS, []))),
                about.get(TIMESTEPS, ""),
                about.get(REASON, ""),
                *(settings.get(name, "") for name in space.settings),
            ]
        )
    replace_file(folder / TABLE, text.getvalue())


def _has_result(trial: FrozenTrial) -> bool:
    return trial.state.name == "COMPLETE"  # Optuna gives those that were pruned their last value, too


def _state(trial: FrozenTrial) -> str:
    if not trial.state.is_finished():
        return "running"
    if _has_result(trial):
        return "finished"
    reason = str(trial.user_attrs.get(REASON, ""))
    return reason.partition(":")[0].partition(" at ")[0] or "ended"  # "pruned at ...", "not possible: ..."


def write_best(folder: Path, best: FrozenTrial, base: TrainConfig) -> None:
    """Write `best.yaml`, with which `prl train --config` repeats the first run of the best trial.

    Args:
        folder: of the study.
        best: the trial.
        base: settings that are not searched; its checkpoints are those of the file, since trials write none.

    Raises:
        ConfigError: the run is not there any more.
        WriteError: the file cannot be written.
    """
    run = run_folder(folder, best.number, base.seed)
    config = dataclasses.replace(load_config(run), checkpoint_every=base.checkpoint_every)
    head = (
        f"# Trial {best.number}: mean return {best.values[0]:.6g}, seeds: {len(best.user_attrs[RETURNS])}.\n"
        f"# This is the run in {run.relative_to(folder)}, and gives the same weights.\n"
    )
    replace_file(folder / BEST, head + to_yaml(config))


def as_table(trials: Sequence[FrozenTrial]) -> list[str]:
    """The best trials in lines of text, and how many there are of which kind."""
    ranked = best_first(trials)
    states = [_state(trial) for trial in trials]
    kinds = ", ".join(f"{states.count(kind)} {kind}" for kind in sorted(set(states)))
    total = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}: {kinds}"
    if not ranked:
        return [total]
    rows = ["trial  mean return  returns by seed"]
    for trial in ranked[:_SHOWN]:
        seeds = "  ".join(f"{value:.1f}" for value in trial.user_attrs[RETURNS])
        rows.append(f"{trial.number:5}  {trial.values[0]:11.1f}  {seeds}")
    return [*rows, total]


def differences(start: TrainConfig, found: Mapping[str, Any]) -> str:
    """What settings differ from those of the first trial, in one line; "" if none do."""
    texts = []
    for name, value in found.items():
        before, after = _text(getattr(start, name)), _text(value)
        if before != after:
            texts.append(f"{name} {after} (was {before})")
    return ", ".join(texts)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def best_or_none(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best trial so far."""
    return next(iter(best_first(trials)), None)


def update_files(folder: Path, trials: Sequence[FrozenTrial], space: Space, base: TrainConfig) -> str | None:
    """Write both files anew.

    Args:
        folder: of the study.
        trials, space: of the study.
        base: settings that are not searched.

    Returns:
        Why `best.yaml` was not written; None if it was, or if no trial has a result.

    Raises:
        WriteError: a file cannot be written.
    """
    write_table(folder, trials, space)
    best = best_or_none(trials)
    if best is None:
        return None
    try:
        write_best(folder, best, base)
    except ConfigError as error:  # somebody has removed it to save room
        return str(error)
    return None
