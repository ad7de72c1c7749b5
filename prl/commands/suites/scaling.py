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
from prl.commands.suites.variants import LEARNER, WORKER, variants
from prl.config.train_config import TrainConfig
from prl.pools import make_pool
from prl.run.build import build_policy, build_pool, players_of
from workers.cores import usable_cores
from workers.envs import EnvFactory, env_factory
from workers.seeding import episode_seed
from workers.testing import BusyEnv

NUM_ENVS = (32, 64, 128, 256, 512, 1024)
BUSY_MILLISECONDS = (0.0, 0.1, 1.0, 10.0)
BUSY_ENVS = 32
_TRAIN_MILLISECONDS = 1.0
STARTED_WORKERS = 16
NUM_STEPS = 32  # of a collected round
_ENDLESS = 1 << 40  # steps: what overlaps does so until the end of its run is near


def scaling(config: BenchmarkConfig) -> Comparison:
    """What the suite compares.

    Raises:
        EnvError: the environment cannot be used.
    """
    factory, cores = env_factory(config.env_id, env_kwargs=config.env_kwargs), usable_cores()
    most = config.most_workers
    contenders = [*_by_envs(config, factory), *_by_cost(config), *_workers(config, factory)]
    names = [contender.name for contender in contenders]
    return Comparison(
        title=(
            f"{config.env_id}, {workers_in_words(most)}, and an env that computes in each step, "
            f"{BUSY_ENVS} envs; steps/s; {cores} cores; median of {config.repeats} x {config.seconds:g} s"
        ),
        contenders=contenders,
        ratios=[
            Ratio("ratio_to_fewest_envs", f"x {NUM_ENVS[0]} envs", _to_fewest_envs(names)),
            Ratio("ratio_to_no_workers", "x no workers", _to_no_workers(names)),
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


def _to_fewest_envs(names: Sequence[str]) -> dict[str, str]:
    """For "raw-1024" "raw-32", and so on."""
    chosen = [name for name in names if name.startswith(("raw-", "collect-"))]
    return {name: f"{name.rpartition('-')[0]}-{NUM_ENVS[0]}" for name in chosen}


def _to_no_workers(names: Sequence[str]) -> dict[str, str]:
    """For "busy-0.1-2" "busy-0.1-0", and for every way to train the one without workers."""
    stepped = {name: f"{name.rpartition('-')[0]}-0" for name in names if name.startswith("busy-")}
    return stepped | {name: "train-learner-0" for name in names if name.startswith("train-")}


def _by_envs(config: BenchmarkConfig, factory: EnvFactory) -> Iterator[Contender]:
    """Raw steps, then collected ones, of more and more envs."""
    most = config.most_workers
    for num_envs in NUM_ENVS:
        measure_raw = partial(_raw, factory, num_envs, most, config.seconds)
        yield Contender(f"raw-{num_envs}", f"random actions, {num_envs} envs", measure_raw)
    collected = {num_envs: _collecting(config, num_envs) for num_envs in NUM_ENVS}
    for way in (LEARNER, WORKER):
        for num_envs, runs in collected.items():
            measure_collected = partial(_collected, runs[way.name], factory, config.seconds)
            label = f"policy plays, {way.label}, {num_envs} envs"
            yield Contender(f"collect-{way.name}-{num_envs}", label, measure_collected)


def _collecting(config: BenchmarkConfig, num_envs: int) -> dict[str, TrainConfig]:
    """The runs of the ways to collect with a number of envs."""
    base = TrainConfig(
        env_id=config.env_id,
        env_kwargs=config.env_kwargs,
        num_envs=num_envs,
        rollout="steps",
        num_steps=NUM_STEPS,
    )
    return {each.way.name: each.config for each in variants(base, [config.most_workers], (LEARNER, WORKER))}


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
    base = TrainConfig(
        env_id="busy",  # the factory says what it is
        num_envs=BUSY_ENVS,
        rollout="steps",
        num_steps=NUM_STEPS,
        total_timesteps=_ENDLESS,
    )
    for each in variants(base, (0, most)):
        label = f"training, {_TRAIN_MILLISECONDS:g} ms per step, {each.label}"
        yield Contender(f"train-{each.name}", label, partial(_trained, each.config, busy, config.seconds))


def _workers(config: BenchmarkConfig, factory: EnvFactory) -> Iterator[Contender]:
    """Start and memory of many workers with one env each, for both who may act."""
    base = TrainConfig(
        env_id=config.env_id,
        env_kwargs=config.env_kwargs,
        num_envs=STARTED_WORKERS,
        rollout="steps",
        num_steps=NUM_STEPS,
    )
    ways = variants(base, [STARTED_WORKERS], (LEARNER, WORKER))
    for each in ways:
        start = partial(_start, each.config, factory)
        yield Contender(f"start-{each.way.name}", f"start, s: {each.label}", start, SECONDS)
    for each in ways:
        memory = partial(_memory, each.config, factory)
        yield Contender(f"memory-{each.way.name}", f"MiB (PSS) of one of {each.label}", memory, MEBIBYTES)


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
    with training(run, factory, batch_size=run.envs * run.num_steps) as trainer:
        timesteps = (report.timesteps for report in trainer.iterations())
        first = next(timesteps)  # warms up
        return measure((after - before for before, after in pairwise(chain([first], timesteps))), seconds)


def _start(run: TrainConfig, factory: EnvFactory, turn: int) -> float:
    """Seconds until all envs of new workers, one each, have answered a reset."""
    kit = players_of(run, build_policy(factory, run))
    start = time.perf_counter()
    with build_pool(run, factory, run.envs, kit) as pool:
        env_ids = np.arange(pool.num_envs)
        pool.reset(env_ids, [episode_seed(SEED, env, 0) for env in env_ids.tolist()])
        pool.recv()
        return time.perf_counter() - start


def _memory(run: TrainConfig, factory: EnvFactory, turn: int) -> float:
    """Mebibytes of a worker after a round, its share of what it has in common with others included."""
    before = {process.pid for process in multiprocessing.active_children()}
    with training(run, factory, batch_size=1) as trainer:
        trainer.collect(trainer.learner.policy)
        workers = [each.pid for each in multiprocessing.active_children() if each.pid not in before]
        return statistics.median(proportional_mebibytes(pid) for pid in workers if pid is not None)


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
