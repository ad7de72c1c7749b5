"""The suite `stepping`: N envs with random actions, in prl's pools and in other libraries' vector envs."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np

from prl.commands.steppers import SEED, Stepper, Task, steppers
from prl.commands.suites.comparison import LIMIT, Comparison, Contender, Ratio, to_all
from prl.commands.suites.rates import rate
from prl.commands.suites.settings import BenchmarkConfig
from prl.run.torch_state import standard_torch
from workers.cores import usable_cores
from workers.envs import EnvFactory, env_factory

_ACTION_ROWS = 256  # then the actions start again from the first


@standard_torch()
def make_task(config: BenchmarkConfig) -> Task:
    """The task, with its actions drawn.

    Raises:
        EnvError: the environment cannot be used.
    """
    factory = env_factory(config.env_id, env_kwargs=config.env_kwargs)
    actions = random_actions(factory, config.num_envs)
    return Task(config.env_id, config.env_kwargs, factory, config.most_workers, actions)


def random_actions(factory: EnvFactory, num_envs: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Valid actions [T, N, *A], the same for all contenders."""
    space = copy.deepcopy(factory.action_space)
    space.seed(SEED)
    rows = [[space.sample() for _ in range(num_envs)] for _ in range(_ACTION_ROWS)]
    return np.array(rows, space.dtype)


def stepping(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        EnvError: the environment cannot be used.
    """
    task, cores = make_task(config), usable_cores()
    contenders = [
        Contender(name, stepper.label, partial(_turn, stepper, task, config.seconds), package=stepper.package)
        for name, stepper in steppers(task.num_workers).items()
    ]
    return Comparison(
        title=(
            f"{config.env_id}, {config.num_envs} envs, {task.num_workers} workers, {cores} cores; "
            f"median of {config.repeats} x {config.seconds:g} s"
        ),
        contenders=contenders,
        ratios=[
            Ratio("ratio_to_async", "x async", to_all("async", contenders)),
            Ratio("fraction_of_limit", "of limit", to_all(LIMIT, contenders), percent=True),
        ],
        repeats=config.repeats,
        settings={
            "env_id": config.env_id,
            "num_envs": config.num_envs,
            "num_workers": task.num_workers,
            "seconds": config.seconds,
        },
        cores=cores,
    )


def _turn(stepper: Stepper, task: Task, seconds: float, turn: int) -> float:
    return rate(lambda: stepper.start(task), seconds)
