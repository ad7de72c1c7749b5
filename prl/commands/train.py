"""`prl train`: train PPO on an environment."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.settings import ConfigError
from prl.commands.command import Command
from prl.config.preset import find_preset
from prl.config.train_config import TrainConfig, unused_settings
from prl.run.resume import MAY_CHANGE
from prl.run.run_files import load_config
from prl.run.train import train


@dataclass(frozen=True)
class TrainFlags(TrainConfig):
    """Train PPO on a Gymnasium environment with many environment processes.

    Attributes:
        resume: go on with the run in this folder from its newest checkpoint, exactly as if it had never been
            interrupted. All settings are those of the run; total_timesteps may be raised, and what changes no
            result may be chosen anew (workers, transport, who acts, time limits, checkpoints, device).
    """

    resume: Path | None = None

    def settings(self) -> TrainConfig:
        """Without `resume`."""
        return TrainConfig(**_values(self))


def _values(config: TrainConfig) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(TrainConfig)}


def _check_resumed(flags: TrainFlags, run: Path) -> None:
    """Check that flags change nothing of a run that goes on but what may change.

    Raises:
        ConfigError: one does.
    """
    begun, given = _values(load_config(run)), _values(flags)
    changed = [name for name in begun if given[name] != begun[name] and name not in MAY_CHANGE]
    if changed:
        flag, value = changed[0].replace("_", "-"), begun[changed[0]]
        allowed = ", ".join("--" + name.replace("_", "-") for name in MAY_CHANGE if name in begun)
        raise ConfigError(
            f"--{flag} cannot be changed by --resume ({run} has {value!r}); allowed are {allowed}"
        )
    if given["total_timesteps"] < begun["total_timesteps"]:
        raise ConfigError(
            f"--total-timesteps can only be raised by --resume: {run} has {begun['total_timesteps']}, "
            f"got {given['total_timesteps']}"
        )


def _train(flags: TrainFlags) -> None:
    config = flags.settings()
    if flags.resume is None:
        messages = _messages(config)
    else:
        _check_resumed(flags, flags.resume)
        messages = []
    summary = train(
        config, messages, log=lambda line: print(f"train: {line}", file=sys.stderr), resume=flags.resume
    )
    mean = summary["mean_return"]
    if summary["worker_restarts"]:
        print(
            f"train: {summary['worker_restarts']} workers were started again, "
            f"{summary['lost_episodes']} episodes lost",
            file=sys.stderr,
        )
    print(
        f"{summary['env_id']}: {summary['timesteps']:,} steps in {summary['wall_seconds']:.1f} s "
        f"({summary['steps_per_second']:,.0f} steps/s), {summary['episodes']:,} episodes, "
        + ("none ended" if mean is None else f"mean return {mean:.1f}")
        + f"; {_shortest(summary['run_folder'])}"
    )


def _shortest(path: str) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _messages(config: TrainConfig) -> list[str]:
    """What the user should know about presets and flags, in one line each."""
    preset = find_preset(config.env_id, config.preset)
    effective = None if preset is None else preset.effective(config)
    from_preset = {} if effective is None else effective.settings
    messages = [str(effective)] if from_preset else []
    return messages + [
        f"{name} has no effect without {needed}"
        for name, needed in unused_settings(config)
        if name not in from_preset  # the user did not set it, so it is no surprise
    ]


COMMAND = Command(TrainFlags, _train)
