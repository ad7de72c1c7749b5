"""The suite `train`: whole runs with one set of hyper-parameters, in steps/s, beside other libraries' PPO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from learner.settings import ConfigError
from prl.commands.steppers import SB3
from prl.commands.suites.comparison import Comparison, Contender, Package, Ratio, to_all
from prl.commands.suites.jobs import Job, PrlJob, SB3Job
from prl.commands.suites.processes import update_rate, watched, watched_script
from prl.commands.suites.settings import BenchmarkConfig
from prl.commands.suites.variants import LEARNER, OVERLAP, WORKER, Variant, Way, bases, variants
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory
from workers.cores import usable_cores
from workers.envs import EnvFactory

SBX = Package("sbx", "sbx-rl")

NUM_ENVS, NUM_STEPS, NUM_EPOCHS = 16, 64, 4
_LEARNING_RATE = 3e-4

CLEANRL_NUM_ENVS, CLEANRL_NUM_STEPS, CLEANRL_MINIBATCHES = 4, 128, 4
_CLEANRL_BATCH = CLEANRL_NUM_ENVS * CLEANRL_NUM_STEPS
CLEANRL: Mapping[str, Any] = {
    "num_envs": CLEANRL_NUM_ENVS,
    "num_steps": CLEANRL_NUM_STEPS,
    "batch_size": _CLEANRL_BATCH,
    "minibatch_size": _CLEANRL_BATCH // CLEANRL_MINIBATCHES,
    "num_epochs": 4,
    "actor_lr": 2.5e-4,
    "critic_lr": 2.5e-4,
    "anneal_lr": True,
    "ent_coef": 0.01,
    "clip_range_vf": 0.2,
}
"""The defaults of CleanRL's ppo.py, as settings of `TrainConfig`."""
_AS_CLEANRL = "-as-cleanrl"


def train(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        ConfigError: CleanRL's script is not there.
        EnvError: the environment cannot be used.
    """
    base = TrainConfig(env_id=config.env_id, env_kwargs=config.env_kwargs, **_common(config))
    factory = build_factory(base)
    ours = variants(base, (0, config.most_workers))
    main = [*_ours(ours), *_peers(config, factory)]
    beside_cleanrl = [] if config.cleanrl is None else _beside_cleanrl(config, base, Path(config.cleanrl))
    contenders = [*main, *beside_cleanrl]
    cores = usable_cores()
    return Comparison(
        title=(
            f"{config.env_id}, {NUM_ENVS} envs x {NUM_STEPS} steps, {NUM_EPOCHS} epochs, minibatches of "
            f"{config.minibatch_size}, 64 x 64, {cores} cores; "
            f"median of {config.repeats} runs of {config.total_timesteps:,} steps"
        ),
        contenders=contenders,
        ratios=[
            Ratio("ratio_to_sb3_dummy", "x dummy", to_all("sb3-dummy", main)),
            Ratio("ratio_to_sb3_subproc", "x subproc", to_all("sb3-subproc", main)),
            Ratio("ratio_to_sbx", "x SBX", to_all("sbx-dummy", main)),
            Ratio("ratio_to_cleanrl", "x CleanRL", to_all("cleanrl", beside_cleanrl)),
            Ratio("ratio_to_learner_acts", "x learner acts", _among_ours(ours, WORKER, LEARNER)),
            Ratio("ratio_to_synchronous", "x no overlap", _among_ours(ours, OVERLAP, WORKER)),
        ],
        repeats=config.repeats,
        settings={
            "env_id": config.env_id,
            "num_envs": NUM_ENVS,
            "num_steps": NUM_STEPS,
            "num_epochs": NUM_EPOCHS,
            "minibatch_size": config.minibatch_size,
            "total_timesteps": config.total_timesteps,
        },
        cores=cores,
    )


def _common(config: BenchmarkConfig) -> dict[str, Any]:
    """The set of hyper-parameters in prl's words; what is not named has the same default everywhere."""
    return {
        "rollout": "steps",
        "num_envs": NUM_ENVS,
        "num_steps": NUM_STEPS,
        "batch_size": NUM_ENVS * NUM_STEPS,
        "num_epochs": NUM_EPOCHS,
        "minibatch_size": config.minibatch_size,
        "actor_lr": _LEARNING_RATE,
        "critic_lr": _LEARNING_RATE,
        "vf_coef": 1.0,  # of half the squared error; SB3's 0.5 is of the whole
        "total_timesteps": config.total_timesteps,
        "device": "cpu",
    }


def _ours(ours: Sequence[Variant], suffix: str = "") -> list[Contender]:
    return [
        Contender(
            f"prl-{each.name}{suffix}",
            f"prl, {each.label}{suffix and ', as CleanRL'}",
            partial(_turn, partial(_prl_job, each.config)),
        )
        for each in ours
    ]


def _among_ours(ours: Sequence[Variant], way: Way, base: Way) -> dict[str, str]:
    pairs = bases(ours, way, base).items()
    return {
        f"prl-{name}{suffix}": f"prl-{base_name}{suffix}"
        for name, base_name in pairs
        for suffix in ("", _AS_CLEANRL)
    }


def _peers(config: BenchmarkConfig, factory: EnvFactory) -> list[Contender]:
    def peer(name: str, label: str, library: Literal["sb3", "sbx"], package: Package) -> Contender:
        job = partial(_peer_job, config, factory, library, name.endswith("subproc"))
        return Contender(name, label, partial(_turn, job), package=package)

    return [
        peer("sb3-dummy", "SB3 PPO, DummyVecEnv", "sb3", SB3),
        peer("sb3-subproc", "SB3 PPO, SubprocVecEnv", "sb3", SB3),
        peer("sbx-dummy", "SBX PPO, DummyVecEnv", "sbx", SBX),
        peer("sbx-subproc", "SBX PPO, SubprocVecEnv", "sbx", SBX),
    ]


def _beside_cleanrl(config: BenchmarkConfig, base: TrainConfig, script: Path) -> list[Contender]:
    """CleanRL's script with its defaults, and prl's variants with the same.

    Raises:
        ConfigError: there is no such file, or it could not make the same envs.
    """
    if not script.is_file():
        raise ConfigError(f"cleanrl must be the path of CleanRL's ppo.py, there is no file {script}")
    if config.env_kwargs:
        raise ConfigError("env_kwargs cannot be passed on to CleanRL's script")
    turn = partial(_cleanrl_turn, config, script)
    ours = variants(dataclasses.replace(base, **CLEANRL), (0, config.most_workers))
    return [*_ours(ours, _AS_CLEANRL), Contender("cleanrl", "CleanRL ppo.py", turn)]


def _prl_job(run: TrainConfig, seed: int) -> Job:
    return PrlJob(dataclasses.replace(run, seed=seed))


def _peer_job(
    config: BenchmarkConfig,
    factory: EnvFactory,
    library: Literal["sb3", "sbx"],
    in_processes: bool,
    seed: int,
) -> Job:
    settings = {
        "n_steps": NUM_STEPS,
        "n_epochs": NUM_EPOCHS,
        "batch_size": config.minibatch_size,
        "learning_rate": _LEARNING_RATE,
    }
    return SB3Job(library, factory, NUM_ENVS, in_processes, settings, config.total_timesteps, seed)


def _turn(make_job: Callable[[int], Job], turn: int) -> float:
    with watched(make_job(turn)) as progress:
        return update_rate(progress)


def _cleanrl_turn(config: BenchmarkConfig, script: Path, turn: int) -> float:
    arguments = [
        *("--env-id", config.env_id),
        *("--total-timesteps", str(config.total_timesteps)),
        *("--seed", str(turn)),
    ]
    with watched_script(script, arguments, _cleanrl_steps) as progress:
        return update_rate(progress)


def _cleanrl_steps(line: str) -> int:
    return _CLEANRL_BATCH if line.startswith("SPS:") else 0  # said once per update
