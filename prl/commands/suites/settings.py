"""The settings of `prl benchmark`: one dataclass for all suites, and which of them each suite takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from learner.settings import ConfigError, Rule, check
from workers.cores import usable_cores

SETTINGS_OF: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "stepping": frozenset({"num_envs", "num_workers", "seconds", "repeats", "only"}),
        "collect": frozenset({"num_envs", "num_workers", "seconds", "repeats", "only"}),
        "update": frozenset({"repeats"}),
        "train": frozenset(
            {"num_workers", "repeats", "only", "total_timesteps", "minibatch_size", "cleanrl"}
        ),
        "time-to-solve": frozenset({"num_workers", "seeds", "only"}),
        "scaling": frozenset({"num_workers", "seconds", "repeats", "only"}),
        "adapters": frozenset({"num_envs", "num_workers", "seconds", "repeats", "only"}),
    }
)
"""Besides suite, env_id, env_kwargs and json."""

_FOR_ALL = frozenset({"suite", "env_id", "env_kwargs", "json"})


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure how fast prl steps, collects, updates, trains and scales, beside other libraries.

    Attributes:
        suite: stepping: random actions, prl's pools beside other libraries' vector environments. collect:
            rounds that the policy plays. update: PPO's optimiser step, by hand and by autograd. train: whole
            runs, beside other libraries' PPO with the same hyper-parameters. time-to-solve: seconds until an
            evaluation reaches the threshold of CartPole-v1 or LunarLander-v3. scaling: from 32 to 1024
            environments, from cheap to expensive ones; start and memory of workers. adapters: prl.VectorEnv
            and prl.sb3.VecEnv beside what they replace.
        env_id: anything gymnasium.make takes; module:EnvId imports module first.
        env_kwargs: keyword arguments of the env, as key=value; values are read as YAML.
        num_envs: environments of each pool or vector environment (stepping, collect, adapters).
        num_workers: the most worker processes of a pool, and threads of EnvPool; suites also take 0 and
            fewer. null takes one per usable core (all but update).
        seconds: measured time per turn (stepping, collect, scaling, adapters).
        repeats: number of turns of each, at least 3; the median counts (all but time-to-solve).
        total_timesteps: length of each run (train).
        minibatch_size: steps per optimiser step (train).
        cleanrl: path of CleanRL's ppo.py, to be measured as well (train).
        seeds: number of runs of each, with different seeds (time-to-solve).
        json: file to write the result to, as well.
        only: names of what to measure, e.g. shared sync async; all if none is given. A wrong name lists them
            (all but update).

    Raises:
        ConfigError: a value is out of range, or has no effect in this suite.
    """

    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int = 32
    num_workers: int | None = None
    seconds: float = 3.0
    repeats: int = 3
    json: Path | None = None
    only: Sequence[str] = ()
    suite: Literal["stepping", "collect", "update", "train", "time-to-solve", "scaling", "adapters"] = (
        "stepping"
    )
    total_timesteps: int = 30_000
    minibatch_size: int = 64
    cleanrl: Path | None = None
    seeds: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.only, list):  # as it comes from flags and files
            object.__setattr__(self, "only", tuple(self.only))
        if not self.env_id:
            raise ConfigError("env_id is required, e.g. CartPole-v1")
        check(self, _RULES)
        for item in dataclasses.fields(self):
            if item.name in SETTINGS_OF[self.suite] | _FOR_ALL:
                continue
            if getattr(self, item.name) != item.default:
                raise ConfigError(f"{item.name} has no effect in the suite {self.suite}")

    @property
    def most_workers(self) -> int:
        """The largest number of workers to measure."""
        return usable_cores() if self.num_workers is None else self.num_workers


_RULES: tuple[Rule, ...] = (
    ("num_envs num_workers", lambda v: v >= 1, "at least 1"),
    ("seconds", lambda v: 0.0 < v < float("inf"), "a positive number"),
    ("repeats", lambda v: v >= 3, "at least 3"),
    ("minibatch_size seeds", lambda v: v >= 1, "at least 1"),
    ("total_timesteps", lambda v: v >= 4096, "at least 4096, four updates"),
)


def worker_counts(most: int) -> list[int]:
    """Powers of two up to the most, and the most: 1, 2, 4, 6 for 6."""
    counts = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*counts, most]
