"""Where the folder of a run, or one that was shared, holds its settings and its weights."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from learner.settings import ConfigError
from prl.config.train_config import TrainConfig
from prl.config.yaml_format import load
from prl.run.run_folder import BEST, WEIGHTS
from prl.run.weights import WEIGHTS_FILE

_OF_NETWORKS = ["env_id", "seed", "hidden_sizes", "activation", "log_std_init", "normalize_obs", "encoder"]


def load_config(run: str | os.PathLike[str]) -> TrainConfig:
    """The settings of a run.

    Raises:
        ConfigError: the folder is not that of a run.
    """
    # Late: the parser takes as long to import as all else that `prl.load` needs beside torch.
    from prl.config.command_line import read_config

    return read_config(TrainConfig, _config_file(run))  # it holds every setting; presets may have changed


def load_network_config(run: str | os.PathLike[str]) -> TrainConfig:
    """Those settings of a run of which its networks are made, and the env_id; the others have their defaults.

    Raises:
        ConfigError: the folder is not that of a run, or one of these settings is wrong.
    """
    file = _config_file(run)
    try:
        values = load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold a mapping of settings to values")
    try:
        return TrainConfig(**{name: values[name] for name in _OF_NETWORKS if name in values})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _config_file(run: str | os.PathLike[str]) -> Path:
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run} is not the folder of a run: it has no config.yaml")
    return file


def weights_of(run: str | os.PathLike[str], best: bool) -> Path:
    """The folder of a run's last or best weights; a shared folder holds those of one policy.

    Raises:
        ConfigError: the run has no best ones.
    """
    folder = Path(run)
    is_shared = (folder / WEIGHTS_FILE).is_file()
    if best and not (folder / BEST).is_dir():
        why = "it holds a single policy" if is_shared else "it was trained without --eval-freq"
        raise ConfigError(f"{run} has no best policy: {why}")
    return folder if is_shared else folder / (BEST if best else WEIGHTS)
