"""The folder of a run: what was asked for, what happened, and the weights that came of it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from learner.policy import ActorCritic
from learner.settings import ConfigError
from prl.run.weights import save_weights

WEIGHTS = "weights"
BEST = "best"
_PACKAGES = ("prl", "torch", "gymnasium", "numpy", "cloudpickle", "safetensors")


class RunFolder:
    """A new folder for one run.

    Args:
        path: made if need be; must not hold a run.

    Raises:
        ConfigError: it holds a run already, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run_folder {path} is not a folder")
        if (path / "progress.csv").exists() or (path / "summary.json").exists():
            raise ConfigError(f"run_folder {path} holds a run already; choose another or remove it")
        try:
            path.mkdir(parents=True, exist_ok=True)
            with (path / "command.txt").open("x") as file:  # "x": of two runs that start at once, one gets it
                file.write(shlex.join([sys.executable, *sys.argv]) + "\n")
            (path / "versions.json").write_text(json.dumps(_versions(), indent=2) + "\n")
        except FileExistsError:
            raise ConfigError(f"run_folder {path} holds a run already; choose another or remove it") from None
        except OSError as error:
            raise ConfigError(f"cannot write run_folder {path}: {error.strerror}") from error

    def write_config(self, text: str) -> None:
        """`config.yaml`, with which `train.py --config` does this run again."""
        (self.path / "config.yaml").write_text(text)

    def discard(self) -> None:
        """The run does not begin: take away what was written, so that the folder can be used again."""
        for name in ("command.txt", "versions.json", "config.yaml"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds other things
            self.path.rmdir()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """`summary.json`, replaced in one step."""
        _write_json(self.path / "summary.json", summary)

    def save_weights(self, policy: ActorCritic) -> None:
        """`weights/policy.safetensors`."""
        save_weights(policy, self.path / WEIGHTS)

    def save_best(self, policy: ActorCritic, evaluation: dict[str, Any]) -> None:
        """`best/policy.safetensors` and `best/evaluation.json`; they replace older ones."""
        save_weights(policy, self.path / BEST)
        _write_json(self.path / BEST / "evaluation.json", evaluation)


def default_run_folder(env_id: str, seed: int) -> Path:
    """runs/<env>-seed<seed>-<date>-<time>, with a number behind it if that exists already."""
    name = env_id.replace("/", "_").replace(":", "_")
    stem = f"{name}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = Path("runs") / stem
    count = 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{stem}-{count}"
    return path


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces an older file in one step."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            versions[package] = "not installed"
    return versions
