"""What a run folder holds, read for a report. Only the progress has to be there."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from learner.settings import ConfigError
from prl.config.yaml_format import load

STEPS = "time/total_timesteps"
EVALUATED_AT = "eval/timesteps"
RETURN = "rollout/ep_rew_mean"
EVALUATION = "eval/mean_reward"

Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of its folder, with as much of the path as tells it from the others.
        folder: where it lies.
        settings: of config.yaml; empty if there is none.
        settings_text: config.yaml as it stands.
        progress: columns of progress.csv by name, f64[K] each; K is at least 1.
        evaluations: columns of evaluations.csv by name, f64[K] each; empty if the run has not been evaluated.
        summary: of summary.json; None if the run is still going, or was killed.
        versions: of Python and the packages.
        command: the command line, shortened, and below it those with which the run was resumed; "" if it is
            not known.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    settings_text: str
    progress: Mapping[str, Column]
    evaluations: Mapping[str, Column]
    summary: Mapping[str, Any] | None
    versions: Mapping[str, str]
    command: str

    @property
    def env_id(self) -> str:
        """Of the env; "" if the folder does not say."""
        return str(self.settings.get("env_id") or (self.summary or {}).get("env_id") or "")

    @property
    def seed(self) -> int | None:
        """Of the run; None if the folder does not say."""
        seed = self.settings.get("seed", (self.summary or {}).get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def status(self) -> str:
        """How it ended: finished, stopped or failed; unfinished if it is still going or was killed."""
        return "unfinished" if self.summary is None else str(self.summary.get("status", "unfinished"))

    @property
    def steps(self) -> float:
        """Env steps of its last update."""
        return float(self.progress[STEPS][-1])

    def last(self, column: str) -> float:
        """The last finite value of a column of the progress or of the evaluations; NaN if there is none."""
        values = self.progress.get(column, self.evaluations.get(column, np.empty(0)))
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if finite.size else math.nan

    def fact(self, name: str) -> float:
        """A number of the summary; NaN if it is not there."""
        value = (self.summary or {}).get(name)
        return float(value) if isinstance(value, int | float) else math.nan


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, in this order.

    Raises:
        ConfigError: a folder is given twice, is not that of a run, or a file of it is damaged.
    """
    _check_paths(folders)
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def read_readable(folders: Sequence[Path], log: Callable[[str], None]) -> list[Run]:
    """`read_runs` without what cannot be read, as of `runs/*`, among which a study and a first minute may be.

    Args:
        folders: of runs.
        log: called with a line for each that is left out.

    Raises:
        ConfigError: a folder is given twice or is not there, or none of them can be read.
    """
    _check_paths(folders)
    runs, problems = list[Run](), list[ConfigError]()
    for folder, name in zip(folders, _names(folders), strict=True):
        try:
            runs.append(_read(folder, name))
        except ConfigError as error:
            problems.append(error)
    if not runs:
        raise problems[0]
    for problem in problems:
        log(f"left out: {problem}")
    return runs


def _check_paths(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if not os.path.exists(folder):
            raise ConfigError(f"there is no folder {folder}")
        if folder.resolve() in seen:
            raise ConfigError(f"{folder} is given twice")
        seen.add(folder.resolve())


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]


def _read(folder: Path, name: str) -> Run:
    progress = read_columns(folder / "progress.csv", _required(folder))
    if STEPS not in progress:
        raise ConfigError(f"{folder / 'progress.csv'} has no column {STEPS}")
    if not progress[STEPS].size:
        raise ConfigError(f"{folder} holds no update yet; the report can be made after the first one")
    if not np.isfinite(progress[STEPS]).all():
        raise ConfigError(f"{folder / 'progress.csv'} is damaged: {STEPS} is not a number in every line")
    settings_text = _optional(folder / "config.yaml")
    return Run(
        name=name,
        folder=folder,
        settings=_settings(folder / "config.yaml", settings_text),
        settings_text=settings_text,
        progress=progress,
        evaluations=read_columns(folder / "evaluations.csv", _optional(folder / "evaluations.csv")),
        summary=_json(folder / "summary.json"),
        versions={key: str(value) for key, value in (_json(folder / "versions.json") or {}).items()},
        command="\n".join(map(short_command, _optional(folder / "command.txt").splitlines())),
    )


def _required(folder: Path) -> str:
    """The text of progress.csv.

    Raises:
        ConfigError: it is not there; the message says what may have been meant.
    """
    path = folder / "progress.csv"
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    if not path.exists():
        if any(folder.glob("*/progress.csv")):
            raise ConfigError(f"{folder} is a folder of runs; give the runs: {folder}/*")
        if any(folder.glob("trials/*/*/progress.csv")):
            raise ConfigError(f"{folder} is the folder of a study; give its runs: {folder}/trials/*/*")
        if (folder / "config.yaml").exists():
            raise ConfigError(f"{folder} holds no update yet; the report can be made after the first one")
        raise ConfigError(f"{folder} is not the folder of a run: it has no progress.csv")
    return _optional(path)


def _optional(path: Path) -> str:
    """The text of a file; "" if there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged: it is not text ({error.reason})") from error


def read_columns(path: Path, text: str) -> dict[str, Column]:
    """The columns of a CSV file of numbers, by name, f64[K] each.

    The last row may be cut off, since a run may be writing it; it is left out then.

    Args:
        path: for messages.
        text: of the file.

    Raises:
        ConfigError: a row has too few or too many cells, or a cell is not a number.
    """
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        lines.pop()
    try:
        rows = list(csv.reader(lines))
    except csv.Error as error:
        raise ConfigError(f"{path} is damaged: {error}") from None
    if not rows:
        return {}
    header, *body = rows
    values = [_row(path, line, header, cells) for line, cells in enumerate(body, 2) if cells]
    table = np.array(values, np.float64).reshape(-1, len(header))
    return {name: table[:, index] for index, name in enumerate(header)}


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> list[float]:
    if len(cells) != len(header):
        raise ConfigError(f"{path} is damaged: line {line} has {len(cells)} cells, not {len(header)}")
    values = []
    for name, cell in zip(header, cells, strict=True):
        try:
            values.append(float(cell) if cell else math.nan)
        except ValueError:
            raise ConfigError(f"{path} is damaged: {cell[:40]!r} in line {line}, column {name}") from None
    return values


def _settings(path: Path, text: str) -> Mapping[str, Any]:
    try:
        settings = load(text) if text else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} is damaged: it must hold a mapping of settings to values")
    return {str(name): value for name, value in settings.items()}


def _json(path: Path) -> dict[str, Any] | None:
    text = _optional(path)
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: it must hold an object")
    return found


def short_command(command: str) -> str:
    """A command line without the folders of the interpreter and of the script, which differ everywhere."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if len(words) < 2 or not Path(words[0]).name.startswith("python"):
        return command
    script = Path(words[1]).name
    if script.startswith("prl"):
        start = [script]
    else:
        start = ["python", "-m", "prl"] if script == "__main__.py" else ["python", script]
    return shlex.join([*start, *words[2:]])
