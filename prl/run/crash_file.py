"""Crash files: what is needed to see an env fail again, in one small file that can be sent to others.

JSON, with the actions as a compressed .npy inside it. Reading one executes nothing; replaying it imports the
modules that its settings name, as training did.
"""

from __future__ import annotations

import base64
import io
import json
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learner.settings import ConfigError, is_integer
from prl.config.train_config import TrainConfig, to_yaml
from prl.run.files import WriteError, replace_json, versions
from workers.arrays import Array
from workers.recovering_pool import LostEpisode

FOLDER = "crashes"
"""Where they are, in the folder of a run."""

MAX_FILES = 20
"""Crash files that one run keeps: the first ones."""

PACKAGES = ("prl", "gymnasium", "numpy")
_FORMAT = 1
_MAX_ACTION_BYTES = 1 << 26
_MAX_FILE_BYTES = 1 << 27


@dataclass(frozen=True)
class Crash:
    """An episode that an env could not finish.

    Attributes:
        env: index of the env.
        seed: of its episode.
        actions: [T, *A], rows as `EnvPool.send` takes them, in the order of time, from the reset on. The last
            one is that of the step that failed; none if the reset did. None if they are not known.
        error: what the run said, in one line.
        traceback: of the env's own exception, "" if there was none.
        versions: of the packages that the run used.
        config: the run's settings as YAML; "" if the env was handed over in Python.
    """

    env: int
    seed: int
    actions: Array | None
    error: str
    traceback: str
    versions: Mapping[str, str]
    config: str


class CrashFolder:
    """Keeps a small number of crash files.

    Args:
        folder: made when the first one is kept, e.g. `run / FOLDER`.
        config: of the run, which says how its envs are built. None if they were handed over in Python; then
            `prl replay` has to be told.
    """

    def __init__(self, folder: Path, config: TrainConfig | None = None) -> None:
        self._folder = folder.absolute()  # an env may change the working directory
        self._config = "" if config is None else to_yaml(config)

    def keep(
        self,
        *,
        env: int,
        seed: int,
        actions: Array | Sequence[Array] | None,
        error: str,
        traceback: str = "",
    ) -> Path | None:
        """Write a crash file, in one step. Never raises: it must not end what it tells of.

        Args:
            env, seed, error, traceback: see `Crash`.
            actions: see `Crash`; a sequence of T rows will do. Of more than 64 MB none are kept.

        Returns:
            Its path; None if there are `MAX_FILES` already, or if it cannot be written, of which a warning
            tells.
        """
        path = self._free_path()
        if path is None:
            return None
        rows = None if actions is None else np.asarray(actions)
        if rows is not None and rows.nbytes > _MAX_ACTION_BYTES:
            rows = None
        content = _to_json(Crash(env, seed, rows, error, traceback, versions(PACKAGES), self._config))
        try:
            replace_json(path, content)
        except WriteError as problem:
            warnings.warn(f"{problem}; the failure is not kept for prl replay", stacklevel=2)
            return None
        return path

    def keep_lost(self, lost: LostEpisode) -> None:
        """Keep an episode that a pool has lost, and say so."""
        path = self.keep(
            env=lost.env, seed=lost.seed, actions=lost.actions, error=lost.reason, traceback=lost.traceback
        )
        if path is not None:
            warnings.warn(
                f"an episode of env {lost.env} is lost: {lost.reason}; prl replay {path} shows it",
                stacklevel=2,
            )

    def _free_path(self) -> Path | None:
        paths = (self._folder / f"crash-{number:02}.json" for number in range(1, MAX_FILES + 1))
        return next((path for path in paths if not path.exists()), None)


def _to_json(crash: Crash) -> dict[str, Any]:
    """Long texts as lists of lines, which people can read in a JSON file."""
    return {
        "format": _FORMAT,
        "error": crash.error,
        "traceback": crash.traceback.splitlines(),
        "env": int(crash.env),
        "seed": int(crash.seed),
        "num_actions": None if crash.actions is None else len(crash.actions),
        "versions": dict(crash.versions),
        "config": crash.config.splitlines(),
        "actions": None if crash.actions is None else _encoded(crash.actions),
    }


def read_crash(path: Path) -> Crash:
    """The content of a crash file.

    Raises:
        ConfigError: it cannot be read, or is no crash file.
    """
    try:
        size, content = path.stat().st_size, None
        if size <= _MAX_FILE_BYTES:
            content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not a crash file: it is not JSON") from None
    if size > _MAX_FILE_BYTES:
        raise ConfigError(f"{path} is not a crash file: it is too large")
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Crash:
    if not isinstance(content, dict) or "format" not in content:
        raise ConfigError(f"{path} is not a crash file: it says no format")
    if content["format"] != _FORMAT:
        raise ConfigError(
            f"{path} has format {content['format']!r}; this version of prl reads format {_FORMAT}"
        )
    for key, (kind, is_right) in _KINDS.items():
        if not is_right(content.get(key)):
            raise ConfigError(f"{path} is not a crash file: its {key} is not {kind}")
    actions = content.get("actions")
    return Crash(
        env=content["env"],
        seed=content["seed"],
        actions=None if actions is None else _decoded(path, actions),
        error=content["error"],
        traceback="\n".join(content["traceback"]),
        versions=content["versions"],
        config="\n".join(content["config"]),
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "error": ("text", lambda value: isinstance(value, str)),
    "traceback": ("a list of lines", _is_texts),
    "config": ("a list of lines", _is_texts),
    "env": ("an integer of 0 or more", lambda value: is_integer(value, 0)),
    "seed": ("an integer of 0 or more", lambda value: is_integer(value, 0)),
    "actions": ("text or null", lambda value: value is None or isinstance(value, str)),
    "versions": (
        "a mapping of packages to versions",
        lambda value: isinstance(value, dict) and _is_texts([*value, *value.values()]),
    ),
}


def _encoded(rows: Array) -> str:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(rows), allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def _decoded(path: Path, text: str) -> Array:
    """The rows. A small file cannot ask for much memory, and no objects are unpickled.

    Raises:
        ConfigError: these are no rows.
    """
    limit = _MAX_ACTION_BYTES + (1 << 16)  # and the header
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), limit)
        rows: Array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, zlib.error, MemoryError, SyntaxError) as error:
        raise ConfigError(f"{path} is not a crash file: its actions cannot be read ({error})") from None
    if rows.ndim == 0 or rows.dtype.kind not in "biuf":
        raise ConfigError(f"{path} is not a crash file: its actions are no rows of numbers")
    return rows
