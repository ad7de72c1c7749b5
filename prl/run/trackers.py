"""Experiment trackers by name: the ones that prl knows, and those of other packages."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.settings import ConfigError
from prl.config.yaml_format import Unwritten, load
from prl.run.background import BackgroundSink
from prl.run.sinks import Sink
from prl.run.tracker_tools import mlflow_sink, swanlab_sink, trackio_sink, wandb_sink

ENTRY_POINTS = "prl.sinks"
"""The group of entry points in which other packages offer trackers."""

MakeSink = Callable[[Mapping[str, Any], Path], Sink]
"""Opens a tracker for a run: it gets the settings, as `config.yaml` holds them, and the run folder."""

_KNOWN: dict[str, MakeSink] = {
    "wandb": wandb_sink,
    "mlflow": mlflow_sink,
    "trackio": trackio_sink,
    "swanlab": swanlab_sink,
}


@dataclass(frozen=True)
class Tracker:
    """A tracker that is installed.

    Attributes:
        name: by which it was asked for.
        make: see `MakeSink`.
    """

    name: str
    make: MakeSink

    def start(self, folder: Path) -> BackgroundSink:
        """Begin to track a run, in a thread of its own.

        Args:
            folder: of the run; its settings are there already.
        """
        settings = written_settings(folder)
        return BackgroundSink(f"track {self.name}", lambda: self.make(settings, folder))


def find_trackers(names: Sequence[str]) -> list[Tracker]:
    """The trackers with these names. Nothing of a tool is imported, unless an entry point does.

    Args:
        names: of tools that prl knows, or of entry points of the group `prl.sinks`: functions of settings and
            folder, see `MakeSink`. A name that is given twice counts once.

    Raises:
        ConfigError: there is none with such a name, or it is not installed.
    """
    return [Tracker(name, _find(name)) for name in dict.fromkeys(names)]


def _find(name: str) -> MakeSink:
    if name in _KNOWN:
        if not _is_installed(name):
            raise ConfigError(f'track {name} needs the extra "track-{name}": pip install "prl[track-{name}]"')
        return _KNOWN[name]
    others = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in others:
        raise ConfigError(_unknown(name, others))
    try:
        make: MakeSink = others[name].load()
    except Exception as error:  # the code of another package
        raise ConfigError(f"track {name}: {others[name].value} cannot be imported: {error}") from error
    return make


def _unknown(name: str, others: Mapping[str, object]) -> str:
    installed = [*filter(_is_installed, _KNOWN), *others]
    close = difflib.get_close_matches(name, [*_KNOWN, *others], n=1)
    return (
        f"track must be {', '.join(_KNOWN)} or an entry point of {ENTRY_POINTS}, got {name!r}"
        + (f"; did you mean {close[0]}?" if close else "")
        + f"; installed are: {', '.join(installed) or 'none'}"
    )


def _is_installed(package: str) -> bool:
    """Whether it can be imported; a folder of that name, as these tools make them, is no package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def written_settings(folder: Path) -> dict[str, Any]:
    """The settings in a folder's `config.yaml`, if it has one. What YAML cannot hold is its description."""
    path = folder / "config.yaml"
    if not path.exists():
        return {}
    settings: dict[str, Any] = load(path.read_text())
    return {name: _plain(value) for name, value in settings.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.description if isinstance(value, Unwritten) else value
