"""How many threads the learner computes with: measured before a run, with optimiser steps like its own."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from learner.encoders import some_rows
from learner.exploration import NoExplorationUpdate
from learner.fused_step import fastest_step
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.skips import Skips
from prl.config.train_config import TrainConfig
from prl.run.build import build_policy, reproducible
from workers.cores import usable_cores
from workers.envs import EnvFactory

NEEDED_SPEEDUP = 1.1
"""More threads have to be faster by this factor: beside them, other processes get less done."""

_SECONDS = 2.0
_TURNS = 9
_TURN = 0.02  # seconds at least: single steps of small networks are too short to be compared


def settle_threads(
    config: TrainConfig, factory: EnvFactory, device: torch.device
) -> tuple[TrainConfig, list[str]]:
    """A config in which `torch_threads` is a number, and a line about it if it was measured.

    The number is part of what a seed means, so it has to be written down.

    Args:
        config: of the run; the number of workers is settled.
        factory: of its envs.
        device: of the policy. Beside a GPU there is nothing to gain: one thread starts its operations.
    """
    if config.torch_threads != "auto":
        return config, []
    cores = idle_cores(usable_cores(), config.workers, config.envs)
    number, line = 1, "torch_threads 1: no core is idle beside the workers"
    if device.type != "cpu":
        line = f"torch_threads 1: the learner computes on {device}"
    elif cores > 1:
        one, all_idle = measure_threads(config, factory, [1, cores])
        number = cores if one >= NEEDED_SPEEDUP * all_idle else 1
        line = (
            f"torch_threads {number}: an optimiser step takes {one * 1e3:.3g} ms on one thread "
            f"and {all_idle * 1e3:.3g} ms on {cores}"
        )
    return dataclasses.replace(config, torch_threads=number), [line]


def idle_cores(cores: int, num_workers: int | None, num_envs: int) -> int:
    """The cores that workers leave to the learner, at least 1.

    Args:
        cores: that there are to use.
        num_workers: None is one per core.
        num_envs: no more workers than these are started.
    """
    return max(1, cores - min(cores if num_workers is None else num_workers, num_envs))


def measure_threads(config: TrainConfig, factory: EnvFactory, numbers: Sequence[int]) -> list[float]:
    """Seconds per optimiser step on the CPU, of a policy like the config's: a median per number of threads.

    Args:
        config: of the run.
        factory: of its envs.
        numbers: of threads.
    """
    cpu = torch.device("cpu")
    with reproducible(1, cpu), torch.random.fork_rng(devices=[]):  # custom encoders may draw
        step = _one_step(config, build_policy(factory, config))
    seconds: list[list[float]] = [[] for _ in numbers]
    until = time.perf_counter() + _SECONDS
    for turn in range(1 + _TURNS):
        if turn > 1 and time.perf_counter() > until:
            break
        for number, found in zip(numbers, seconds, strict=True):
            with reproducible(number, cpu), torch.random.fork_rng(devices=[]):
                found.append(_timed(step))
    return [statistics.median(found[1:]) for found in seconds]  # the first of each has also made threads


def _timed(step: Callable[[], None]) -> float:
    step()  # caches hold what the last turn has left in them
    began, count, seconds = time.perf_counter(), 0, 0.0
    while seconds < _TURN:
        step()
        count, seconds = count + 1, time.perf_counter() - began
    return seconds / count


def _one_step(config: TrainConfig, policy: ActorCritic) -> Callable[[], None]:
    """A function that makes an optimiser step; its numbers mean nothing."""
    step = fastest_step(policy, config)
    batch = step.adapt(_batch(policy, min(config.minibatch_size, config.batch_size)))
    skips = Skips()

    def one_step() -> None:
        step.gradient(batch, config.clip_range)
        step.apply(config.actor_lr, config.critic_lr, skips)

    return one_step


def _batch(policy: ActorCritic, size: int) -> Batch[Any]:
    inputs, masks = policy.preprocess(some_rows(policy.observation_space, size))
    actions = torch.as_tensor(policy.head.mode(np.zeros((size, policy.head.num_outputs), np.float32)))
    log_probs, values = policy.evaluate_actions(inputs, masks, actions)
    advantages = torch.linspace(-1.0, 1.0, size)
    exploration = NoExplorationUpdate(size)
    return Batch(inputs, masks, actions, log_probs, values, advantages, values, policy, exploration)
