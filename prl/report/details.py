"""The lower part of a report: where the time went, settings, commands, versions, a replay."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from pathlib import Path

from learner.settings import ConfigError
from prl.report.chart import color_class
from prl.report.facts import best_evaluation, final_evaluation, phase_shares, training_return
from prl.report.grouping import Group, Setting, changed_settings
from prl.report.markup import Markup, element, join
from prl.report.numbers import fixed, percent
from prl.report.reading import Run
from prl.report.tables import table

_PHASES = {
    "env": ("stepping envs", 0),
    "act": ("choosing actions", 5),
    "store": ("keeping steps", 2),
    "wait": ("waiting for workers", 4),
    "update": ("updates", 1),
    "other": ("the rest", 6),
}
_SHOWN = 0.0005  # a smaller share has no entry
_VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}
_MAX_VIDEO = 16 << 20  # bytes; a browser would take long to open a page with a larger one


# ---- where the time went


def time_bars(groups: Sequence[Group]) -> Markup | None:
    """A bar per group with the shares of training's time; None if they were not measured."""
    shares = [(group, found) for group in groups if (found := phase_shares(group.runs))]
    if not shares:
        return None
    bars = [
        element("div", _bar_name(group, groups), _bar(found), _key(found), class_="bar-row")
        for group, found in shares
    ]
    caption = element(
        "figcaption", element("b", "Where the time went"), " ", element("span", "shares of training")
    )
    return element("figure", caption, bars, class_="chart time")


def _bar_name(group: Group, groups: Sequence[Group]) -> Markup | None:
    return element("span", group.label, class_="bar-name") if len(groups) > 1 else None


def _bar(shares: dict[str, float]) -> Markup:
    parts = [
        element(
            "i",
            class_=color_class(_PHASES[phase][1]),
            style=f"width:{100.0 * share:.2f}%",
            title=f"{_PHASES[phase][0]}: {percent(share)}",
        )
        for phase, share in shares.items()
        if share >= _SHOWN
    ]
    return element("div", parts, class_="bar")


def _key(shares: dict[str, float]) -> Markup:
    entries = [
        element(
            "span",
            element("i", class_=f"swatch {color_class(_PHASES[phase][1])}"),
            _PHASES[phase][0],
            " ",
            element("b", percent(share)),
        )
        for phase, share in shares.items()
        if share >= _SHOWN
    ]
    return element("div", entries, class_="key")


# ---- settings


def settings_table(groups: Sequence[Group]) -> Markup:
    """Settings that differ from the defaults, a column per group if there are several."""
    if not any(run.settings for group in groups for run in group.runs):
        return element("p", "The folders hold no settings (config.yaml).", class_="quiet")
    changed = changed_settings(groups)
    if not changed:
        return element("p", "All settings have their defaults.", class_="quiet")
    names = ["value"] if len(groups) == 1 else [group.label for group in groups]
    rows = [_setting_row(setting) for setting in changed]
    return join(table(["setting", *names, "default", "from"], rows), _files(groups))


def _setting_row(setting: Setting) -> list[Markup]:
    differs = len(set(setting.values)) > 1
    values = [
        element("td", element("code", value), class_="differs" if differs else None)
        for value in setting.values
    ]
    return [
        element("th", element("code", setting.name), scope="row"),
        *values,
        element("td", element("code", setting.default), class_="quiet"),
        element("td", setting.source, class_="quiet"),
    ]


def _files(groups: Sequence[Group]) -> Markup | None:
    texts = [(group, group.runs[0].settings_text) for group in groups if group.runs[0].settings_text]
    if not texts:
        return None
    parts = [
        (element("p", f"{group.runs[0].name}/config.yaml", class_="quiet"), element("pre", text.strip()))
        for group, text in texts
    ]
    return element("details", element("summary", "All settings"), parts)


# ---- commands and versions


def commands(groups: Sequence[Group]) -> Markup | None:
    """The command of the first run of each group, and those of the others in a block that opens."""
    runs = [run for group in groups for run in group.runs if run.command]
    if not runs:
        return None
    first = {group.runs[0].name for group in groups}
    shown = [element("pre", run.command) for run in runs if run.name in first]
    others = [run.command for run in runs if run.name not in first]
    rest = None
    if others:
        label = (
            "The command of the other run"
            if len(others) == 1
            else f"Commands of the other {len(others)} runs"
        )
        rest = element("details", element("summary", label), element("pre", "\n".join(others)))
    return join(shown, rest)


def versions_table(groups: Sequence[Group]) -> Markup | None:
    """Versions of the packages; where runs differ, all of them."""
    runs = [run for group in groups for run in group.runs]
    names = dict.fromkeys(name for run in runs for name in run.versions)
    entries = []
    for name in names:
        found = dict.fromkeys(_short(run.versions[name]) for run in runs if name in run.versions)
        entries.append(element("div", element("dt", name), element("dd", ", ".join(found))))
    return element("dl", entries) if entries else None


def _short(version: str) -> str:
    """A platform without the build of its kernel and its C library; a version as it is."""
    match = re.match(r"(\w+)-(\d+(?:\.\d+)*).*?-(x86_64|aarch64|arm64)\b", version)
    return f"{match[1]} {match[2]}, {match[3]}" if match else version


# ---- a replay


def replay(groups: Sequence[Group], chosen: Path | None, decimals: int) -> tuple[Markup | None, list[str]]:
    """A video, embedded, and remarks about it.

    Args:
        groups: of one env. The best run that has a video in its folder is taken.
        chosen: a video to take instead.
        decimals: of returns.

    Raises:
        ConfigError: the chosen video cannot be read or is of an unknown kind.
    """
    if chosen is not None:
        return _player(chosen, chosen.name), []
    runs = sorted((run for group in groups for run in group.runs), key=_merit, reverse=True)
    for run in runs:
        video = newest_video(run)
        if video is None:
            continue
        if video.stat().st_size > _MAX_VIDEO:
            return None, [f"{video} is left out: it has more than {_MAX_VIDEO >> 20} MiB."]
        caption = f"{run.name}, {video.name}"
        final = final_evaluation(run)
        return _player(
            video, caption + (f"; final evaluation {fixed(final, decimals)}" if math.isfinite(final) else "")
        ), []
    return None, []


def _merit(run: Run) -> float:
    for value in (final_evaluation(run), best_evaluation(run)[0], training_return(run)):
        if math.isfinite(value):
            return value
    return -math.inf


def newest_video(run: Run) -> Path | None:
    """The video that was written last to the folder of a run, or to a folder in it."""
    paths = (*run.folder.glob("*"), *run.folder.glob("*/*"))
    found = [path for path in paths if path.suffix in _VIDEO_TYPES and path.is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)


def _player(video: Path, caption: str) -> Markup:
    kind = _VIDEO_TYPES.get(video.suffix)
    if kind is None:
        raise ConfigError(f"video must end in {' or '.join(_VIDEO_TYPES)}, got {video}")
    try:
        data = base64.b64encode(video.read_bytes()).decode()
    except OSError as error:
        raise ConfigError(f"cannot read {video}: {error.strerror or error}") from error
    player = element(
        "video",
        controls=True,
        muted=True,
        loop=True,
        playsinline=True,
        preload="auto",
        src=f"data:{kind};base64,{data}",
    )
    return element("figure", player, element("figcaption", element("span", caption)), class_="replay")
