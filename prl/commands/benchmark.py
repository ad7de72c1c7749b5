"""Raw stepping throughput of the pools beside baselines from other libraries, all measured in one run.

Throughput depends on the machine and on its other load, so read the ratios. The steppers take turns, several
times round, and only one of them is alive at a time. Starting up is not measured.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from learner.fingerprint import fingerprint
from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.commands.steppers import SEED, STEPPERS, Stepper, Steps, Task
from prl.commands.update_speed import format_updates, measure_updates
from prl.run.files import replace_json, versions
from prl.run.torch_state import standard_torch
from workers.cores import usable_cores
from workers.envs import env_factory
from workers.errors import describe

_ACTION_ROWS = 256  # then the actions start again from the first
_WARM_UP = 0.25  # of the measured seconds
_PACKAGES = ("prl", "torch", "numpy", "gymnasium", "stable_baselines3", "envpool")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure how fast an environment steps, in prl's pools and in other libraries' vector environments.

    Attributes:
        suite: stepping measures pools and vector environments; update measures PPO's optimiser step on
            batches of env_id, and takes only env_kwargs, repeats and json besides.
        env_id: anything gymnasium.make takes; module:EnvId imports module first.
        env_kwargs: keyword arguments of the env, as key=value; values are read as YAML.
        num_envs: environments of each pool or vector environment.
        num_workers: worker processes of the pools and threads of EnvPool; null takes one per usable core.
        seconds: measured time per pool and repeat.
        repeats: number of turns of each, at least 3; the median counts.
        json: file to write the result to, as well.
        only: names of what to measure, e.g. shared sync async; all if none is given.

    Raises:
        ConfigError: a value is out of range.
    """

    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int = 32
    num_workers: int | None = None
    seconds: float = 3.0
    repeats: int = 3
    json: Path | None = None
    only: Sequence[str] = ()
    suite: Literal["stepping", "update"] = "stepping"

    def __post_init__(self) -> None:
        if not self.env_id:
            raise ConfigError("env_id is required, e.g. CartPole-v1")
        check(self, _RULES)


_RULES: tuple[Rule, ...] = (
    ("num_envs num_workers", lambda v: v >= 1, "at least 1"),
    ("seconds", lambda v: 0.0 < v < float("inf"), "a positive number"),
    ("repeats", lambda v: v >= 3, "at least 3"),
    ("only", lambda v: set(v) <= set(STEPPERS), f"names among {', '.join(STEPPERS)}"),
)


@standard_torch()
def make_task(config: BenchmarkConfig) -> Task:
    """The task, with its actions drawn.

    Raises:
        EnvError: the environment cannot be used.
    """
    factory = env_factory(config.env_id, env_kwargs=config.env_kwargs)
    space = copy.deepcopy(factory.action_space)
    space.seed(SEED)
    rows = [[space.sample() for _ in range(config.num_envs)] for _ in range(_ACTION_ROWS)]
    workers = usable_cores() if config.num_workers is None else config.num_workers
    return Task(config.env_id, config.env_kwargs, factory, workers, np.array(rows, space.dtype))


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure all steppers in turn, `repeats` times round.

    Returns:
        The settings, `cores`, `versions`, `skipped` (name -> why) and `results`: name ->
        `steps_per_second` (the median), `all` (one per repeat), `ratio_to_async` and `fraction_of_limit`
        (None if there is nothing to compare with). The result "limit" is usable cores x "loop".

    Raises:
        ConfigError: the JSON file cannot be written.
        EnvError: the environment cannot be used.
    """
    file = None if config.json is None else config.json.absolute()  # an env may change the directory
    if file is not None:
        _check_writable(file)
    task = make_task(config)
    names = [name for name in STEPPERS if name in config.only or not config.only]
    skipped = {name: "not installed" for name in names if not STEPPERS[name].installed}
    rates: dict[str, list[float]] = {name: [] for name in names if name not in skipped}
    for name in tqdm(list(rates) * config.repeats, unit="turn", disable=None, leave=False):
        if name not in skipped:
            try:
                rates[name].append(_turn(STEPPERS[name], task, config.seconds))
            except Exception as error:  # baselines fail in their own ways; the others continue
                skipped[name] = f"failed: {describe(error)}"
    cores = usable_cores()
    result = {
        "env_id": config.env_id,
        "num_envs": config.num_envs,
        "num_workers": task.num_workers,
        "cores": cores,
        "seconds": config.seconds,
        "repeats": config.repeats,
        "versions": {**versions(_PACKAGES), "fingerprint": fingerprint()},
        "results": _results({name: values for name, values in rates.items() if name not in skipped}, cores),
        "skipped": skipped,
    }
    if file is not None:
        write_json(result, file)
    return result


def _turn(stepper: Stepper, task: Task, seconds: float) -> float:
    """Start, warm up, measure, end. Returns env steps per second."""
    gc.collect()  # or one's garbage would be collected on another's time
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # Baselines warn at their start: of float64 bounds of their own spaces, and of forking.
            warnings.simplefilter("ignore")
            steps = stack.enter_context(stepper.start(task))
            measure(steps, _WARM_UP * seconds)
        return measure(steps, seconds)


def measure(steps: Steps, seconds: float) -> float:
    """Env steps per second, over at least `seconds`."""
    count = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += next(steps)
    return count / elapsed


def _results(rates: Mapping[str, list[float]], cores: int) -> dict[str, dict[str, Any]]:
    rates = dict(rates)
    if "loop" in rates:
        rates["limit"] = [cores * value for value in rates["loop"]]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        name: {
            "steps_per_second": medians[name],
            "all": values,
            "ratio_to_async": medians[name] / medians["async"] if "async" in medians else None,
            "fraction_of_limit": medians[name] / medians["limit"] if "limit" in medians else None,
        }
        for name, values in rates.items()
    }


def format_table(result: Mapping[str, Any]) -> str:
    """The result of `benchmark` in lines of text."""
    lines = [
        f"{result['env_id']}, {result['num_envs']} envs, {result['num_workers']} workers, "
        f"{result['cores']} cores; median of {result['repeats']} x {result['seconds']:g} s",
        "",
        f"{'':26}{'steps/s':>11}{'min .. max':>26}{'x async':>9}{'of limit':>10}",
    ]
    labels = {name: stepper.label for name, stepper in STEPPERS.items()}
    labels["limit"] = f"limit: {result['cores']} x the loop"
    for name, label in labels.items():
        if name in result["results"]:
            lines.append(f"{label:26}{_numbers(result['results'][name])}")
        elif name in result["skipped"]:
            lines.append(f"{label:26}{result['skipped'][name]}")
    return "\n".join(lines)


def _numbers(row: Mapping[str, Any]) -> str:
    ratio, fraction = row["ratio_to_async"], row["fraction_of_limit"]
    spread = f"{min(row['all']):,.0f} .. {max(row['all']):,.0f}"
    return (
        f"{row['steps_per_second']:>11,.0f}{spread:>26}"
        f"{'-' if ratio is None else f'{ratio:.1f}':>9}"
        f"{'-' if fraction is None else f'{fraction:.0%}':>10}"
    )


def write_json(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `benchmark`; folders are made if need be.

    Raises:
        ConfigError, WriteError: the file cannot be written.
    """
    _check_writable(path)
    replace_json(path, result)


def _check_writable(path: Path) -> None:
    """Called before measuring: a typing error in a path should not cost two minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigError(f"cannot write json {path}: {error.strerror}") from error


def _print(config: BenchmarkConfig) -> None:
    if config.suite == "stepping":
        print(format_table(benchmark(config)))
        return
    if config.json is not None:
        _check_writable(config.json)
    rows = measure_updates(config.env_id, config.env_kwargs, config.repeats)
    if config.json is not None:
        write_json({"env_id": config.env_id, "updates": rows}, config.json)
    print(format_updates(config.env_id, rows))


COMMAND = Command(BenchmarkConfig, _print)
