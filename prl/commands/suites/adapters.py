"""The suite `adapters`: prl's workers behind the interfaces of other libraries, beside what they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch

from prl.adapters.vector_env import VectorEnv
from prl.commands.steppers import SB3, Stepper, Task, gymnasium_steps, sb3_steps, start_method, steppers
from prl.commands.suites.comparison import Comparison, Contender, Ratio
from prl.commands.suites.rates import Steps, rate
from prl.commands.suites.settings import BenchmarkConfig
from prl.commands.suites.stepping import make_task
from workers.cores import usable_cores

_PPO: Mapping[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 4, "seed": 0, "device": "cpu"}

MakeVecEnv = Callable[[Task], Any]


def adapters(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        EnvError: the environment cannot be used.
    """
    task = make_task(config)
    known = steppers(task.num_workers)
    ways = {
        "vector-env": Stepper("prl.VectorEnv", _vector_env),
        "async": known["async"],
        "sync": known["sync"],
        "sb3-vec-env": Stepper("prl.sb3.VecEnv", partial(_sb3_steps, make=_prl_vec_env), SB3),
        "subproc": known["subproc"],
        "dummy": known["dummy"],
        "ppo-prl": Stepper("SB3's PPO, prl.sb3.VecEnv", partial(_ppo_steps, make=_prl_vec_env), SB3),
        "ppo-subproc": Stepper("SB3's PPO, SubprocVecEnv", partial(_ppo_steps, make=_subproc), SB3),
        "ppo-dummy": Stepper("SB3's PPO, DummyVecEnv", partial(_ppo_steps, make=_dummy), SB3),
    }
    cores = usable_cores()
    return Comparison(
        title=(
            f"{config.env_id}, {config.num_envs} envs, {task.num_workers} workers, {cores} cores; "
            f"median of {config.repeats} x {config.seconds:g} s"
        ),
        contenders=[
            Contender(name, way.label, partial(_turn, way, task, config.seconds), package=way.package)
            for name, way in ways.items()
        ],
        ratios=[
            Ratio("ratio_to_async", "x async", dict.fromkeys(("vector-env", "sync"), "async")),
            Ratio("ratio_to_subproc", "x subproc", _bases("subproc", "sb3-vec-env", "dummy")),
            Ratio("ratio_of_ppo", "x PPO on subproc", _bases("ppo-subproc", "ppo-prl", "ppo-dummy")),
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


def _bases(base: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, base)


def _turn(way: Stepper, task: Task, seconds: float, turn: int) -> float:
    return rate(lambda: way.start(task), seconds)


@contextmanager
def _vector_env(task: Task) -> Iterator[Steps]:
    with closing(VectorEnv(task.builders, num_workers=task.num_workers)) as env:
        yield gymnasium_steps(env, task.actions)


def _prl_vec_env(task: Task) -> Any:
    from prl.sb3 import VecEnv  # optional, and slow to import

    return VecEnv(task.builders, num_workers=task.num_workers)


def _subproc(task: Task) -> Any:
    from stable_baselines3.common.vec_env import SubprocVecEnv  # optional, and slow to import

    return SubprocVecEnv(task.builders, start_method=start_method())


def _dummy(task: Task) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv  # optional, and slow to import

    return DummyVecEnv(task.builders)


@contextmanager
def _sb3_steps(task: Task, make: MakeVecEnv) -> Iterator[Steps]:
    with closing(make(task)) as env:
        yield sb3_steps(env, task.actions)


@contextmanager
def _ppo_steps(task: Task, make: MakeVecEnv) -> Iterator[Steps]:
    """PPO of Stable-Baselines3; a piece of work is one rollout and its update."""
    from stable_baselines3 import PPO  # optional, and slow to import
    from stable_baselines3.common.vec_env import VecMonitor

    with _one_thread(), closing(VecMonitor(make(task))) as env:
        policy = "MultiInputPolicy" if hasattr(env.observation_space, "spaces") else "MlpPolicy"
        model = PPO(policy, env, **_PPO)
        yield _rollouts(model, _PPO["n_steps"] * task.num_envs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Each turn is the same for all, and the fastest for small networks beside busy workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rollouts(model: Any, steps: int) -> Steps:
    while True:
        model.learn(steps, reset_num_timesteps=False)
        yield steps
