"""The budget of an env step in training: what each phase takes, and how that grows; measured and drawn.

    python scripts/studies/step_budget.py measure
    python scripts/studies/step_budget.py draw

`measure` trains every case for a moment, in turns, and writes the medians of what the reports say of their
time (`time/*_share`) to `docs/benchmark/step-budget.json`; `draw` makes `docs/step_budget.png` (envs and who
acts) and `docs/step_budget_growth.png` (envs, groups, rounds, workers, cost of
an env, networks) from that file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prl.commands.steppers import Task, loop
from prl.commands.suites.collect import training
from prl.commands.suites.rates import rate
from prl.commands.suites.stepping import random_actions
from prl.config.train_config import ConfigError, TrainConfig
from workers.cores import usable_cores
from workers.envs import EnvFactory, env_factory
from workers.testing import BusyEnv

PHASES = ("env", "act", "store", "wait", "update", "other")
_COLORS = ("#2563eb", "#d97706", "#059669", "#9ca3af", "#7c3aed", "#374151")
_DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
_FILE = _DOCS / "benchmark" / "step-budget.json"
_BASE: Mapping[str, Any] = {
    "num_envs": 32,
    "rollout": "steps",
    "num_steps": 128,
    "minibatch_size": 256,
    "num_epochs": 4,
    "device": "cpu",
    "total_timesteps": 1 << 40,  # endless: what overlaps does so until the end of its run is near
}
_COLUMNS, _DPI = 3, 120  # of the pictures
_SKIPPED = 2  # iterations, in which processes start and caches fill


@dataclass(frozen=True)
class Case:
    """One bar.

    Attributes:
        panel: of the pictures.
        label: below the bar.
        env_id: of a registered env.
        milliseconds: of a step of the env that computes, which takes the place of `env_id`; None takes that.
        settings: of `TrainConfig`, beyond those that all have in common.
    """

    panel: str
    label: str
    env_id: str = "CartPole-v1"
    milliseconds: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def factory(self) -> EnvFactory:
        """Of its envs."""
        if self.milliseconds is not None:
            return env_factory(BusyEnv, env_kwargs={"milliseconds": self.milliseconds})
        return env_factory(self.env_id)

    @property
    def config(self) -> TrainConfig:
        """Of its run."""
        return TrainConfig(env_id=self.env_id, **{**_BASE, **self.settings})


def acting(num_workers: int, **settings: Any) -> dict[str, Any]:
    """Workers that act, or none."""
    way = "worker" if num_workers else "learner"
    return {"num_workers": num_workers, "acting": way, "num_groups": 2, **settings}


WAYS: Mapping[str, Mapping[str, Any]] = {
    "no\nworkers": acting(0),
    "learner\nacts": acting(2, acting="learner"),
    "workers\nact": acting(2),
    "overlap": acting(2, overlap=True),
}
ENVS = ("CartPole-v1", "LunarLander-v3", "HalfCheetah-v5")
GROWTH = {
    "envs": "number of envs (groups of at most 16)",
    "groups": "envs per group (256 envs)",
    "rounds": "steps per round (16 envs)",
    "workers": "number of workers (LunarLander-v3)",
    "cost": "milliseconds of an env's step",
    "network": "width of the two hidden layers",
}


def all_cases() -> Iterator[Case]:
    """In the order of the pictures."""
    for env_id in ENVS:
        for way, settings in WAYS.items():
            yield Case(env_id, way, env_id, settings=settings)
    for count in (8, 16, 32, 64, 128, 256):
        settings = acting(2, num_envs=count, num_groups=max(2, count // 16))
        yield Case("envs", str(count), settings=settings)
    for size in (8, 16, 32, 64, 128):
        yield Case("groups", str(size), settings=acting(2, num_envs=256, num_groups=256 // size))
    for steps in (32, 64, 128, 256, 512):
        yield Case("rounds", str(steps), settings=acting(2, num_envs=16, num_steps=steps))
    for count in (0, 1, 2):
        yield Case("workers", str(count), "LunarLander-v3", settings=acting(count))
    for milliseconds in (0.0, 0.01, 0.1, 1.0):
        yield Case("cost", f"{milliseconds:g}", milliseconds=milliseconds, settings=acting(2))
    for width in (32, 64, 128, 256, 512):
        yield Case("network", str(width), settings=acting(2, hidden_sizes=(width, width)))


def budget(case: Case, seconds: float) -> dict[str, float]:
    """Microseconds of each phase per env step, in training for some time."""
    config = case.config
    with training(config, case.factory, config.envs * config.num_steps) as trainer:
        reports = trainer.iterations()
        for _ in range(_SKIPPED):
            before = next(reports).timesteps
        start, spent = before, dict.fromkeys(PHASES, 0.0)
        began = time.perf_counter()
        for report in reports:
            duration = (report.timesteps - before) / report.metrics["time/iteration_fps"]
            before = report.timesteps
            for name in PHASES:
                spent[name] += report.metrics[f"time/{name}_share"] * duration
            if time.perf_counter() - began >= seconds:
                break
    return {name: 1e6 * value / (before - start) for name, value in spent.items()}


def limit(env_id: str, seconds: float) -> float:
    """Microseconds per env step of as many plain loops as there are cores."""
    factory = env_factory(env_id)
    task = Task(env_id, {}, factory, 0, random_actions(factory, _BASE["num_envs"]))
    return 1e6 / rate(lambda: loop(task), seconds) / usable_cores()


def measure(cases: Sequence[Case], seconds: float, repeats: int) -> dict[str, Any]:
    """Medians of turns.

    Args:
        cases: what is measured.
        seconds: of each turn, at least.
        repeats: turns of each.

    Returns:
        What the file holds: `cores`, `repeats`, `settings`, `limits` (us per step, by env) and `cases`, each
        with its panel, its label, and `us_per_step` by phase.
    """
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    limits: dict[str, list[float]] = {env_id: [] for env_id in ENVS if any(c.panel == env_id for c in cases)}
    for turn in range(repeats):
        for env_id, values in limits.items():
            values.append(limit(env_id, seconds))
        for case, turns in zip(cases, found, strict=True):
            turns.append(budget(case, seconds))
            label = " ".join(case.label.split())
            print(
                f"turn {turn}: {case.panel}, {label}: {sum(turns[-1].values()):.1f} us per step", flush=True
            )
    return {
        "cores": usable_cores(),
        "repeats": repeats,
        "seconds": seconds,
        "settings": {name: value for name, value in _BASE.items() if name != "total_timesteps"},
        "limits": {env_id: round(statistics.median(values), 3) for env_id, values in limits.items()},
        "cases": [
            {"panel": case.panel, "label": case.label, "us_per_step": middle(turns)}
            for case, turns in zip(cases, found, strict=True)
        ],
    }


def middle(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The turn whose sum is the median, so that phases add up to it."""
    middle_turn = sorted(turns, key=lambda turn: sum(turn.values()))[(len(turns) - 1) // 2]
    return {name: round(value, 3) for name, value in middle_turn.items()}


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Both pictures.

    Args:
        found: what `measure` has returned.
        folder: of the pictures.
    """
    from matplotlib.figure import Figure  # an extra; not pyplot, which wants a display and keeps figures

    written = []
    for name, titles in (("step_budget", {env: env for env in ENVS}), ("step_budget_growth", GROWTH)):
        rows = -(-len(titles) // _COLUMNS)
        figure = Figure(figsize=(10.0, 4.0 * rows), layout="constrained")
        for index, (panel, title) in enumerate(titles.items()):
            axes = figure.add_subplot(rows, _COLUMNS, index + 1)
            bars = [case for case in found["cases"] if case["panel"] == panel]
            least = found["limits"].get(panel)
            draw_panel(axes, bars, least, in_shares=panel in GROWTH)
            axes.set_title(title if least is None else f"{title} (limit: {least:.1f} us)", fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=_DPI, metadata={"Software": None})
    return written


def draw_panel(axes: Any, bars: Sequence[Mapping[str, Any]], limit: float | None, in_shares: bool) -> None:
    """Stacked bars, in microseconds or in shares, with the microseconds of all phases above them.

    Args:
        axes: of matplotlib.
        bars: cases of one panel.
        limit: where to draw the line of the limit, if anywhere.
        in_shares: of the whole.
    """
    places = range(len(bars))
    totals = [sum(case["us_per_step"].values()) for case in bars]
    below = [0.0] * len(bars)
    for phase, color in zip(PHASES, _COLORS, strict=True):
        values = [case["us_per_step"][phase] for case in bars]
        heights = [100 * v / total for v, total in zip(values, totals, strict=True)] if in_shares else values
        axes.bar(places, heights, bottom=below, color=color, width=0.7, label=phase)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for place, top, total in zip(places, below, totals, strict=True):
        text = f"{total:.0f}" if total >= 100 else f"{total:.1f}"
        axes.annotate(text, (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    if limit is not None:
        axes.axhline(limit, color="black", linewidth=1.0, linestyle="--", label="the limit")
    axes.set_xticks(places, [case["label"] for case in bars], fontsize=9)
    axes.set_ylabel("% of the time (above: us per env step)" if in_shares else "us per env step")
    axes.margins(y=0.1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def positive(text: str) -> float:
    """A number above 0."""
    if not 0.0 < float(text) < 1e6:
        raise ValueError(text)
    return float(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for bad input."""
    top = argparse.ArgumentParser(prog="step_budget.py", description="The budget of an env step in training.")
    commands = top.add_subparsers(required=True, metavar="command", dest="command")
    measuring = commands.add_parser("measure", help="train every case for a moment, in turns")
    measuring.add_argument("--seconds", type=positive, default=0.5, help="of each turn, at least")
    measuring.add_argument("--repeats", type=int, default=3, help="turns of each")
    measuring.add_argument("--panels", nargs="+", choices=(*ENVS, *GROWTH), default=(*ENVS, *GROWTH))
    measuring.add_argument("--json", type=Path, default=_FILE, help="what is written")
    drawing = commands.add_parser("draw", help="draw what was measured")
    drawing.add_argument("--json", type=Path, default=_FILE, help="what is read")
    drawing.add_argument("--folder", type=Path, default=_DOCS, help="of the pictures")
    args = top.parse_args(argv)
    try:
        if args.command == "measure":
            chosen = [case for case in all_cases() if case.panel in args.panels]
            found = measure(chosen, args.seconds, max(1, args.repeats))
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        elif importlib.util.find_spec("matplotlib") is None:
            raise ConfigError('matplotlib is not installed: pip install "prl[plot]"')
        else:
            for path in draw(json.loads(args.json.read_text(encoding="utf-8")), args.folder):
                print(f"wrote {path}")
    except (OSError, ValueError) as error:  # files, unusable envs
        print(f"step_budget.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
