"""Raw stepping throughput of the pools beside their peers, all measured in one run.

Throughput depends on the machine and on what else it does, so read the ratios. The contenders take turns,
several times round, and only one of them is alive at a time. All get the same actions, drawn beforehand; each
starts the next episode of an env in its own way. A step counts if `env.step` was called: what an autoreset
returns instead of a step does not. Starting up is not measured.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from tqdm import tqdm

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.pools import make_pool
from workers.cores import usable_cores
from workers.envs import AnyEnv, EnvFactory, env_factory
from workers.errors import describe
from workers.pool import EnvPool
from workers.process_pool import Transport
from workers.seeding import episode_seed
from workers.slab import Array

_SEED = 0
_ACTION_ROWS = 256  # then the actions start again from the first
_SEED_ROWS = 64  # likewise
_WARM_UP = 0.25  # of the measured seconds
_PACKAGES = ("prl", "torch", "numpy", "gymnasium", "stable_baselines3", "envpool")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure how fast an environment steps: this project's pools beside their peers.

    Attributes:
        env_id: anything gymnasium.make takes; module:EnvId imports module first.
        env_kwargs: keyword arguments of the env, as key=value.
        num_envs: environments of each contender.
        num_workers: worker processes of the pools and threads of EnvPool; null takes one per usable core.
        seconds: measured time per contender and repeat.
        repeats: how often each contender has its turn, at least 3; the median counts.
        json: write the result to this file, too.
        only: names of the contenders to measure; all if none is given.

    Raises:
        ConfigError: a value is out of range.
    """

    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int = 32
    num_workers: int | None = None
    seconds: float = 3.0
    repeats: int = 3
    json: Path | None = None
    only: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.env_id:
            raise ConfigError("env_id is required, e.g. CartPole-v1")
        check(self, _RULES)


@dataclass(frozen=True)
class Task:
    """What every contender has to do.

    Attributes:
        env_id, env_kwargs: for a peer that builds its own envs.
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
        """A function for each env, as the peers want it."""
        return [self.factory.build] * self.num_envs


Steps = Iterator[int]
"""Steps the envs for ever; each `next` is one vector step and says how many env steps it was."""


def task(config: BenchmarkConfig) -> Task:
    """The task, with its actions drawn.

    Raises:
        EnvError: the environment cannot be used.
    """
    factory = env_factory(config.env_id, env_kwargs=config.env_kwargs)
    space = copy.deepcopy(factory.action_space)
    space.seed(_SEED)
    rows = [[space.sample() for _ in range(config.num_envs)] for _ in range(_ACTION_ROWS)]
    workers = usable_cores() if config.num_workers is None else config.num_workers
    return Task(config.env_id, config.env_kwargs, factory, workers, np.array(rows, space.dtype))


def pool_steps(pool: EnvPool, actions: Array) -> Steps:
    """Autoreset in the same step, with seeds drawn beforehand like the actions: every row is a step."""
    everyone = np.arange(pool.num_envs)
    seeds = np.array([[episode_seed(_SEED, env, k) for env in everyone.tolist()] for k in range(_SEED_ROWS)])
    episodes = np.zeros(pool.num_envs, np.int64)
    pool.reset(everyone, seeds[0])
    pool.recv()
    for row in itertools.cycle(actions):
        pool.send(everyone, row, seeds[(episodes + 1) % _SEED_ROWS, everyone])
        episodes += pool.recv().ended
        yield pool.num_envs


def gymnasium_steps(env: VectorEnv[Any, Any, Any], actions: Array) -> Steps:
    """Autoreset in the next step: the row after an episode's last is a reset, whatever its action."""
    env.reset(seed=_SEED)
    resets = 0
    for row in itertools.cycle(actions):
        _, _, terminated, truncated, _ = env.step(row)
        yield env.num_envs - resets
        resets = int(np.count_nonzero(terminated | truncated))


def sb3_steps(env: Any, actions: Array) -> Steps:
    """Autoreset in the same step: every row is a step."""
    env.seed(_SEED)
    env.reset()
    for row in itertools.cycle(actions):
        env.step(row)
        yield env.num_envs


def loop_steps(env: AnyEnv, actions: Array) -> Steps:
    """One env in a plain loop, as many steps at a time as the others take in one vector step."""
    discrete = isinstance(env.action_space, gym.spaces.Discrete)  # plain ints are what envs are fastest with
    rows = [row.tolist() if discrete else list(row) for row in actions]
    env.reset(seed=_SEED)
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
    env = AsyncVectorEnv(task.builders, context=_start_method())
    try:
        yield gymnasium_steps(env, task.actions)
    finally:
        _end(env)


def _end(env: Any) -> None:
    """Close an AsyncVectorEnv, in whatever state a failed env has left it."""
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

    with closing(SubprocVecEnv(task.builders, start_method=_start_method())) as env:
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
def _loop(task: Task) -> Iterator[Steps]:
    with closing(task.factory.build()) as env:
        yield loop_steps(env, task.actions)


@contextmanager
def _loops(task: Task) -> Iterator[Steps]:
    """A loop on every core at once, each in a process of its own that nobody waits for.

    What the machine really has to give: cores that share a clock, a cache or a physical core give less than
    so many times what one of them does alone.
    """
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray("q", usable_cores())
    crew = [
        context.Process(
            target=_count_steps, args=(cloudpickle.dumps(task.factory), task.actions, counts, core)
        )
        for core in range(usable_cores())
    ]
    for process in crew:
        process.start()
    try:
        yield _counted(counts, crew)
    finally:
        for process in crew:
            process.kill()
            process.join()


def _count_steps(factory: bytes, actions: Array, counts: Any, core: int) -> None:
    with closing(cloudpickle.loads(factory).build()) as env:
        for steps in loop_steps(env, actions):
            counts[core] += steps


def _counted(counts: Any, crew: Sequence[Any]) -> Steps:
    while not all(counts):  # still importing
        if not all(process.is_alive() for process in crew):
            raise RuntimeError("a process ended")
        time.sleep(0.01)
    before = sum(counts)
    while True:
        time.sleep(0.01)
        now = sum(counts)
        yield now - before
        before = now


def _start_method() -> str | None:
    # The peers' steps take as long either way; the other methods would import torch once per env.
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None


@dataclass(frozen=True)
class Contender:
    """One way to step N envs.

    Attributes:
        label: for the table.
        start: builds the envs, resets them, and ends them afterwards.
        package: what has to be installed for it.
    """

    label: str
    start: Callable[[Task], AbstractContextManager[Steps]]
    package: str = "gymnasium"

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package) is not None


CONTENDERS: Mapping[str, Contender] = {
    "shared": Contender("prl, shared memory", lambda task: _pool(task, task.num_workers)),
    "pipe": Contender("prl, pipes", lambda task: _pool(task, task.num_workers, "pipe")),
    "inline": Contender("prl, inline", lambda task: _pool(task, 0)),
    "sync": Contender("Gymnasium SyncVectorEnv", _sync_vector_env),
    "async": Contender("Gymnasium AsyncVectorEnv", _async_vector_env),
    "dummy": Contender("SB3 DummyVecEnv", _dummy_vec_env, "stable_baselines3"),
    "subproc": Contender("SB3 SubprocVecEnv", _subproc_vec_env, "stable_baselines3"),
    "envpool": Contender("EnvPool (C++ envs)", _envpool, "envpool"),
    "loop": Contender("one env in a loop, 1 core", _loop),
    "loops": Contender("a loop on each core", _loops),
}
_RULES: tuple[Rule, ...] = (
    ("num_envs num_workers", lambda v: v >= 1, "at least 1"),
    ("seconds", lambda v: 0.0 < v < float("inf"), "a positive number"),
    ("repeats", lambda v: v >= 3, "at least 3"),
    ("only", lambda v: set(v) <= set(CONTENDERS), f"names among {', '.join(CONTENDERS)}"),
)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure all contenders in turn, `repeats` times round.

    Returns:
        What was asked for, `cores`, `versions`, `skipped` (name -> why) and `results`: name ->
        `steps_per_second` (the median), `all` (one per repeat), `ratio_to_async` and `fraction_of_limit`
        (None if there is nothing to compare with). The result "limit" is usable cores x "loop".

    Raises:
        ConfigError: the JSON file cannot be written.
        EnvError: the environment cannot be used.
    """
    if config.json is not None:
        _check_writable(config.json)
    job = task(config)
    names = [name for name in CONTENDERS if name in config.only or not config.only]
    skipped = {name: "not installed" for name in names if not CONTENDERS[name].installed}
    rates: dict[str, list[float]] = {name: [] for name in names if name not in skipped}
    for name in tqdm(list(rates) * config.repeats, unit="turn", disable=None, leave=False):
        if name not in skipped:
            try:
                rates[name].append(_turn(CONTENDERS[name], job, config.seconds))
            except Exception as error:  # peers fail in their own ways; the others go on
                skipped[name] = f"failed: {describe(error)}"
    cores = usable_cores()
    result = {
        "env_id": config.env_id,
        "num_envs": config.num_envs,
        "num_workers": job.num_workers,
        "cores": cores,
        "seconds": config.seconds,
        "repeats": config.repeats,
        "versions": _versions(),
        "results": _results({name: values for name, values in rates.items() if name not in skipped}, cores),
        "skipped": skipped,
    }
    if config.json is not None:
        write_json(result, config.json)
    return result


def _turn(contender: Contender, task: Task, seconds: float) -> float:
    """Start, warm up, measure, end. Returns env steps per second."""
    gc.collect()  # or one contender's garbage would be collected on another's time
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # What peers warn of at their start: float64 bounds of their own spaces, and that they fork.
            warnings.simplefilter("ignore")
            steps = stack.enter_context(contender.start(task))
            measure(steps, _WARM_UP * seconds)
        return measure(steps, seconds)


def measure(steps: Steps, seconds: float) -> float:
    """Env steps per second, over at least `seconds`."""
    count = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += next(steps)
    return count / elapsed


def _results(rates: Mapping[str, list[float]], cores: int) -> dict[str, dict[str, Any]]:
    rates = dict(rates)
    if "loop" in rates:
        rates["limit"] = [cores * value for value in rates["loop"]]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        name: {
            "steps_per_second": medians[name],
            "all": values,
            "ratio_to_async": medians[name] / medians["async"] if "async" in medians else None,
            "fraction_of_limit": medians[name] / medians["limit"] if "limit" in medians else None,
        }
        for name, values in rates.items()
    }


def format_table(result: Mapping[str, Any]) -> str:
    """The result of `benchmark` in lines of text."""
    lines = [
        f"{result['env_id']}, {result['num_envs']} envs, {result['num_workers']} workers, "
        f"{result['cores']} cores; median of {result['repeats']} x {result['seconds']:g} s",
        "",
        f"{'':26}{'steps/s':>11}{'min .. max':>26}{'x async':>9}{'of limit':>10}",
    ]
    labels = {name: contender.label for name, contender in CONTENDERS.items()}
    labels["limit"] = f"limit: {result['cores']} x the loop"
    for name, label in labels.items():
        if name in result["results"]:
            lines.append(f"{label:26}{_numbers(result['results'][name])}")
        elif name in result["skipped"]:
            lines.append(f"{label:26}{result['skipped'][name]}")
    return "\n".join(lines)


def _numbers(row: Mapping[str, Any]) -> str:
    ratio, fraction = row["ratio_to_async"], row["fraction_of_limit"]
    spread = f"{min(row['all']):,.0f} .. {max(row['all']):,.0f}"
    return (
        f"{row['steps_per_second']:>11,.0f}{spread:>26}"
        f"{'-' if ratio is None else f'{ratio:.1f}':>9}"
        f"{'-' if fraction is None else f'{fraction:.0%}':>10}"
    )


def write_json(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `benchmark`; folders are made if need be.

    Raises:
        ConfigError: the file cannot be written.
    """
    _check_writable(path)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _check_writable(path: Path) -> None:
    """Before the measurements: a typing error in a path should not cost two minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigError(f"cannot write json {path}: {error.strerror}") from error


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


COMMAND = Command(BenchmarkConfig, lambda config: print(format_table(benchmark(config))))
