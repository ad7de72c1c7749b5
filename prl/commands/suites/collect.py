"""The suite `collect`: rounds that the policy plays, on any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from prl.commands.steppers import Task, loop
from prl.commands.suites.comparison import LIMIT, LOOP, Comparison, Contender, Ratio, to_all
from prl.commands.suites.rates import Steps, rate
from prl.commands.suites.settings import BenchmarkConfig, worker_counts
from prl.commands.suites.stepping import make_task
from prl.commands.suites.variants import LEARNER, WORKER, bases, variants
from prl.config.train_config import TrainConfig
from prl.run.build import (
    build_learner,
    build_players,
    build_policy,
    build_pool,
    check_trainable,
    players_of,
    reproducible,
)
from prl.training.trainer import Trainer
from workers.cores import usable_cores
from workers.envs import EnvFactory

_NUM_STEPS = 128  # of every env in a round of fixed steps


ROUNDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "steps": (f"{_NUM_STEPS} steps", {"rollout": "steps", "num_steps": _NUM_STEPS}),
    "episodes": ("episodes", {"rollout": "episodes"}),
}
"""The kinds of rounds: name -> label and settings of `TrainConfig`."""


def collect(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        EnvError: the environment cannot be used.
    """
    task, cores = make_task(config), usable_cores()
    check_trainable(task.factory)
    contenders, by_learner = _ways(config, task.factory)
    contenders.append(Contender(LOOP, "one env in a loop, 1 core", partial(_loop, task, config.seconds)))
    return Comparison(
        title=(
            f"{config.env_id}, rounds of {config.num_envs} envs, networks of 64 x 64, {cores} cores; "
            f"median of {config.repeats} x {config.seconds:g} s"
        ),
        contenders=contenders,
        ratios=[
            Ratio("fraction_of_limit", "of limit", to_all(LIMIT, contenders), percent=True),
            Ratio("ratio_to_learner_acts", "x learner acts", by_learner),
        ],
        repeats=config.repeats,
        settings={
            "env_id": config.env_id,
            "num_envs": config.num_envs,
            "num_steps": _NUM_STEPS,
            "seconds": config.seconds,
        },
        cores=cores,
    )


def _ways(config: BenchmarkConfig, factory: EnvFactory) -> tuple[list[Contender], dict[str, str]]:
    """All ways to collect, and beside each whose workers act the one whose learner does."""
    contenders: list[Contender] = []
    by_learner: dict[str, str] = {}
    for kind, (label, settings) in ROUNDS.items():
        base = TrainConfig(
            env_id=config.env_id, env_kwargs=config.env_kwargs, num_envs=config.num_envs, **settings
        )
        ways = variants(base, (0, *worker_counts(config.most_workers)), (LEARNER, WORKER))
        for way in ways:
            turn = partial(_turn, way.config, factory, config.seconds)
            contenders.append(Contender(f"{kind}-{way.name}", f"{label}, {way.label}", turn))
        pairs = bases(ways, WORKER, LEARNER)
        by_learner |= {f"{kind}-{name}": f"{kind}-{base_name}" for name, base_name in pairs.items()}
    return contenders, by_learner


def _turn(run: TrainConfig, factory: EnvFactory, seconds: float, turn: int) -> float:
    return rate(partial(collecting, run, factory), seconds)


def _loop(task: Task, seconds: float, turn: int) -> float:
    return rate(partial(loop, task), seconds)


@contextmanager
def collecting(run: TrainConfig, factory: EnvFactory) -> Iterator[Steps]:
    """One round after the other, played by an untrained policy.

    Args:
        run: its settings; `batch_size` has no effect.
        factory: of its envs.
    """
    with training(run, factory, batch_size=1) as trainer:  # the least that one round brings
        yield (len(trainer.collect(trainer.learner.policy).rollout) for _ in iter(int, 1))


@contextmanager
def training(run: TrainConfig, factory: EnvFactory, batch_size: int) -> Iterator[Trainer]:
    """A trainer in this process, on one thread.

    Args:
        run: its settings.
        factory: of its envs.
        batch_size: steps that an update waits for.

    Raises:
        ConfigError: workers are to act, but cannot.
    """
    policy = build_policy(factory, run)
    kit = players_of(run, policy)
    with reproducible(1, torch.device("cpu")), build_pool(run, factory, run.envs, kit) as pool:
        yield Trainer(
            pool,
            build_learner(policy, run),
            batch_size=batch_size,
            total_timesteps=run.total_timesteps,
            seed=run.seed,
            num_groups=run.groups,
            num_steps=run.num_steps if run.rollout == "steps" else None,
            overlap=run.overlap,
            players=build_players(pool, kit),
        )
