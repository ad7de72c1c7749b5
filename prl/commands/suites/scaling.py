"""The suite `scaling`: more envs, dearer steps, more workers; how workers start and what memory they take."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from prl.commands.steppers import SEED, pool_steps, workers_in_words
from prl.commands.suites.collect import collecting, training
from prl.commands.suites.comparison import MEBIBYTES, SECONDS, Comparison, Contender, Ratio
from prl.commands.suites.rates import Steps, measure, rate
from prl.commands.suites.settings import BenchmarkConfig, worker_counts
from prl.commands.suites.stepping import random_actions
from prl.config.train_config import TrainConfig
from prl.pools import make_pool
from workers.cores import usable_cores
from workers.envs import EnvFactory, env_factory
from workers.pool import EnvPool
from workers.seeding import episode_seed
from workers.testing import BusyEnv

NUM_ENVS = (32, 64, 128, 256, 512, 1024)
BUSY_MILLISECONDS = (0.0, 0.1, 1.0, 10.0)
BUSY_ENVS = 32
_TRAIN_MILLISECONDS = 1.0
STARTED_WORKERS = 16
NUM_STEPS = 32  # of a collected round


def scaling(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        EnvError: the environment cannot be used.
    """
    factory, cores = env_factory(config.env_id, env_kwargs=config.env_kwargs), usable_cores()
    most = config.most_workers
    start = partial(_start, factory)
    memory = partial(_memory, factory, most)
    contenders = [
        *_by_envs(config, factory),
        *_by_cost(config),
        Contender("start", f"{STARTED_WORKERS} workers ready to step, s", start, SECONDS),
        Contender("memory", "a worker's memory (PSS), MiB", memory, MEBIBYTES),
    ]
    names = [contender.name for contender in contenders]
    return Comparison(
        title=(
            f"{config.env_id}, {workers_in_words(most)}, and an env that computes in each step, "
            f"{BUSY_ENVS} envs; steps/s; {cores} cores; median of {config.repeats} x {config.seconds:g} s"
        ),
        contenders=contenders,
        ratios=[
            Ratio(
                "ratio_to_fewest_envs",
                f"x {NUM_ENVS[0]} envs",
                _bases(names, ("raw", "collect"), NUM_ENVS[0]),
            ),
            Ratio("ratio_to_no_workers", "x no workers", _bases(names, ("busy", "train"), 0)),
        ],
        repeats=config.repeats,
        settings={
            "env_id": config.env_id,
            "num_workers": most,
            "num_steps": NUM_STEPS,
            "busy_num_envs": BUSY_ENVS,
            "seconds": config.seconds,
        },
        cores=cores,
    )


def _bases(names: Sequence[str], kinds: tuple[str, ...], last: int) -> dict[str, str]:
    """For "busy-0.1-2" "busy-0.1-0", if `last` is 0: names of some kinds, with another last number."""
    chosen = [name for name in names if name.startswith(kinds)]
    return {name: f"{name.rpartition('-')[0]}-{last}" for name in chosen}


def _by_envs(config: BenchmarkConfig, factory: EnvFactory) -> Iterator[Contender]:
    """Raw steps, then collected ones, of more and more envs."""
    most = config.most_workers
    for num_envs in NUM_ENVS:
        measure_raw = partial(_raw, factory, num_envs, most, config.seconds)
        yield Contender(f"raw-{num_envs}", f"random actions, {num_envs} envs", measure_raw)
    for num_envs in NUM_ENVS:
        run = TrainConfig(
            env_id=config.env_id,
            env_kwargs=config.env_kwargs,
            num_envs=num_envs,
            num_workers=most,
            rollout="steps",
            num_steps=NUM_STEPS,
        )
        measure_collected = partial(_collected, run, factory, config.seconds)
        yield Contender(f"collect-{num_envs}", f"policy plays, {num_envs} envs", measure_collected)


def _by_cost(config: BenchmarkConfig) -> Iterator[Contender]:
    """Steps of an env that computes in each of them, and training on one, with more and more workers."""
    most = config.most_workers
    for milliseconds in BUSY_MILLISECONDS:
        busy = env_factory(BusyEnv, env_kwargs={"milliseconds": milliseconds})
        for count in (0, *worker_counts(most)):
            label = f"{milliseconds:g} ms per step, {workers_in_words(count)}"
            measure_busy = partial(_raw, busy, BUSY_ENVS, count, config.seconds)
            yield Contender(f"busy-{milliseconds:g}-{count}", label, measure_busy)
    busy = env_factory(BusyEnv, env_kwargs={"milliseconds": _TRAIN_MILLISECONDS})
    for count in (0, most):
        label = f"training, {_TRAIN_MILLISECONDS:g} ms per step, {workers_in_words(count)}"
        run = TrainConfig(
            env_id="busy",  # the factory says what it is
            num_envs=BUSY_ENVS,
            num_workers=count,
            rollout="steps",
            num_steps=NUM_STEPS,
        )
        yield Contender(f"train-{count}", label, partial(_trained, run, busy, config.seconds))


def _raw(factory: EnvFactory, num_envs: int, num_workers: int, seconds: float, turn: int) -> float:
    actions = random_actions(factory, num_envs)

    @contextmanager
    def start() -> Iterator[Steps]:
        with make_pool(factory, num_envs, num_workers) as pool:
            yield pool_steps(pool, actions)

    return rate(start, seconds)


def _collected(run: TrainConfig, factory: EnvFactory, seconds: float, turn: int) -> float:
    return rate(partial(collecting, run, factory), seconds)


def _trained(run: TrainConfig, factory: EnvFactory, seconds: float, turn: int) -> float:
    with training(run, factory, batch_size=run.num_envs * run.num_steps) as trainer:
        timesteps = (report.timesteps for report in trainer.iterations())
        first = next(timesteps)  # warms up
        return measure((after - before for before, after in pairwise(chain([first], timesteps))), seconds)


def _start(factory: EnvFactory, turn: int) -> float:
    """Seconds until all envs of new workers, one each, have answered a reset."""
    start = time.perf_counter()
    with make_pool(factory, STARTED_WORKERS, STARTED_WORKERS) as pool:
        _reset(pool)
        return time.perf_counter() - start


def _memory(factory: EnvFactory, num_workers: int, turn: int) -> float:
    """Mebibytes of a worker that has stepped, its share of what it has in common with others included."""
    before = {process.pid for process in multiprocessing.active_children()}
    with make_pool(factory, num_workers, num_workers) as pool:
        _reset(pool)
        steps = pool_steps(pool, random_actions(factory, num_workers))
        for _ in range(NUM_STEPS):
            next(steps)
        workers = [each.pid for each in multiprocessing.active_children() if each.pid not in before]
        return statistics.median(proportional_mebibytes(pid) for pid in workers if pid is not None)


def _reset(pool: EnvPool) -> None:
    env_ids = np.arange(pool.num_envs)
    pool.reset(env_ids, [episode_seed(SEED, env, 0) for env in env_ids.tolist()])
    pool.recv()


def proportional_mebibytes(pid: int) -> float:
    """The proportional set size of a process: its own memory, and its share of what others use as well.

    Raises:
        OSError: this system does not tell (Linux does).
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) / 1024.0
    raise OSError(f"/proc/{pid}/smaps_rollup has no line Pss")
