"""`prl replay`: a failure of a run again, in one process, where it can be looked at."""

from __future__ import annotations

import dataclasses
import faulthandler
import pdb
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.config.train_config import TrainConfig
from prl.config.yaml_format import Unwritten, load
from prl.run.build import build_factory
from prl.run.crash_file import PACKAGES, Crash, read_crash
from prl.run.crash_replay import Replay, Replayed
from prl.run.files import versions
from workers.errors import EnvFailure
from workers.exam_checks import counted

_REPEATED = 0
_FAILED = 1


@dataclass(frozen=True)
class ReplayConfig:
    """Repeat an episode in which an env failed, from a file of RUN/crashes, in one process.

    The exit code is 1 if it fails again, 0 if it does not, and 2 if it cannot be repeated.

    Attributes:
        file: the crash file.
        pdb: enter Python's debugger where it fails.
        env_id: build this env instead of the run's, e.g. a changed one.
        env_kwargs: keyword arguments of the env, as key=value, beside those of the run.
        step_timeout: seconds that a step may take.

    Raises:
        ConfigError: a value is out of range.
    """

    file: Path
    pdb: bool = False
    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    step_timeout: float = 60.0

    def __post_init__(self) -> None:
        check(self, _RULES)


_RULES: tuple[Rule, ...] = (
    ("step_timeout", lambda v: 0.0 < v <= 86_400.0, "a positive number of seconds, at most 86400"),
)


def settings_of(crash: Crash, config: ReplayConfig) -> TrainConfig:
    """The settings with which the run built its env, changed as the flags say.

    Raises:
        ConfigError: the file does not hold them, and the flags do not say them.
    """
    try:
        values = load(crash.config) or {}
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"{config.file} is not a crash file: its config holds no settings")
    known = {item.name for item in dataclasses.fields(TrainConfig)}  # of this version
    values = {name: value for name, value in values.items() if name in known}
    if config.env_id is not None:
        values["env_id"] = config.env_id
    if "env_id" not in values:
        raise ConfigError(
            f"{config.file} does not say how its env is built, since it was handed over in Python: name it "
            "with --env-id, and --env-kwargs if need be"
        )
    values["env_kwargs"] = kwargs = {**values.get("env_kwargs", {}), **config.env_kwargs}
    for key, value in kwargs.items():
        if isinstance(value, Unwritten):
            raise ConfigError(
                f"{config.file}: env_kwargs.{key} was an object that a file cannot hold "
                f"({value.description}); give another value with --env-kwargs"
            )
    return TrainConfig(**values)


def _introduction(crash: Crash, config: ReplayConfig, env_id: str) -> Iterator[str]:
    count = "?" if crash.actions is None else len(crash.actions)
    yield f"replay: {env_id}, env {crash.env}, seed {crash.seed}, {count} actions"
    yield f"in the run: {crash.error}"
    if crash.calls:
        yield f"with {counted(len(crash.calls), 'call')} that changed the env"
    if crash.missing_calls:
        yield (
            f"{counted(crash.missing_calls, 'call')} that changed the env are not in the file, so the "
            "episode may go otherwise"
        )
    here = versions(PACKAGES)
    for name, version in crash.versions.items():
        if name in here and here[name] != version:
            yield f"the run had {name} {version}, here is {here[name]}"


def _without_failure(replayed: Replayed, crash: Crash) -> str:
    total = 0 if crash.actions is None else len(crash.actions)
    if replayed.ended and replayed.steps < total:
        return (
            f"the episode ended after {replayed.steps} of {total} actions, and nothing failed: the env is "
            "not a function of its seed and actions, or was changed (prl doctor says which)"
        )
    return (
        f"all {total} actions were repeated, and nothing failed this time: the failure depends on something "
        "besides seed and actions (time, memory, other processes), or it was mended"
    )


def _tell(replayed: Replayed, failure: EnvFailure, crash: Crash) -> None:
    # Where it happened is told in front of the first colon, with other numbers of episodes.
    as_in_run = str(failure).partition(": ")[2] in crash.error
    print(f"failed{' as in the run' * as_in_run} after {replayed.steps} steps", flush=True)
    print(f"replay: {failure}\n{failure.traceback}".rstrip(), file=sys.stderr, flush=True)


def _debug(failure: EnvFailure) -> None:
    cause = failure.__cause__ or failure
    pdb.post_mortem(cause.__traceback__)


def _replay(config: ReplayConfig) -> int:
    crash = read_crash(config.file)
    settings = settings_of(crash, config)
    print(*_introduction(crash, config, settings.env_id), sep="\n", flush=True)
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # where a library of the env's ends the process
    with Replay(crash, build_factory(settings), config.step_timeout) as replay:
        # If the process ends here, this is the last line.
        replayed = replay.run(lambda: print("now the call that failed in the run", flush=True))
        if replayed.failure is None:
            print(_without_failure(replayed, crash))
            return _REPEATED
        _tell(replayed, replayed.failure, crash)
        if config.pdb:
            _debug(replayed.failure)
    return _FAILED


COMMAND = Command(ReplayConfig, _replay, positional="file")
