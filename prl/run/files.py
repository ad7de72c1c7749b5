"""Files and folders of a run: written in one step, and the versions that are written into them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_HALF_WRITTEN = re.compile(r"\w\.(yaml|json|csv|safetensors)\.\d+\.tmp$")


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


def remove_half_written(folder: Path) -> None:
    """Remove what `replace_file` has left of files in a folder when its process was killed.

    Args:
        folder: that no other process writes to; it need not be there.
    """
    with contextlib.suppress(OSError):
        left = [name for name in os.listdir(folder) if _HALF_WRITTEN.search(name)]
        for name in left:
            with contextlib.suppress(OSError):  # others may be removed
                (folder / name).unlink()


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder in one step: after a crash at any moment, of the machine too, it is there or not.

    Args:
        path: of the folder, in which nothing may be; missing parents are made.
        files: content by name.

    Raises:
        WriteError: it cannot be written; nothing is left of it.
    """
    temporary = temporary_beside(path)
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            _sync_folder(path.parent.parent)
        os.mkdir(temporary)
        for name, content in files.items():
            _write_synced(temporary / name, content)
        _sync_folder(temporary)
        os.rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:  # nothing else, so that a crash in a test leaves what a crash leaves
        shutil.rmtree(temporary, ignore_errors=True)
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def remove_folder(path: Path) -> None:
    """Remove a folder in one step, as far as a crash can tell: a half of it never stands under its name.

    Raises:
        OSError: it cannot be removed.
    """
    temporary = temporary_beside(path)
    os.rename(path, temporary)
    shutil.rmtree(temporary)


def temporary_beside(path: Path) -> Path:
    """The name under which a folder is written, or removed."""
    return path.with_name(f".{path.name}.tmp")


def _write_synced(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
