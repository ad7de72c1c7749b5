"""Crash files: what is needed to see an env fail again, in one small file that can be sent to others.

JSON, with the actions as a compressed .npy inside it. Reading one executes nothing; replaying it imports the
modules that its settings name, as training did.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from learner.settings import ConfigError, is_integer
from prl.config.train_config import TrainConfig, to_yaml
from prl.run.files import WriteError, replace_json, versions
from workers.arrays import Array
from workers.env_call import EnvCall
from workers.errors import WorkerError
from workers.failed_episode import BEFORE, FailedEpisode, LostEpisode
from workers.seeding import NO_SEED

FOLDER = "crashes"
"""Where they are, in the folder of a run."""

MAX_FILES = 20
"""Lost episodes of which one run keeps a crash file: the first ones."""

_MAX_NUMBER = 99  # of a file; failures that end a run, which may go on and fail again, are kept besides
_MAX_CALLS = 10_000

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
        calls: that changed the env, each with the steps of the episode before it, or
            `workers.failed_episode.BEFORE`.
        missing_calls: how many more there were, which are not kept.
    """

    env: int
    seed: int
    actions: Array | None
    error: str
    traceback: str
    versions: Mapping[str, str]
    config: str
    calls: Sequence[tuple[int, EnvCall]] = ()
    missing_calls: int = 0


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
        self._last: tuple[tuple[int, int, int], Path] | None = None

    def keep(
        self, episode: FailedEpisode, error: str, traceback: str = "", most: int = MAX_FILES
    ) -> Path | None:
        """Write a crash file, in one step. Never raises: it must not end what it tells of.

        Args:
            episode: of more than 64 MB of actions none are kept.
            error, traceback: see `Crash`.
            most: crash files that there may be.

        Returns:
            Its path; that of the last one, if that has the same episode. None if there are too many already,
            or if it cannot be written, of which a warning tells.
        """
        same = episode.env, episode.seed, episode.steps
        if self._last is not None and self._last[0] == same:
            return self._last[1]
        path = self._free_path(most)
        if path is None:
            return None
        try:
            replace_json(path, _to_json(self._crash(episode, error, traceback)))
        except WriteError as problem:
            warnings.warn(f"{problem}; the failure is not kept for prl replay", stacklevel=2)
            return None
        self._last = same, path
        return path

    def _crash(self, episode: FailedEpisode, error: str, traceback: str) -> Crash:
        rows = np.zeros(0) if episode.steps == 0 else episode.actions
        if rows is not None and (rows.nbytes > _MAX_ACTION_BYTES or not episode.is_whole):
            rows = None
        calls = episode.calls or ()
        kept = [] if len(calls) > _MAX_CALLS else zip(episode.places, calls, strict=True)
        own = [(place, _of_one_env(call, episode.env)) for place, call in kept]
        return Crash(
            env=episode.env,
            seed=episode.seed,
            actions=rows,
            error=error,
            traceback=traceback,
            versions=versions(PACKAGES),
            config=self._config,
            calls=own,
            missing_calls=len(calls) - len(own),
        )

    def keep_lost(self, lost: LostEpisode) -> None:
        """Keep an episode that a pool has lost, and say so."""
        path = self.keep(lost.episode, lost.reason, lost.traceback)
        if path is not None:
            warnings.warn(
                f"an episode of env {lost.episode.env} is lost: {lost.reason}; prl replay {path} shows it",
                stacklevel=2,
            )

    @contextlib.contextmanager
    def keeps_the_last(self) -> Iterator[None]:
        """Keep the failure of an env that ends the block, and name the file in the error."""
        try:
            yield
        except WorkerError as error:
            episode = error.episode
            if episode is not None and episode.is_whole and episode.seed != NO_SEED:
                path = self.keep(episode, " ".join(str(error).split()), error.traceback, _MAX_NUMBER)
                if path is not None:
                    error.args = (f"{error}; prl replay {path} shows it",)
            raise

    def _free_path(self, most: int) -> Path | None:
        paths = (self._folder / f"crash-{number:02}.json" for number in range(1, most + 1))
        return next((path for path in paths if not path.exists()), None)


def _of_one_env(call: EnvCall, env: int) -> EnvCall:
    return replace(call, args=[call.args[env]], per_env=False) if call.per_env else call


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
        "calls": [
            {"after": place, "verb": call.verb, "name": call.name, "args": list(call.args)}
            | ({"kwargs": dict(call.kwargs)} if call.kwargs else {})
            for place, call in crash.calls
        ],
        "missing_calls": crash.missing_calls,
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
        calls=[_call(entry) for entry in content.get("calls") or []],
        missing_calls=content.get("missing_calls") or 0,
    )


def _call(entry: Mapping[str, Any]) -> tuple[int, EnvCall]:
    return entry["after"], EnvCall(entry["verb"], entry["name"], entry["args"], entry.get("kwargs", {}))


def _is_call(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("args"), list):
        return False
    kwargs = value.get("kwargs", {})
    is_known = value.get("verb") == "method" or (value.get("verb") == "set" and len(value["args"]) == 1)
    is_named = isinstance(value.get("name"), str) and isinstance(kwargs, dict)
    return is_known and is_named and is_integer(value.get("after"), BEFORE)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def _is_calls(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_call, value)))


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "error": ("text", lambda value: isinstance(value, str)),
    "traceback": ("a list of lines", _is_texts),
    "config": ("a list of lines", _is_texts),
    "env": ("an integer of 0 or more", lambda value: is_integer(value, 0)),
    "seed": ("an integer of 0 or more", lambda value: is_integer(value, 0)),
    "calls": ("a list of calls in their order", _is_calls),
    "missing_calls": ("an integer of 0 or more", lambda value: value is None or is_integer(value, 0)),
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
