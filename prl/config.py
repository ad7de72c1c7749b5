"""The configuration of a run: one frozen dataclass, checked once, saved and loaded as YAML."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from learner.ppo import PPOConfig
from learner.settings import ConfigError, Rule, check

__all__ = ["ConfigError", "TrainConfig", "to_yaml", "usable_cores"]


@dataclass(frozen=True)
class TrainConfig(PPOConfig):
    """Train PPO on a Gymnasium environment with many environment processes.

    Attributes:
        env_id: anything gymnasium.make takes; module:EnvId imports module first.
        env_kwargs: keyword arguments of the env, as key=value.
        max_episode_steps: cut episodes after so many steps; null keeps the env's own limit.
        num_envs: environments in all.
        num_workers: worker processes that host them; null takes one per usable core, 0 steps all envs in
            the learner's own process.
        num_groups: step the envs in so many groups; 2 lets the policy act for one while the other steps.
        transport: rows in shared memory, or everything through the pipes.
        step_timeout: seconds a worker may take for one command before it is killed.
        pin_workers: with at least as many workers as cores, keep each on one core.
        total_timesteps: the run ends with the first update that has seen so many env steps.
        batch_size: an update waits for at least so many steps.
        seed: of everything random in the run.
        hidden_sizes: of the actor's and of the critic's network.
        device: cpu, cuda, cuda:1, ... or auto for a GPU if there is one.
        torch_threads: of the learner; part of what a seed means, since sums depend on it.
        run_folder: where the run is written; null makes a new folder below runs/.
        actor_lr: Adam's step size for the actor.
        critic_lr: Adam's step size for the critic.
        anneal_lr: scale both step sizes linearly to 0 over the run.
        gamma: discount.
        gae_lambda: lambda of the advantage estimate.
        clip_range: how far the probability ratio may move; 0.2 is 20 percent.
        clip_range_vf: how far a value may move in an update; null does not clip.
        num_epochs: passes over each batch.
        minibatch_size: steps per optimiser step.
        normalize_advantage: to mean 0 and standard deviation 1, per minibatch.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: bound on the gradient's norm.
        target_kl: end an update once approx_kl exceeds 1.5 times this; null never does.

    Raises:
        ConfigError: a value is out of range.
    """

    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    num_envs: int = 32
    num_workers: int | None = None
    num_groups: int = 1
    transport: Literal["shared", "pipe"] = "shared"
    step_timeout: float = 60.0
    pin_workers: bool = True
    total_timesteps: int = 100_000
    batch_size: int = 1024
    seed: int = 0
    hidden_sizes: Sequence[int] = (64, 64)
    device: str = "auto"
    torch_threads: int = 1
    run_folder: Path | None = None
    actor_lr: float = 1e-3
    critic_lr: float = 2.5e-3
    minibatch_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_folder is not None:
            object.__setattr__(self, "run_folder", Path(self.run_folder))
        if not self.env_id:
            raise ConfigError("env_id is required, e.g. CartPole-v1")
        check(self, _RULES)
        if self.num_groups > self.num_envs:
            raise ConfigError(f"num_groups must be at most num_envs ({self.num_envs}), got {self.num_groups}")


_RULES: tuple[Rule, ...] = (
    (
        "max_episode_steps num_envs num_groups total_timesteps batch_size torch_threads",
        lambda v: v >= 1,
        "at least 1",
    ),
    ("num_workers", lambda v: v >= 0, "0 (no worker processes) or more"),
    ("seed", lambda v: 0 <= v < 2**63, "0 or more, below 2**63"),
    ("step_timeout", lambda v: 0.0 < v <= 86_400.0, "a positive number of seconds, at most 86400"),
    ("transport", lambda v: v in ("shared", "pipe"), "shared or pipe"),
    ("hidden_sizes", lambda v: all(size >= 1 for size in v), "sizes of at least 1"),
)


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def to_yaml(config: TrainConfig) -> str:
    """All settings as YAML that `train.py --config` takes."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Path):
            value = str(value)
        elif isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        plain[item.name] = value
    text: str = yaml.safe_dump(plain, sort_keys=True)
    return text
