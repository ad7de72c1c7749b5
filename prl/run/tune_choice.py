"""Which of the measured setups to take, and the reasons in words; settings that are "auto", settled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prl.config.train_config import TrainConfig
from prl.run.build import pick_device, reproducible
from prl.run.signals import stop_on_signals
from prl.run.tune import SECONDS, Costs, Rates, measure_costs, measure_rates, setups_of
from workers.envs import EnvFactory

NEAR = 0.9
"""A setup with this share of the fastest one's rate is as good, if it needs fewer envs or workers."""

_MUCH_LOAD = 0.5  # processes per core that want to run


@dataclass(frozen=True)
class Choice:
    """What to take, and why.

    Attributes:
        rates: of the setup to take.
        reasons: a sentence for each setting that there was a choice for.
    """

    rates: Rates
    reasons: list[str]


def choose(rates: Sequence[Rates], costs: Costs) -> Choice:
    """The setup with the fewest envs, and among these with the fewest workers, that is nearly the fastest.

    Fewer envs are preferred because they change more than speed: what a seed means, and with whole episodes
    how many steps an update learns from. Fewer workers leave cores and memory to others.

    Args:
        rates: of at least one setup.
        costs: for the reasons.
    """
    best = max(rates, key=_trained)
    near = [found for found in rates if found.trained >= NEAR * best.trained]
    chosen = min(near, key=lambda found: (found.setup.num_envs, found.setup.num_workers, -found.trained))
    reasons = [
        *_why_workers(chosen, rates, costs),
        *_why_envs(chosen, best, rates),
        *_why_acting(chosen, rates),
    ]
    return Choice(chosen, reasons)


def _trained(found: Rates) -> float:
    return found.trained


def _why_workers(chosen: Rates, rates: Sequence[Rates], costs: Costs) -> Iterator[str]:
    taken = chosen.setup.num_workers
    if taken == 0:
        others = [found for found in rates if found.setup.num_workers > 0]
        if others:
            other = max(others, key=_trained)
            yield (
                f"no workers: a step of the env takes {costs.env_step * 1e6:,.1f} us, and processes gain too "
                f"little: with {_workers(other)} at best {other.trained:,.0f} steps/s are trained, "
                f"without {chosen.trained:,.0f}"
            )
        return
    fewer = [found for found in rates if found.setup.num_workers < taken]
    if fewer:
        other = max(fewer, key=_trained)
        yield (
            f"{_workers(chosen)}: {chosen.trained:,.0f} steps/s are trained, with {_workers(other)} "
            f"at best {other.trained:,.0f}"
        )


def _why_envs(chosen: Rates, best: Rates, rates: Sequence[Rates]) -> Iterator[str]:
    envs = chosen.setup.num_envs
    if len({found.setup.num_envs for found in rates}) > 1:
        yield (
            f"{envs} envs: the fewest that reach {NEAR:.0%} of the fastest setup ({best.trained:,.0f} "
            f"steps/s, {best.setup.num_envs} envs); another number gives other results for the same seed"
        )


def _why_acting(chosen: Rates, rates: Sequence[Rates]) -> Iterator[str]:
    setup = chosen.setup
    others = [
        found
        for found in rates
        if found.setup.num_workers == setup.num_workers
        and found.setup.num_envs == setup.num_envs
        and found.setup.acting != setup.acting
    ]
    for other in others:
        doer = {"learner": "the learner acts", "worker": "workers act"}
        yield (
            f"{doer[setup.acting]}: {chosen.trained:,.0f} steps/s are trained, "
            f"{other.trained:,.0f} where {doer[other.setup.acting]}"
        )


def _workers(found: Rates) -> str:
    count = found.setup.num_workers
    return "no workers" if count == 0 else "1 worker" if count == 1 else f"{count} workers"


@dataclass(frozen=True)
class Tuning:
    """Everything that was measured, and what follows.

    Attributes:
        costs: of single steps.
        rates: of the setups that were measured.
        left_out: setups that there was no time for.
        choice: among them.
    """

    costs: Costs
    rates: list[Rates]
    left_out: int
    choice: Choice


def busy_cores() -> list[str]:
    """A line if other programs have used this machine's cores in the last minute; otherwise none."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load < _MUCH_LOAD * cores:
        return []
    return [
        f"the machine was busy with {load:.1f} other processes on {cores} cores just before, so the figures "
        "may be wrong; measure again when it is idle"
    ]


def tune(
    config: TrainConfig,
    factory: EnvFactory,
    seconds: float,
    on_costs: Callable[[Costs], None] = lambda costs: None,
    on_rates: Callable[[Rates], None] = lambda rates: None,
) -> Tuning:
    """Measure, and choose. Nothing is written, and the run that follows has the same bits as without.

    Args:
        config: of the run; what is "auto" is varied. If `acting` is "auto", both ways are measured.
        factory: of its envs.
        seconds: of measuring; starting workers and envs comes on top.
        on_costs: told what single steps cost, as soon as that is known.
        on_rates: told of each setup.

    Raises:
        ConfigError, EnvError: the config cannot be carried out.
        WorkerError: a worker died, hung or reported a failed env.
        Stopped: a signal ended the measurement.
    """
    device = pick_device(config.device)
    setups = setups_of(config, factory)
    with reproducible(config.torch_threads, device), stop_on_signals():
        costs = measure_costs(config, factory, seconds)
        on_costs(costs)
        rates = []
        for found in measure_rates(config, factory, costs, setups, seconds):
            on_rates(found)
            rates.append(found)
    return Tuning(costs, rates, len(setups) - len(rates), choose(rates, costs))


def settled(config: TrainConfig, factory: EnvFactory) -> tuple[TrainConfig, list[str]]:
    """A config in which nothing is left to be measured, and lines about what was chosen.

    Without "auto" in `num_workers` or `num_envs`, that is the config itself, and no line. Otherwise `acting`
    is settled too, if it is "auto", since rates belong to one way of acting.

    Raises:
        See `tune`.
    """
    if "auto" not in (config.num_workers, config.num_envs):
        return config, []
    lines = busy_cores()
    rates = tune(config, factory, SECONDS).choice.rates
    setup = rates.setup
    line = (
        f"measured: num_workers={setup.num_workers} num_envs={setup.num_envs} acting={setup.acting} "
        f"({rates.collected:,.0f} steps/s collected, {rates.trained:,.0f} trained)"
    )
    return setup.of(config), [line, *lines]
