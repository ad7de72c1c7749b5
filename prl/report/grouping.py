"""Runs of one env that differ in nothing but their seeds belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prl.config.preset import find_preset
from prl.config.train_config import ConfigError, TrainConfig
from prl.config.yaml_format import Unwritten
from prl.report.reading import Run

_NOT_COMPARED = frozenset({"seed", "run_folder", "track", "track_project"})
_NAMED_SETTINGS = 2  # in a label


@dataclass(frozen=True)
class Group:
    """Runs with equal settings.

    Attributes:
        label: what tells it from the other groups of the env: the settings that differ, or names of runs.
        color: its number, from 0.
        runs: at least one.
    """

    label: str
    color: int
    runs: tuple[Run, ...]

    @property
    def compared(self) -> tuple[Run, ...]:
        """The runs that statistics are about: those that came to their end, or all if none did."""
        return tuple(run for run in self.runs if run.status == "finished") or self.runs


def by_env(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """The groups of each env, in the order in which the runs are given."""
    envs: dict[str, list[Run]] = {}
    for run in runs:
        envs.setdefault(run.env_id, []).append(run)
    return {env: _groups(of_env) for env, of_env in envs.items()}


def _groups(runs: Sequence[Run]) -> list[Group]:
    groups: list[list[Run]] = []
    defaults = _defaults()  # of settings that are younger than a run
    for run in runs:
        own = defaults | _compared(run)
        home = next((g for g in groups if run.settings and defaults | _compared(g[0]) == own), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    labels = _labels(groups)
    return [
        Group(label, index, tuple(group))
        for index, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


def _compared(run: Run) -> dict[str, Any]:
    return {name: _plain(value) for name, value in run.settings.items() if name not in _NOT_COMPARED}


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    names = [
        ", ".join(run.name for run in group[:2]) + (", ..." if len(group) > 2 else "") for group in groups
    ]
    if len(groups) == 1:
        return [groups[0][0].env_id or names[0]]
    labels = [_label(group[0], differing([other[0] for other in groups])) for group in groups]
    distinct = len(set(labels)) == len(labels) and all(labels)
    return labels if distinct else names


def _label(run: Run, names: Sequence[str]) -> str:
    settings = {**_defaults(), **run.settings}
    return ", ".join(f"{name} {shown(settings.get(name))}" for name in names[:_NAMED_SETTINGS])


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, seeds and folders aside."""
    every = [_defaults() | _compared(run) for run in runs]
    names = {name: None for settings in every for name in settings if name not in _NOT_COMPARED}
    return [name for name in names if any(found.get(name) != every[0].get(name) for found in every)]


# ---- beside the defaults


@dataclass(frozen=True)
class Setting:
    """A setting that is not at its default.

    Attributes:
        name: of the field of `TrainConfig`.
        default: the default's text.
        values: texts, one per group.
        source: "preset" if prl's own preset for the env has this value in every group, else "given".
    """

    name: str
    default: str
    values: tuple[str, ...]
    source: str


def changed_settings(groups: Sequence[Group]) -> list[Setting]:
    """Settings that are not at their defaults in some group: first those that were given, then a preset's."""
    defaults = _defaults()
    first_runs = [group.runs[0] for group in groups]
    known = [name for name in defaults if name not in {*_NOT_COMPARED, "env_id"}]
    others = {
        name: None for run in first_runs for name in run.settings if name not in {*defaults, *_NOT_COMPARED}
    }
    changed = [
        Setting(
            name,
            shown(defaults[name]) if name in defaults else "–",
            tuple(shown(run.settings.get(name, defaults.get(name))) for run in first_runs),
            _source(name, first_runs),
        )
        for name in [*known, *others]
        if any(
            name in run.settings and _plain(run.settings[name]) != defaults.get(name) for run in first_runs
        )
    ]
    return sorted(changed, key=lambda setting: setting.source == "preset")


def _defaults() -> dict[str, Any]:
    values = vars(TrainConfig(env_id="any"))
    return {item.name: _plain(values[item.name]) for item in dataclasses.fields(TrainConfig)}


def _source(name: str, runs: Sequence[Run]) -> str:
    return "preset" if all(_is_of_preset(name, run) for run in runs) else "given"


def _is_of_preset(name: str, run: Run) -> bool:
    try:
        preset = find_preset(run.env_id, str(run.settings.get("preset", "auto")))
    except ConfigError:  # one that this version of prl no longer has
        return False
    settings = preset.settings if preset is not None else {}
    return name in settings and _plain(settings[name]) == _plain(run.settings.get(name))


def _plain(value: Any) -> Any:
    """A value as a file has it: tuples and lists are the same there."""
    return list(value) if isinstance(value, list | tuple) else value


def shown(value: Any) -> str:
    """A setting's value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Unwritten):
        return value.description
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
