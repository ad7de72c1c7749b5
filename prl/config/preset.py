"""Tuned settings that ship with prl, looked up by env id."""

from __future__ import annotations

import fnmatch
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from learner.settings import ConfigError


@dataclass(frozen=True)
class Preset:
    """Settings for the environments whose ids match a pattern.

    Attributes:
        pattern: of env ids, with * and ?.
        family: name of its file.
        settings: fields of `TrainConfig`.
    """

    pattern: str
    family: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"preset {self.pattern} ({self.family}): {settings}"

    def effective(self, config: object) -> Preset:
        """The preset without the settings that a file or flags have overridden in `config`."""
        kept = {name: value for name, value in self.settings.items() if _same(getattr(config, name), value)}
        return Preset(self.pattern, self.family, kept)


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return value.items() <= dict(found).items()
    return bool(list(found) == value if isinstance(value, list) else found == value)


def find_preset(env_id: str, choice: str = "auto") -> Preset | None:
    """The preset for an env.

    Args:
        env_id: with or without `module:`.
        choice: "auto" looks for `env_id`, "none" finds none, anything else is the id to look for.

    Raises:
        ConfigError: there is no preset for the chosen id.
    """
    if choice == "none":
        return None
    wanted = env_id if choice == "auto" else choice
    name = wanted.rpartition(":")[2]
    for preset in all_presets():
        if fnmatch.fnmatchcase(name, preset.pattern):
            return preset
    if choice == "auto":
        return None
    patterns = ", ".join(preset.pattern for preset in all_presets())
    raise ConfigError(f"there is no preset for {choice!r}; preset must be auto, none, or match {patterns}")


def all_presets() -> Iterator[Preset]:
    """All presets, family by family."""
    folder = importlib.resources.files("prl.config") / "presets"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            for pattern, settings in yaml.safe_load(file.read_text()).items():
                yield Preset(pattern, file.name.removesuffix(".yaml"), settings)
