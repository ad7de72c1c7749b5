"""`prl benchmark`: measures in suites, prints a table, and writes the result to a file if one is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from learner.fingerprint import fingerprint
from learner.settings import ConfigError
from prl.commands.command import Command
from prl.commands.suites.adapters import adapters
from prl.commands.suites.collect import collect
from prl.commands.suites.comparison import Comparison, compare, format_table
from prl.commands.suites.scaling import scaling
from prl.commands.suites.settings import BenchmarkConfig
from prl.commands.suites.solve import time_to_solve
from prl.commands.suites.stepping import stepping
from prl.commands.suites.train import train
from prl.commands.update_speed import format_updates, measure_updates
from prl.run.files import replace_json, versions

_PACKAGES = ("prl", "torch", "numpy", "gymnasium", "stable_baselines3", "sbx-rl", "envpool")

COMPARISONS: Mapping[str, Callable[[BenchmarkConfig], Comparison]] = MappingProxyType(
    {
        "stepping": stepping,
        "collect": collect,
        "train": train,
        "time-to-solve": time_to_solve,
        "scaling": scaling,
        "adapters": adapters,
    }
)
"""The suites in which contenders take turns. `update` takes turns batch by batch, in one process."""


def benchmark(config: BenchmarkConfig) -> tuple[dict[str, Any], str]:
    """Measure what the settings say.

    Returns:
        The result, which is also written to the file `json` if one is named, and the table. The result holds
        the suite, its settings, what `compare` or `measure_updates` return, and `versions`.

    Raises:
        ConfigError: the JSON file cannot be written, or a setting is wrong.
        EnvError: the environment cannot be used.
        WriteError: the JSON file can be written no longer.
    """
    file = None if config.json is None else config.json.absolute()  # an env may change the directory
    if file is not None:
        check_writable(file)
    found, table = _update(config) if config.suite == "update" else _comparison(config)
    result = {
        "suite": config.suite,
        **found,
        "versions": {**versions(_PACKAGES), "fingerprint": fingerprint()},
    }
    if file is not None:
        replace_json(file, result)
    return result, table


def _update(config: BenchmarkConfig) -> tuple[dict[str, Any], str]:
    rows = measure_updates(config.env_id, config.env_kwargs, config.repeats)
    return {"env_id": config.env_id, "updates": rows}, format_updates(config.env_id, rows)


def _comparison(config: BenchmarkConfig) -> tuple[dict[str, Any], str]:
    comparison = COMPARISONS[config.suite](config).only(config.only)
    result = compare(comparison)
    return result, format_table(comparison, result)


def check_writable(path: Path) -> None:
    """Called before measuring: a typing error in a path should not cost two minutes. Makes its folder.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigError(f"cannot write json {path}: {error.strerror}") from error


def _print(config: BenchmarkConfig) -> None:
    print(benchmark(config)[1])


COMMAND = Command(BenchmarkConfig, _print)
