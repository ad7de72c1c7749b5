"""`prl tune-speed`: measures how many workers and envs train fastest, and who should act."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from learner.settings import ConfigError, is_number
from prl.commands.command import Command
from prl.config.preset import find_preset
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory, check_trainable
from prl.run.tune import SECONDS, Costs, Rates, Setup
from prl.run.tune_choice import busy_cores, tune


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """Measure which number of workers and envs trains fastest, and who should act. Flags are those of train.

    Attributes:
        seconds: of measuring; starting workers and envs comes on top.

    Raises:
        ConfigError: a value is out of range.
    """

    num_envs: int | Literal["auto"] = "auto"
    num_workers: int | Literal["auto"] | None = "auto"
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.seconds, above=0.0) or self.seconds > 3600.0:
            raise ConfigError(f"seconds must be a positive number, at most 3600, got {self.seconds!r}")


def _print_costs(costs: Costs) -> None:
    print(f"env step             {costs.env_step * 1e6:10,.1f} us")
    print(f"act, {costs.group:2} envs         {costs.act * 1e6:10,.1f} us")
    print(f"update, per env step {costs.update * 1e6:10,.1f} us")
    print()
    print("workers  envs   acting  collected steps/s  trained steps/s", flush=True)


def _print_rates(rates: Rates) -> None:
    setup = rates.setup
    print(
        f"{setup.num_workers:7}  {setup.num_envs:4}  {setup.acting:>7}  {rates.collected:17,.0f}"
        f"  {rates.trained:15,.0f}",
        flush=True,
    )


def _flags(setup: Setup) -> str:
    return f"--num-workers {setup.num_workers} --num-envs {setup.num_envs} --acting {setup.acting}"


def _tune(config: TuneConfig) -> None:
    preset = find_preset(config.env_id, config.preset)
    effective = None if preset is None else preset.effective(config)
    if effective is not None and effective.settings:
        print(f"tune-speed: {effective}", file=sys.stderr)
    factory = build_factory(config)
    if config.rollout == "episodes":
        check_trainable(factory)  # as prl train does
    busy = busy_cores()
    tuning = tune(config, factory, config.seconds, _print_costs, _print_rates)
    if tuning.left_out:
        print(f"({tuning.left_out} more were left out: starting takes too long)")
    print()
    print(f"prl train ... {_flags(tuning.choice.rates.setup)}")
    for reason in tuning.choice.reasons:
        print(f"  {reason}.")
    for line in busy:
        print(f"tune-speed: {line}", file=sys.stderr)


COMMAND = Command(TuneConfig, _tune)
