"""How long an optimiser step of PPO takes by hand and by autograd: one process, in turns, on one thread."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from learner.fused_step import FusedStep, fits
from learner.gradient_step import AutogradStep, GradientStep
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.run.build import reproducible
from prl.training.trainer import Trainer
from workers.envs import EnvFactory, env_factory
from workers.errors import EnvError
from workers.inline_pool import InlinePool

_STEPS = 2048  # of a batch
_NUM_ENVS = 16
_HIDDEN = ((64, 64), (256, 256))
_MINIBATCHES = (64, 256)
_REPEATS = 5  # of each batch, for every repeat that is asked for


def measure_updates(env_id: str, env_kwargs: Mapping[str, Any], repeats: int) -> list[dict[str, Any]]:
    """Optimiser steps on batches that an untrained policy has played.

    Args:
        env_id: anything `env_factory` takes.
        env_kwargs: of the env.
        repeats: more of them make the medians steadier.

    Returns:
        One row per pair of `hidden_sizes` and `minibatch_size`, with the medians `autograd` and `by_hand` in
        seconds per step.

    Raises:
        EnvError: the env cannot be used, or has no step by hand.
    """
    factory = env_factory(env_id, env_kwargs=env_kwargs)
    with reproducible(1, torch.device("cpu")):
        return [
            {"hidden_sizes": hidden, "minibatch_size": size, **_measure(factory, hidden, size, repeats)}
            for hidden, size in itertools.product(_HIDDEN, _MINIBATCHES)
        ]


def _measure(factory: EnvFactory, hidden: tuple[int, ...], minibatch: int, repeats: int) -> dict[str, float]:
    learners = {
        "autograd": _learner(factory, hidden, minibatch, AutogradStep),
        "by_hand": _learner(factory, hidden, minibatch, FusedStep),
    }
    batches = {name: _batch(factory, learner) for name, learner in learners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for repeat, name in itertools.product(range(repeats * _REPEATS), learners):
        start = time.perf_counter()
        metrics = learners[name].optimize(batches[name], np.random.default_rng(repeat))
        seconds[name].append((time.perf_counter() - start) / metrics["minibatches"])
    return {name: statistics.median(times) for name, times in seconds.items()}


def _learner(
    factory: EnvFactory, hidden: tuple[int, ...], minibatch: int, step: type[AutogradStep | FusedStep]
) -> PPOLearner:
    policy = ActorCritic(factory.observation_space, factory.action_space, hidden)
    if not fits(policy):
        raise EnvError(f"{factory.name}: its policy has no step by hand, so there is nothing to compare")
    # Step sizes so small that every repeat does the same work.
    config = PPOConfig(num_epochs=2, minibatch_size=minibatch, actor_lr=1e-7, critic_lr=1e-7)

    def make_step(policy: ActorCritic, config: PPOConfig) -> GradientStep:
        return step(policy, config)

    return PPOLearner(policy, config, make_step=make_step)


def _batch(factory: EnvFactory, learner: PPOLearner) -> Batch[torch.Tensor]:
    with InlinePool(factory, _NUM_ENVS) as pool:
        trainer = Trainer(
            pool, learner, batch_size=_STEPS, total_timesteps=_STEPS, seed=0, num_steps=_STEPS // _NUM_ENVS
        )
        return learner.prepare(trainer.collect(learner.policy).rollout)


def format_updates(env_id: str, rows: list[dict[str, Any]]) -> str:
    """The result of `measure_updates` as a Markdown table, in microseconds."""
    lines = [
        f"Microseconds per optimiser step, {env_id}, one thread\n",
        "| hidden sizes | minibatch | autograd | by hand | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        autograd, by_hand = row["autograd"] * 1e6, row["by_hand"] * 1e6
        sizes = " x ".join(map(str, row["hidden_sizes"]))
        numbers = f"{autograd:,.0f} | {by_hand:,.0f} | {autograd / by_hand:.1f}"
        lines.append(f"| {sizes} | {row['minibatch_size']} | {numbers} |")
    return "\n".join(lines)
