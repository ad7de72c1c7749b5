"""How many workers and envs, and who acts: measured with the run's own parts, before the run.

Setups are measured in rounds of a fixed number of steps, so that no env waits for another's episode to end,
and each begins with the untrained policy. One core more or less, another machine or other networks give other
answers; that is why this is measured and not looked up.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from learner.policy import ActorCritic
from learner.settings import ConfigError
from prl.config.train_config import TrainConfig, default_groups
from prl.run.build import (
    build_learner,
    build_players,
    build_policy,
    build_pool,
    pick_device,
    players_of,
)
from prl.training.group_round import PlayingTime
from prl.training.players import Players
from prl.training.trainer import Trainer
from prl.training.worker_players import player_kit
from workers.cores import usable_cores
from workers.envs import EnvFactory

SECONDS = 10.0
"""Of measuring, unless another time is chosen."""

_GROUP = 16  # envs of the group that costs are measured with; as large as groups are by default
_ENV_COUNTS = (16, 32, 64)
_SHARE_OF_COSTS = 0.15  # of the time, for what single steps cost
_ENDLESS = 1 << 62

Acting = Literal["learner", "worker"]


@dataclass(frozen=True)
class Costs:
    """What single steps cost, in this process.

    Attributes:
        env_step: seconds per step of one env, with the checks and the copying of what it returns.
        act: seconds per choice of actions for one group.
        group: envs of that group.
        update: seconds of the update per env step that it learns from.
    """

    env_step: float
    act: float
    group: int
    update: float


@dataclass(frozen=True)
class Setup:
    """One way to run.

    Attributes:
        num_workers: processes that host envs; 0 keeps all in the learner's own.
        num_envs: N.
        acting: who acts, as in `TrainConfig`, but never auto.
    """

    num_workers: int
    num_envs: int
    acting: Acting

    def of(self, config: TrainConfig) -> TrainConfig:
        """A config with this setup."""
        return dataclasses.replace(
            config, num_workers=self.num_workers, num_envs=self.num_envs, acting=self.acting
        )


@dataclass(frozen=True)
class Rates:
    """What a setup does, in env steps per second.

    Attributes:
        setup: was measured.
        collected: while nothing is learnt.
        trained: collecting and updates together, overlapped if the config says so.
    """

    setup: Setup
    collected: float
    trained: float


def setups_of(config: TrainConfig, factory: EnvFactory) -> list[Setup]:
    """The setups to compare: every setting that is "auto" is varied, the others stay as they are.

    Raises:
        ConfigError: workers were asked to act, but cannot.
    """
    with_guests = player_kit(build_policy(factory, config).to(pick_device(config.device))) is not None
    setups = []
    for num_envs in _env_counts(config):
        groups = config.num_groups or default_groups(num_envs)
        for num_workers in _worker_counts(config):
            fits = num_workers <= num_envs or config.num_workers != "auto"
            # Players in workers need a group each; workers without one would idle.
            plays = num_workers > 0 and (num_workers <= groups or config.num_workers != "auto")
            if fits and config.acting != "worker":
                setups.append(Setup(num_workers, num_envs, "learner"))
            if fits and plays and config.acting != "learner" and (with_guests or config.acting == "worker"):
                setups.append(Setup(num_workers, num_envs, "worker"))
    if not setups:  # the other axes always have a value that fits
        raise ConfigError("acting=worker needs worker processes, got num_workers 0")
    return setups


def _worker_counts(config: TrainConfig) -> list[int]:
    cores = usable_cores()
    if config.num_workers is None:
        return [cores]
    return sorted({0, 1, cores // 2, cores}) if config.num_workers == "auto" else [config.num_workers]


def _env_counts(config: TrainConfig) -> list[int]:
    """Not more envs than a batch has room for, since larger batches would be other training."""
    if config.num_envs != "auto":
        return [config.num_envs]
    counts = sorted({*_ENV_COUNTS, _GROUP * usable_cores()})
    least = config.num_groups or 1
    most = config.batch_size // (config.num_steps if config.rollout == "steps" else 1)
    return [count for count in counts if least <= count <= most] or [max(least, min(counts[0], max(1, most)))]


def measure_costs(config: TrainConfig, factory: EnvFactory, seconds: float = SECONDS) -> Costs:
    """What an env's step, acting and the update cost, each on its own.

    Args:
        config: of the run; "auto" is no obstacle.
        factory: of its envs.
        seconds: for the whole measurement, of which this takes its part.
    """
    group = _GROUP if config.num_envs == "auto" else min(_GROUP, config.num_envs)
    config = dataclasses.replace(Setup(0, group, "learner").of(config), num_groups=1, overlap=False)
    policy = build_policy(factory, config).to(pick_device(config.device))
    budget = seconds * _SHARE_OF_COSTS
    with build_pool(config, factory, group) as pool:
        players = build_players(pool, None)
        trainer = _trainer(config, policy, players, 1)
        trainer.learn(trainer.collect(policy))  # what happens only once
        per_step = trainer.collect(policy).seconds
        num_steps = _between(1, int(budget / 4 / per_step), -(-config.batch_size // group))
        trainer = _trainer(config, policy, players, num_steps)
        stop, steps, spent, update = time.perf_counter() + budget, 0, PlayingTime(), 0.0
        while steps == 0 or time.perf_counter() < stop:
            collected = trainer.collect(policy)
            began = time.perf_counter()
            trainer.learn(collected)
            update += time.perf_counter() - began
            spent += collected.playing
            steps += len(collected.rollout)
    return Costs(spent.pool / steps, spent.act / steps * group, group, update / steps)


def measure_rates(
    config: TrainConfig,
    factory: EnvFactory,
    costs: Costs,
    setups: Sequence[Setup],
    seconds: float = SECONDS,
) -> Iterator[Rates]:
    """The rates of one setup after the other.

    Where starting takes much longer than measuring, as it does with envs that load large files, the last
    setups are left out: there is no more than this after three times the seconds and 20 more.

    Args:
        config: of the run.
        factory: of its envs.
        costs: see `measure_costs`.
        setups: see `setups_of`; at least the first is measured.
        seconds: for the whole measurement, without what it takes to start workers and envs.
    """
    each = seconds * (1.0 - _SHARE_OF_COSTS) / len(setups)
    deadline = time.perf_counter() + 3.0 * seconds + 20.0
    for index, setup in enumerate(setups):
        if index and time.perf_counter() > deadline:
            return
        yield _rates(setup, setup.of(config), factory, costs, each)


def _rates(setup: Setup, config: TrainConfig, factory: EnvFactory, costs: Costs, seconds: float) -> Rates:
    per_step = setup.num_envs * costs.env_step / max(1, setup.num_workers) + config.groups * costs.act
    num_steps = _between(1, int(seconds / 4 / per_step), -(-config.batch_size // setup.num_envs))
    policy = build_policy(factory, config).to(pick_device(config.device))
    kit = players_of(config, policy)
    with build_pool(config, factory, setup.num_envs, kit) as pool:
        trainer = _trainer(config, policy, build_players(pool, kit), num_steps)
        trainer.learn(trainer.collect(policy))  # what happens only once
        collecting = _Pieces(seconds / 2)
        while collecting.goes_on:
            trainer.collect(policy)
            collecting.done()
        iterations = trainer.iterations()
        if config.overlap:
            next(iterations)  # nothing was played beforehand yet
        training = _Pieces(seconds / 2)
        while training.goes_on:
            next(iterations)
            training.done()
    steps = num_steps * setup.num_envs
    return Rates(setup, steps / collecting.median, steps / training.median)


def _trainer(config: TrainConfig, policy: ActorCritic, players: Players, num_steps: int) -> Trainer:
    """Every update of it learns from one round of `num_steps` steps of every env."""
    return Trainer(
        players.pool,
        build_learner(policy, config),
        batch_size=num_steps * players.pool.num_envs,
        total_timesteps=_ENDLESS,
        seed=config.seed,
        num_groups=config.groups,
        num_steps=num_steps,
        overlap=config.overlap,
        players=players,
    )


class _Pieces:
    """Times equal pieces of work, until enough time has gone by.

    Args:
        seconds: that are enough.
    """

    def __init__(self, seconds: float) -> None:
        self._last = time.perf_counter()
        self._until = self._last + seconds
        self._durations: list[float] = []

    @property
    def goes_on(self) -> bool:
        """Whether there is time for another piece; there always is for the first."""
        return not self._durations or self._last < self._until

    def done(self) -> None:
        """A piece of work is done."""
        now = time.perf_counter()
        self._durations.append(now - self._last)
        self._last = now

    @property
    def median(self) -> float:
        """Seconds per piece; one that another program has disturbed does not count."""
        return statistics.median(self._durations)


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))
