"""The files of one checkpoint: written as bytes with their hashes, and read with suspicion."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from learner.settings import ConfigError
from prl.run.checkpoint_state import decode, encode

FORMAT = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
_NOT_ITS_FAULT = frozenset(
    (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
)
_LARGEST = {MANIFEST: 1 << 20, STATE: 1 << 28, TENSORS: 1 << 35}


class CheckpointError(ValueError):
    """A checkpoint is damaged, or is none; the message says in a line what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after one of its updates.

    Attributes:
        timesteps: env steps of the run before it.
        about: what else the manifest says: versions, fingerprint, config, ...
        state: as it was written; tensors are on the CPU.
    """

    timesteps: int
    about: dict[str, Any]
    state: dict[str, Any]


def to_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of a checkpoint, by name."""
    tree, tensors = encode(checkpoint.state)
    contents = {STATE: json.dumps(tree).encode(), TENSORS: save_tensors(tensors)}
    manifest = {
        "format": FORMAT,
        "timesteps": checkpoint.timesteps,
        **checkpoint.about,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    sealed = {**manifest, "sha256": seal(manifest)}
    return {**contents, MANIFEST: (json.dumps(sealed, indent=2) + "\n").encode()}


def seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own: a flipped bit is noticed, whatever it says then."""
    unsealed = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True).encode()).hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, and check that it is what was written. Nothing in it is executed.

    Only the three files of a checkpoint are opened, and no name in them is taken for a path. They must be
    regular files of a real folder, have the size and the hash that the manifest says, and be no larger than
    such files can be. Whether the state fits a trainer is another question: `checkpoint_check`.

    Raises:
        CheckpointError: something is wrong with it.
        ConfigError: it cannot be read now, which says nothing about it.
    """
    try:
        if stat.S_ISLNK(os.lstat(folder).st_mode):
            raise CheckpointError("it is a symbolic link")
        manifest = _manifest(folder)
        contents = {name: _verified(folder, name, manifest["files"][name]) for name in (STATE, TENSORS)}
        state = decode(_json(STATE, contents[STATE]), _tensors(contents[TENSORS]))
    except OSError as error:
        if error.errno in _NOT_ITS_FAULT:
            raise ConfigError(f"cannot read {folder}: {error.strerror or error}") from error
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"its manifest lacks something: {error!r}") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(state, dict):
        raise CheckpointError("its state is no mapping")
    known = ("format", "timesteps", "files", "sha256")
    about = {name: value for name, value in manifest.items() if name not in known}
    return Checkpoint(manifest["timesteps"], about, state)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = _json(MANIFEST, _read(folder / MANIFEST, _LARGEST[MANIFEST]))
    if not isinstance(manifest, dict) or manifest.get("sha256") != seal(manifest):
        raise CheckpointError(f"{MANIFEST} is not what was written")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"its format is {manifest['format']!r}; this version of prl reads {FORMAT}")
    if set(manifest["files"]) != {STATE, TENSORS}:
        raise CheckpointError(f"{MANIFEST} names other files than {STATE} and {TENSORS}")
    if type(manifest["timesteps"]) is not int or str(manifest["timesteps"]) != folder.name:
        raise CheckpointError(f"it is of {manifest['timesteps']!r} steps, unlike its name")
    return manifest


def _verified(folder: Path, name: str, expected: Mapping[str, Any]) -> bytes:
    content = _read(folder / name, min(expected["bytes"], _LARGEST[name]))
    if len(content) != expected["bytes"]:
        raise CheckpointError(f"{name} has {len(content)} bytes, not {expected['bytes']}")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{name} is not what was written: its SHA-256 differs")
    return content


def _read(path: Path, largest: int) -> bytes:
    # Not blocking, since a named pipe could stand there; what it is shows only the open descriptor.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as stream:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path.name} is no regular file")
        if found.st_size > largest:
            raise CheckpointError(f"{path.name} is larger than it should be ({found.st_size} bytes)")
        return stream.read(largest)


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON as it is written: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _tensors(content: bytes) -> dict[str, torch.Tensor]:
    try:
        return load_tensors(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a kind of numbers that PyTorch does not know
        raise CheckpointError(f"{TENSORS} is damaged or not a safetensors file: {error}") from error
