"""Ways to step N envs as fast as possible: prl's pools, and other libraries' vector envs as baselines.

All get the same actions; each starts the next episode of an env in its own way. A step counts if `env.step`
was called: what an autoreset returns instead of a step does not.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from prl.commands.suites.comparison import LOOP, Package
from prl.commands.suites.rates import Steps
from prl.commands.suites.settings import worker_counts
from prl.pools import make_pool
from workers import spawning
from workers.arrays import Array
from workers.bootstrap import detach
from workers.cores import usable_cores
from workers.envs import AnyEnv, EnvFactory
from workers.pool import EnvPool
from workers.process_pool import Transport
from workers.seeding import episode_seed

SEED = 0
_SEED_ROWS = 64  # then the seeds start again from the first


@dataclass(frozen=True)
class Task:
    """What every stepper has to do.

    Attributes:
        env_id, env_kwargs: for a baseline that builds its own envs.
        factory: builds each env of the others, without an env checker.
        num_workers: worker processes, or threads.
        actions: [T, N, *A], row t for the t-th vector step; used again and again.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    factory: EnvFactory
    num_workers: int
    actions: Array

    @property
    def num_envs(self) -> int:
        """N."""
        return len(self.actions[0])

    @property
    def builders(self) -> list[Callable[[], AnyEnv]]:
        """A function for each env, as vector envs take them."""
        return [self.factory.build] * self.num_envs


def pool_steps(pool: EnvPool, actions: Array) -> Steps:
    """Autoreset in the same step, with seeds drawn beforehand like the actions: every row is a step."""
    env_ids = np.arange(pool.num_envs)
    seeds = np.array([[episode_seed(SEED, env, k) for env in env_ids.tolist()] for k in range(_SEED_ROWS)])
    episodes = np.zeros(pool.num_envs, np.int64)
    pool.reset(env_ids, seeds[0])
    pool.recv()
    for row in itertools.cycle(actions):
        pool.send(env_ids, row, seeds[(episodes + 1) % _SEED_ROWS, env_ids])
        episodes += pool.recv().ended
        yield pool.num_envs


def gymnasium_steps(env: VectorEnv[Any, Any, Any], actions: Array) -> Steps:
    """Autoreset in the next step: the row after an episode's last is a reset, whatever its action."""
    env.reset(seed=SEED)
    resets = 0
    for row in itertools.cycle(actions):
        _, _, terminated, truncated, _ = env.step(row)
        yield env.num_envs - resets
        resets = int(np.count_nonzero(terminated | truncated))


def sb3_steps(env: Any, actions: Array) -> Steps:
    """Autoreset in the same step: every row is a step."""
    env.seed(SEED)
    env.reset()
    for row in itertools.cycle(actions):
        env.step(row)
        yield env.num_envs


def loop_steps(env: AnyEnv, actions: Array) -> Steps:
    """One env in a plain loop, with as many steps at a time as the others take in one vector step."""
    discrete = isinstance(env.action_space, gym.spaces.Discrete)  # plain ints are what envs are fastest with
    rows = [row.tolist() if discrete else list(row) for row in actions]
    env.reset(seed=SEED)
    for row in itertools.cycle(rows):
        for action in row:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        yield len(row)


@contextmanager
def _pool(task: Task, num_workers: int, transport: Transport = "shared") -> Iterator[Steps]:
    with make_pool(task.factory, task.num_envs, num_workers, transport) as pool:
        yield pool_steps(pool, task.actions)


@contextmanager
def _sync_vector_env(task: Task) -> Iterator[Steps]:
    with closing(SyncVectorEnv(task.builders)) as env:
        yield gymnasium_steps(env, task.actions)


@contextmanager
def _async_vector_env(task: Task) -> Iterator[Steps]:
    env = AsyncVectorEnv(task.builders, context=start_method())
    try:
        yield gymnasium_steps(env, task.actions)
    finally:
        end_async_vector_env(env)


def end_async_vector_env(env: Any) -> None:
    """Close an AsyncVectorEnv, whatever state a failed env has left it in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a step that was never answered
        try:
            env.close(terminate=True)
        except Exception:  # it asks for that answer first, and fails as the step did
            for process in env.processes:
                process.kill()
                process.join()
            env.closed = True  # or its destructor would try again


@contextmanager
def _dummy_vec_env(task: Task) -> Iterator[Steps]:
    from stable_baselines3.common.vec_env import DummyVecEnv  # optional, and slow to import

    with closing(DummyVecEnv(task.builders)) as env:
        yield sb3_steps(env, task.actions)


@contextmanager
def _subproc_vec_env(task: Task) -> Iterator[Steps]:
    from stable_baselines3.common.vec_env import SubprocVecEnv  # optional, and slow to import

    with closing(SubprocVecEnv(task.builders, start_method=start_method())) as env:
        yield sb3_steps(env, task.actions)


@contextmanager
def _envpool(task: Task) -> Iterator[Steps]:
    import envpool  # optional

    if task.env_id not in envpool.list_all_envs():
        raise LookupError(f"has no {task.env_id}")
    env: Any = envpool.make_gymnasium(
        task.env_id, num_envs=task.num_envs, num_threads=task.num_workers, **task.env_kwargs
    )
    with closing(env):
        yield gymnasium_steps(env, task.actions)


@contextmanager
def loop(task: Task) -> Iterator[Steps]:
    """One env in a plain loop in this process; a core can do no more."""
    with closing(task.factory.build()) as env:
        yield loop_steps(env, task.actions)


@contextmanager
def _loops(task: Task) -> Iterator[Steps]:
    """A loop on every core at once, in independent processes.

    The true limit of the machine: N cores that share a clock, a cache or a physical core do less than N times
    what one of them does alone.
    """
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray("q", usable_cores())
    processes = [
        context.Process(
            target=_count_steps,
            args=(os.getpid(), cloudpickle.dumps(task.factory), task.actions, counts, core),
        )
        for core in range(usable_cores())
    ]
    try:
        for process in processes:
            spawning.start(process)  # a signal waits until the process can be ended
        yield _counted(counts, processes)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _count_steps(parent_pid: int, factory: bytes, actions: Array, counts: Any, core: int) -> None:
    detach(parent_pid)  # it would go on for ever
    with closing(cloudpickle.loads(factory).build()) as env:
        for steps in loop_steps(env, actions):
            counts[core] += steps


def _counted(counts: Any, processes: Sequence[Any]) -> Steps:
    while not all(counts):  # still importing
        if not all(process.is_alive() for process in processes):
            raise RuntimeError("a process ended")
        time.sleep(0.01)
    before = sum(counts)
    while True:
        time.sleep(0.01)
        now = sum(counts)
        yield now - before
        before = now


def start_method() -> str | None:
    """How peers start their processes: as they step alike, the way that does not import torch in each."""
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None


@dataclass(frozen=True)
class Stepper:
    """One way to step N envs; a piece of its work is one vector step.

    Attributes:
        label: for the table.
        start: builds the envs, resets them, and closes them afterwards.
        package: has to be installed for it.
    """

    label: str
    start: Callable[[Task], AbstractContextManager[Steps]]
    package: Package | None = None


SB3 = Package("stable_baselines3", "stable_baselines3")


def steppers(num_workers: int) -> dict[str, Stepper]:
    """All ways, by name.

    Args:
        num_workers: the most workers of prl's pools.
    """
    fewer = {
        f"shared-{count}": Stepper(f"prl, {workers_in_words(count)}", partial(_pool, num_workers=count))
        for count in worker_counts(num_workers)[:-1]
    }
    most = workers_in_words(num_workers)
    return {
        "inline": Stepper("prl, no workers", partial(_pool, num_workers=0)),
        **fewer,
        "shared": Stepper(f"prl, {most}", partial(_pool, num_workers=num_workers)),
        "pipe": Stepper(f"prl, {most}, pipes", partial(_pool, num_workers=num_workers, transport="pipe")),
        "sync": Stepper("Gymnasium SyncVectorEnv", _sync_vector_env),
        "async": Stepper("Gymnasium AsyncVectorEnv", _async_vector_env),
        "dummy": Stepper("SB3 DummyVecEnv", _dummy_vec_env, SB3),
        "subproc": Stepper("SB3 SubprocVecEnv", _subproc_vec_env, SB3),
        "envpool": Stepper("EnvPool (C++ envs)", _envpool, Package("envpool", "envpool")),
        LOOP: Stepper("one env in a loop, 1 core", loop),
        "loops": Stepper("a loop on each core", _loops),
    }


def workers_in_words(count: int) -> str:
    """The number of workers, for a label."""
    return "no workers" if count == 0 else "1 worker" if count == 1 else f"{count} workers"
