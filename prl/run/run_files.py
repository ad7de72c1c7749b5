"""Where the folder of a run, or one that was shared, holds its settings and its weights."""

from __future__ import annotations

import os
from pathlib import Path

from learner.settings import ConfigError
from prl.config.command_line import read_config
from prl.config.train_config import TrainConfig
from prl.run.run_folder import BEST, WEIGHTS
from prl.run.weights import WEIGHTS_FILE


def load_config(run: str | os.PathLike[str]) -> TrainConfig:
    """The settings of a run.

    Raises:
        ConfigError: the folder is not that of a run.
    """
    file = Path(run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run} is not the folder of a run: it has no config.yaml")
    return read_config(TrainConfig, file)  # it holds every setting; presets may have changed since


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
