"""Files of a run: replaced in one step, and the versions that are written into them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file could not be written, e.g. because the disk is full. The message names file and reason."""


def replace_file(path: Path, content: bytes | str) -> None:
    """Write a file in one step: whatever happens, readers find the old content or the new one.

    Args:
        path: of the file; missing folders are made.
        content: text is written as UTF-8.

    Raises:
        WriteError: the file cannot be written; an older one is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    # Unique to the process: two that write the same file must not share a temporary one.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """`replace_file` with JSON that people can read.

    Raises:
        WriteError: see `replace_file`.
    """
    replace_file(path, json.dumps(content, indent=2) + "\n")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python, the platform and some packages; those that are not installed are left out.

    Args:
        packages: names of distributions, as `pip install` takes them.
    """
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
