"""`prl tune`: searches settings with which an environment is learnt better."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.config.command_line import KnowsFlags
from prl.config.train_config import TrainConfig
from prl.tuning.runs import Plan
from prl.tuning.space import Space, default_space, read_space
from prl.tuning.study import require_optuna
from prl.tuning.tune import Search, tune

_EVALUATIONS = 20  # of a run, unless eval_freq is given


@dataclass(frozen=True)
class TuneFlags(TrainConfig, KnowsFlags):
    """Search settings with which an environment is learnt better. Flags of train fix a setting.

    Attributes:
        study: folder of the study; null takes runs/tune-ENV_ID. The same command goes on with a study, and
            may run several times at once.
        trials: of the whole study, in all processes together.
        seeds: runs of each trial, with seeds from --seed on; a trial that falls behind does not get to the
            next.
        last_evaluations: evaluations at the end of a run whose mean is its result.
        space: YAML file with the settings that are searched, each {low, high, log} or {choices}; null takes
            usual ranges.
        startup_trials: trials that are drawn at random, before the search learns from results.
        prune: end trials that are below the median of the others.

    Raises:
        ConfigError: a value is out of range.
    """

    study: Path | None = None
    trials: int = 50
    seeds: int = 2
    last_evaluations: int = 5
    space: Path | None = None
    startup_trials: int = 10
    prune: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, _RULES)
        if self.run_folder is not None:
            raise ConfigError("run_folder is chosen by the study; --study takes a folder for all of it")
        if self.num_envs == "auto":
            raise ConfigError("num_envs auto may take another number in every trial; give one")

    def settings(self) -> TrainConfig:
        """Of the first trial, with evaluations."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(TrainConfig)}
        if not values["eval_freq"]:
            values["eval_freq"] = max(1, self.total_timesteps // _EVALUATIONS)
        return TrainConfig(**values)

    def folder(self) -> Path:
        """Of the study."""
        name = self.env_id.replace("/", "_").replace(":", "_")
        return (self.study or Path("runs") / f"tune-{name}").expanduser()


_RULES: tuple[Rule, ...] = (
    ("trials seeds last_evaluations", lambda v: v >= 1, "at least 1"),
    ("startup_trials", lambda v: v >= 0, "0 or more"),
)


def _space(flags: TuneFlags, config: TrainConfig) -> Space:
    if flags.space is None:
        return default_space(config, flags.given)
    return read_space(flags.space, config, flags.given)


def _tune(flags: TuneFlags) -> None:
    require_optuna()
    config = flags.settings()
    plan = Plan(config, flags.seeds, flags.last_evaluations, flags.prune)
    search = Search(plan, _space(flags, config), flags.trials, flags.startup_trials)
    tune(flags.folder(), search, log=lambda line: print(f"tune: {line}", file=sys.stderr), show=print)


COMMAND = Command(TuneFlags, _tune)
