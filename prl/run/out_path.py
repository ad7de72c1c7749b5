"""Where a command is to write: looked at before the work, so that no result is lost for want of a place."""

from __future__ import annotations

import os
from pathlib import Path

from learner.settings import ConfigError


def check_file_path(out: Path) -> None:
    """Check that a file can be made or replaced.

    Raises:
        ConfigError: it cannot.
    """
    if out.is_dir():
        raise ConfigError(f"out {out} is a folder; give the name of a file, as in {out / 'policy.onnx'}")
    check_parent(out)


def check_folder_path(folder: Path, name: str) -> None:
    """Check that a folder is there, or can be made.

    Args:
        folder: to write into.
        name: of the flag, for the message.

    Raises:
        ConfigError: it cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{name} {folder} is not a folder")
    check_parent(folder, name)


def check_parent(out: Path, name: str = "out") -> None:
    """Check that the folder in which something is to be made is there, or can be made.

    Args:
        out: what is to be made.
        name: of the flag, for the message.

    Raises:
        ConfigError: it cannot.
    """
    parent = next(folder for folder in out.absolute().parents if os.path.exists(folder))
    if not parent.is_dir():
        raise ConfigError(f"{name} {out} cannot be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{name} {out} cannot be written: {parent} gives no permission")
