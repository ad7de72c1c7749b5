"""The folder of a run: its settings, its progress, and the resulting weights."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from learner.fingerprint import fingerprint
from learner.policy import ActorCritic
from learner.settings import ConfigError
from prl.run.files import WriteError, remove_half_written, replace_file, replace_json, versions
from prl.run.lock import FolderLock
from prl.run.weights import save_weights

WEIGHTS = "weights"
BEST = "best"
CHECKPOINTS = "checkpoints"
_COMMAND = "command.txt"
_PACKAGES = ("prl", "torch", "gymnasium", "numpy", "cloudpickle", "safetensors")


def here_and_now() -> dict[str, str]:
    """The versions of what computes here, and the fingerprint of this machine's arithmetic."""
    return {**versions(_PACKAGES), "fingerprint": fingerprint()}


def holds_results(path: Path) -> bool:
    """Whether something of a run is recorded: a checkpoint, an update, or its end.

    Raises:
        OSError: the folder cannot be read.
    """
    if any((path / name).exists() for name in ("summary.json", WEIGHTS, BEST)):
        return True
    progress, checkpoints = path / "progress.csv", path / CHECKPOINTS
    if progress.exists() and progress.stat().st_size:
        return True
    if not checkpoints.is_dir():
        return os.path.lexists(checkpoints)
    return any(not name.startswith(".") for name in os.listdir(checkpoints))  # those are half written


class RunFolder:
    """A new folder for one run, and its only writer.

    As a context manager it gives its lock back when the block ends, and removes what it has written, unless
    `keep` was called.

    Args:
        path: made if need be; must not hold a run, unless that was killed before anything was recorded.
        can_go_on: whether runs of this kind can be resumed, for the message if it does.

    Raises:
        ConfigError: it holds a run already, or cannot be written; nothing is left behind.
    """

    def __init__(self, path: Path, can_go_on: bool = True) -> None:
        self.path = path.absolute()  # an env may change the working directory
        self._kept = False
        self._lock: FolderLock | None = None
        with self._written():
            if path.exists() and not path.is_dir():
                raise ConfigError(f"run_folder {path} is not a folder")
            if holds_results(path):
                raise ConfigError(_taken(path, can_go_on))
            self.path.mkdir(parents=True, exist_ok=True)
            is_new = self._is_new()
        with self._written():
            self._lock = FolderLock(self.path / _COMMAND)
            if not is_new and (holds_results(path) or not self._lock.is_held):
                self._release()
                raise ConfigError(_taken(path, can_go_on))
            self._remove_half_written()
            # The command last: with text in it, but no versions beside it, the file is not one of ours.
            (self.path / "versions.json").write_text(json.dumps(here_and_now(), indent=2) + "\n")
            (self.path / _COMMAND).write_text(_command_line())

    def _remove_half_written(self) -> None:
        for folder in (self.path, self.path / WEIGHTS, self.path / BEST):
            remove_half_written(folder)

    def _is_new(self) -> bool:
        """Make the file that stands for the folder's use; whether it was not there.

        Raises:
            ConfigError: it was, and is not what a run has left that was killed.
        """
        command = self.path / _COMMAND
        try:
            command.open("x").close()  # "x": if two runs start at once, it is new to one of them
        except FileExistsError:
            if command.stat().st_size and not (self.path / "versions.json").is_file():
                raise ConfigError(_taken(self.path)) from None
            return False
        return True

    def write_config(self, text: str) -> None:
        """`config.yaml`, with which `train.py --config` does this run again. Replaced in one step.

        Raises:
            ConfigError: it cannot be written.
        """
        with self._written():
            replace_file(self.path / "config.yaml", text)

    def write_spaces(self, text: str) -> None:
        """`spaces.json`, what the policy takes and gives: with it `prl.load` needs no env.

        Raises:
            ConfigError: it cannot be written.
        """
        with self._written():
            replace_file(self.path / "spaces.json", text)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """What is written before the run begins: if it cannot be, the folder cannot be used."""
        try:
            yield
        except OSError as error:
            self.discard()
            cause = error.__cause__ if isinstance(error, WriteError) else error
            reason = getattr(cause, "strerror", None) or error
            raise ConfigError(f"cannot write run_folder {self.path}: {reason}") from error

    def __enter__(self) -> RunFolder:
        return self

    def keep(self) -> None:
        """The run begins: from here on the folder says how it ended."""
        self._kept = True

    def __exit__(self, *exc_info: object) -> None:
        if not self._kept:
            self.discard()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def discard(self) -> None:
        """Remove what was written before the run began, so that the folder can be used again."""
        with contextlib.suppress(OSError):
            for name in ("versions.json", "config.yaml", "spaces.json", _COMMAND):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()  # fails if it holds other files, which stay
        self._release()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """`summary.json`, replaced in one step.

        Raises:
            WriteError: it cannot be written.
        """
        replace_json(self.path / "summary.json", summary)

    def save_weights(self, policy: ActorCritic) -> None:
        """`weights/policy.safetensors`.

        Raises:
            WriteError: it cannot be written.
        """
        save_weights(policy, self.path / WEIGHTS)

    def save_best(self, policy: ActorCritic, evaluation: Mapping[str, Any]) -> None:
        """`best/policy.safetensors` and `best/evaluation.json`; they replace older ones.

        Raises:
            WriteError: one of them cannot be written.
        """
        save_weights(policy, self.path / BEST)
        replace_json(self.path / BEST / "evaluation.json", evaluation)


class ResumedFolder(RunFolder):
    """The folder of a run that is to go on, and its only writer. Nothing in it changes before `keep`.

    Args:
        path: holds a run.

    Attributes:
        holds_results: whether something of the run is recorded; if not, it was killed as it began.

    Raises:
        ConfigError: it does not, cannot be written, or another run writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._kept = True
        self._lock = None
        self._texts: dict[str, str] = {}
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"{path} is not the folder of a run: it has no config.yaml")
        with self._written():
            (self.path / _COMMAND).touch()
            self._lock = FolderLock(self.path / _COMMAND)
            self.holds_results = holds_results(self.path)

    def write_config(self, text: str) -> None:
        """See `RunFolder`; it is written by `keep`."""
        self._texts["config.yaml"] = text

    def write_spaces(self, text: str) -> None:
        """See `RunFolder`; it is written by `keep`."""
        self._texts["spaces.json"] = text

    def keep(self) -> None:
        """The run goes on: what the folder says about its end holds no longer.

        Raises:
            ConfigError: the folder cannot be written.
        """
        with self._written():
            self._remove_half_written()
            for name, text in self._texts.items():
                replace_file(self.path / name, text)
            with (self.path / _COMMAND).open("a") as file:
                file.write(_command_line())
            (self.path / "summary.json").unlink(missing_ok=True)

    def discard(self) -> None:
        """See `RunFolder`; here nothing is removed."""
        self._release()


def _command_line() -> str:
    return shlex.join([sys.executable, *sys.argv]) + "\n"


def _taken(path: Path, can_go_on: bool = True) -> str:
    ways = "choose another, remove it, or go on with --resume" if can_go_on else "choose another or remove it"
    return f"run_folder {path} holds a run already; {ways}"


def make_run_folder(parent: Path, env_id: str, seed: int) -> Path:
    """Make <env>-seed<seed>-<date>-<time>, with a number appended if another run has that name.

    Args:
        parent: where; made if need be.
        env_id, seed: of the run.

    Returns:
        The new, empty folder. No other call returns the same, in whatever process.

    Raises:
        ConfigError: it cannot be made.
    """
    name = env_id.replace("/", "_").replace(":", "_")
    stem = parent.absolute() / f"{name}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise ConfigError(f"cannot make a run folder in {parent}: {error.strerror or error}") from error
    return path
