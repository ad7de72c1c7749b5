"""The suite `time-to-solve`: seconds from the start of the process to an evaluation above a threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from learner.settings import ConfigError
from prl.commands.steppers import SB3
from prl.commands.suites.comparison import SECONDS, Comparison, Contender, Ratio, to_all
from prl.commands.suites.jobs import Job, PrlJob, SB3Job
from prl.commands.suites.processes import seconds_until, watched
from prl.commands.suites.settings import BenchmarkConfig
from prl.commands.suites.variants import Variant, variants
from prl.config.preset import find_preset
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory
from workers.cores import usable_cores
from workers.envs import EnvFactory

EPISODES = 20  # of an evaluation


@dataclass(frozen=True)
class Target:
    """When an env counts as solved, and how the peer is set.

    Attributes:
        threshold: of the mean return of an evaluation.
        eval_freq: env steps from one evaluation to the next, for both sides.
        total_timesteps: of both sides' settings, over which theirs anneal; then a run has not solved it.
        sb3_num_envs: of the peer.
        sb3_settings: of the peer's PPO; what is not named has its default.
        sb3_linear: of these, what falls linearly to 0.
    """

    threshold: float
    eval_freq: int
    total_timesteps: int
    sb3_num_envs: int
    sb3_settings: Mapping[str, Any]
    sb3_linear: Mapping[str, float]


# The settings of SB3 are those of rl-zoo3, hyperparams/ppo.yml (its LunarLander-v2 for LunarLander-v3).
TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "CartPole-v1": Target(
            threshold=475.0,
            eval_freq=5_000,
            total_timesteps=100_000,
            sb3_num_envs=8,
            sb3_settings={
                "n_steps": 32,
                "batch_size": 256,
                "gae_lambda": 0.8,
                "gamma": 0.98,
                "n_epochs": 20,
                "ent_coef": 0.0,
            },
            sb3_linear={"learning_rate": 1e-3, "clip_range": 0.2},
        ),
        "LunarLander-v3": Target(
            threshold=200.0,
            eval_freq=25_000,
            total_timesteps=1_000_000,
            sb3_num_envs=16,
            sb3_settings={
                "n_steps": 1024,
                "batch_size": 64,
                "gae_lambda": 0.98,
                "gamma": 0.999,
                "n_epochs": 4,
                "ent_coef": 0.01,
            },
            sb3_linear={},
        ),
    }
)


def time_to_solve(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        ConfigError: nobody has said when this environment is solved, or it has arguments.
        EnvError: the environment cannot be used.
    """
    if config.env_id not in TARGETS:
        known = " or ".join(TARGETS)
        raise ConfigError(f"env_id must be {known} in the suite time-to-solve, got {config.env_id!r}")
    if config.env_kwargs:
        raise ConfigError("env_kwargs has no effect in the suite time-to-solve")
    target, cores = TARGETS[config.env_id], usable_cores()
    base, settings = _base(config, target)
    ours = variants(base, (0, config.most_workers))
    contenders = [*_ours(target, ours), *_peers(target, build_factory(base))]
    return Comparison(
        title=(
            f"{config.env_id}, until {EPISODES} deterministic episodes have a mean return of "
            f"{target.threshold:g}; evaluated every {target.eval_freq:,} steps; {cores} cores; "
            f"median of {config.seeds} seeds"
        ),
        contenders=contenders,
        ratios=[
            Ratio("ratio_to_sb3_dummy", "x dummy", to_all("sb3-dummy", contenders)),
            Ratio("ratio_to_sb3_subproc", "x subproc", to_all("sb3-subproc", contenders)),
        ],
        repeats=config.seeds,
        settings={
            "env_id": config.env_id,
            "threshold": target.threshold,
            "eval_freq": target.eval_freq,
            "eval_episodes": EPISODES,
            "total_timesteps": target.total_timesteps,
            "sb3_settings": {
                "n_envs": target.sb3_num_envs,
                **target.sb3_settings,
                **{name: f"lin_{value:g}" for name, value in target.sb3_linear.items()},
            },
            "prl_settings": settings,
        },
        cores=cores,
    )


def _base(config: BenchmarkConfig, target: Target) -> tuple[TrainConfig, dict[str, Any]]:
    """What prl's runs have in common, and which of that is not the default."""
    preset = find_preset(config.env_id)
    settings: dict[str, Any] = {} if preset is None else dict(preset.settings)
    base = TrainConfig(
        env_id=config.env_id,
        **settings | {"total_timesteps": target.total_timesteps},
        eval_freq=target.eval_freq,
        eval_episodes=EPISODES,
        device="cpu",
    )
    # One number of groups, so that all that do not overlap learn the same and differ in time alone.
    num_groups = max(base.groups, min(config.most_workers, base.envs))
    return dataclasses.replace(base, num_groups=num_groups), {**settings, "num_groups": num_groups}


def _ours(target: Target, ours: Sequence[Variant]) -> list[Contender]:
    return [
        Contender(
            f"prl-{each.name}",
            f"prl, {each.label}",
            _measure(target, partial(_prl_job, each.config)),
            SECONDS,
        )
        for each in ours
    ]


def _peers(target: Target, factory: EnvFactory) -> list[Contender]:
    labels = {"dummy": "SB3, rl-zoo3, DummyVecEnv", "subproc": "SB3, rl-zoo3, SubprocVecEnv"}
    return [
        Contender(
            f"sb3-{kind}",
            label,
            _measure(target, partial(_sb3_job, target, factory, kind == "subproc")),
            SECONDS,
            SB3,
        )
        for kind, label in labels.items()
    ]


def _measure(target: Target, make_job: Callable[[int], Job]) -> Callable[[int], float]:
    def measure(seed: int) -> float:
        with watched(make_job(seed)) as progress:
            return seconds_until(progress, target.threshold)

    return measure


def _prl_job(run: TrainConfig, seed: int) -> Job:
    return PrlJob(dataclasses.replace(run, seed=seed))


def _sb3_job(target: Target, factory: EnvFactory, in_processes: bool, seed: int) -> Job:
    return SB3Job(
        "sb3",
        factory,
        target.sb3_num_envs,
        in_processes,
        target.sb3_settings,
        target.total_timesteps,
        seed,
        linear=target.sb3_linear,
        eval_freq=target.eval_freq,
        eval_episodes=EPISODES,
    )
