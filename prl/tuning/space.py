"""What a study may choose: the settings that are searched, and between which values."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from learner.settings import ConfigError, has_type, is_number
from prl.config.train_config import TrainConfig
from prl.config.yaml_format import dump, load
from prl.run.resume import MAY_CHANGE

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NOT_SEARCHED = {
    *MAY_CHANGE,
    *(
        "env_id",
        "env_kwargs",
        "env_index_kwarg",
        "preset",
        "max_episode_steps",
        "ends_by_itself",
        "action_masks",
        "seed",
    ),
    *("eval_freq", "eval_episodes", "torch_threads", "run_folder"),
}
"""Settings that say what is trained and measured, or change no result: all trials have them in common."""


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        values: at least one, of any type that YAML can write.
    """

    values: tuple[Any, ...]

    def including(self, value: Any) -> Choices:
        """The choices, and this value if it is none of them."""
        return self if self.holds(value) else Choices((*self.values, value))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return str(_plain(value)) in self._by_text

    def limits(self) -> tuple[Any, ...]:
        """What has to be allowed."""
        return self.values

    def distribution(self) -> BaseDistribution:
        """For Optuna, which knows no lists: each value by its text."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(list(self._by_text))

    def to_param(self, value: Any) -> Any:
        """What stands for a value in a trial."""
        return str(_plain(value))

    def of_param(self, param: Any) -> Any:
        """The inverse of `to_param`."""
        return self._by_text[param]

    def written(self) -> dict[str, Any]:
        """For `space.yaml`."""
        return {"choices": list(self.values)}

    @property
    def _by_text(self) -> dict[str, Any]:
        return {str(value): value for value in self.values}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low, high: integers if the setting is one.
        log: draw evenly on a logarithmic scale; `low` is positive then.
        whole: the setting is an integer.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def including(self, value: Any) -> Range:
        """The range, widened to this value if that can be."""
        if not is_number(value) or (self.log and value <= 0.0):
            return self
        return dataclasses.replace(self, low=min(self.low, value), high=max(self.high, value))

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return is_number(value) and self.low <= value <= self.high

    def limits(self) -> tuple[Any, ...]:
        """What has to be allowed."""
        return (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """For Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(float(self.low), float(self.high), log=self.log)

    def to_param(self, value: Any) -> Any:
        """What stands for a value in a trial."""
        return int(value) if self.whole else float(value)

    def of_param(self, param: Any) -> Any:
        """The inverse of `to_param`."""
        return self.to_param(param)

    def written(self) -> dict[str, Any]:
        """For `space.yaml`."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        settings: fields of `TrainConfig`, each with what it may be.
    """

    settings: Mapping[str, Choices | Range]

    def distributions(self) -> dict[str, BaseDistribution]:
        """For Optuna."""
        return {name: allowed.distribution() for name, allowed in self.settings.items()}

    def params_of(self, config: TrainConfig) -> dict[str, Any]:
        """What stands for the settings of a config, as far as the space holds them."""
        values = {name: getattr(config, name) for name in self.settings}
        return {
            name: self.settings[name].to_param(value)
            for name, value in values.items()
            if self.settings[name].holds(value)
        }

    def settings_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that params stand for."""
        return {name: self.settings[name].of_param(param) for name, param in params.items()}

    def to_yaml(self) -> str:
        """As `read_space` reads it."""
        return dump({name: allowed.written() for name, allowed in self.settings.items()})


def default_space(config: TrainConfig, given: Collection[str]) -> Space:
    """What is searched unless a file says it: usual ranges for PPO, widened to what the config has.

    Args:
        config: of the first trial.
        given: settings that keep their value.

    Raises:
        ConfigError: nothing is left to search.
    """
    if config.rollout == "steps":
        amount = {"num_steps": Choices((32, 64, 128, 256, 512, 1024))}
    else:
        amount = {"batch_size": Choices((512, 1024, 2048, 4096, 8192))}
    usual: dict[str, Choices | Range] = {
        "actor_lr": Range(3e-5, 1e-2, log=True),
        "critic_lr": Range(3e-5, 1e-2, log=True),
        "anneal_lr": Choices((False, True)),
        "gamma": Choices((0.9, 0.95, 0.98, 0.99, 0.995, 0.999)),
        "gae_lambda": Choices((0.8, 0.9, 0.92, 0.95, 0.98, 0.99, 1.0)),
        "clip_range": Range(0.1, 0.4),
        "num_epochs": Range(1, 20, whole=True),
        "minibatch_size": Choices((64, 128, 256, 512, 1024)),
        "ent_coef": Choices((0.0, 1e-4, 1e-3, 1e-2, 3e-2)),
        "max_grad_norm": Range(0.3, 2.0),
        "normalize_reward": Choices((False, True)),
        "activation": Choices(("tanh", "relu")),
        **amount,
    }
    searched = {
        name: allowed.including(_plain(getattr(config, name)))
        for name, allowed in usual.items()
        if name not in given
    }
    if not searched:
        raise ConfigError("nothing is left to search: every setting of the default space is fixed by a flag")
    return Space(searched)


def read_space(file: Path, config: TrainConfig, given: Collection[str]) -> Space:
    """The space of a YAML file: settings, each with {low, high, log} or {choices}.

    Args:
        file: see the guide.
        config: of the first trial.
        given: settings that flags have fixed.

    Raises:
        ConfigError: the file cannot be read, or asks for what cannot be; the message names file and setting.
    """
    try:
        content = load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {file}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{file} must hold a mapping of settings to {_ALLOWED}")
    settings = {}
    for name, spec in content.items():
        _check_name(file, name, given)
        settings[name] = _read_spec(f"{file}: {name}", spec, get_type_hints(TrainConfig)[name])
        for value in settings[name].limits():
            try:
                dataclasses.replace(config, **{name: value})
            except ConfigError as error:
                raise ConfigError(f"{file}: {error}") from None
    return Space(settings)


_ALLOWED = "{low: ..., high: ...}, with log: true if you like, or {choices: [...]}"


def _check_name(file: Path, name: Any, given: Collection[str]) -> None:
    names = [item.name for item in dataclasses.fields(TrainConfig)]
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{file}: unknown setting {name!r}{hint}")
    if name in NOT_SEARCHED:
        searched = ", ".join(sorted(set(names) - NOT_SEARCHED))
        raise ConfigError(f"{file}: {name} is the same in all trials; searched can be {searched}")
    if name in given:
        raise ConfigError(f"{file}: {name} is to be searched, but --{name.replace('_', '-')} fixes it")


def _read_spec(where: str, spec: Any, hint: Any) -> Choices | Range:
    error = ConfigError(f"{where} must have {_ALLOWED}, got {spec!r}")
    if not isinstance(spec, dict):
        raise error
    if spec.keys() == {"choices"}:
        values = spec["choices"]
        if not isinstance(values, list) or not values or len({*map(str, values)}) != len(values):
            raise ConfigError(f"{where}: choices must be a list of different values, got {values!r}")
        return Choices(tuple(values))
    if not {"low", "high"} <= spec.keys() <= {"low", "high", "log"}:
        raise error
    return _read_range(where, hint, **spec)


def _read_range(where: str, hint: Any, low: Any, high: Any, log: Any = False) -> Range:
    is_float, is_int = has_type(0.5, hint), has_type(1, hint)
    if not is_int:
        raise ConfigError(f"{where} is no number, so it needs {{choices: [...]}}")
    kind: Callable[[Any], bool] = is_number if is_float else lambda value: has_type(value, int)
    if not (kind(low) and kind(high) and low < high and math.isfinite(high)):
        numbers = "numbers" if is_float else "integers"
        raise ConfigError(f"{where}: low and high must be {numbers}, low < high, got {low!r} and {high!r}")
    if not isinstance(log, bool) or (log and low <= 0):
        raise ConfigError(f"{where}: log must be true or false, and true needs a positive low, got {log!r}")
    return Range(low, high, log, whole=not is_float)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
