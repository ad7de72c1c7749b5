"""Evaluating the policy of a run."""

from __future__ import annotations

import dataclasses
import os

from prl.run.build import build_factory, build_pool, evaluation_limit, pick_device, reproducible
from prl.run.policy_spaces import policy_for
from prl.run.run_files import load_config, weights_of
from prl.run.weights import load_weights
from prl.training.evaluate import Episode, evaluate
from workers.seeding import episode_seed

_MAX_ENVS = 32  # that evaluate_run builds by default


def evaluate_run(
    run: str | os.PathLike[str],
    episodes: int = 100,
    seed: int = 1_000_000,
    best: bool = False,
    deterministic: bool = True,
    num_envs: int | None = None,
    num_workers: int = 0,
) -> list[Episode]:
    """Evaluate the policy of a run. Episodes without a time limit are cut, with a warning.

    Args:
        run: its folder.
        episodes: how many.
        seed: episode k has `episode_seed(seed, 0, k)`, on which alone its outcome depends.
        best: take the best policy of the run's own evaluations, not the last.
        deterministic: take the most likely actions instead of drawing them.
        num_envs: envs that play at the same time; None takes up to 32.
        num_workers: worker processes that host them; 0 steps all in this process.

    Returns:
        As many episodes, in the order of their seeds.

    Raises:
        ConfigError: the folder is not that of a run, or has no best policy.
        EnvError: its env cannot be used here.
        WeightsError: its weights cannot be used.
        WorkerError: a worker died, hung or reported a failed env.
    """
    config = load_config(run)
    weights = weights_of(run, best).absolute()  # an env may change the working directory
    hosted = dataclasses.replace(config, num_workers=num_workers)
    factory = build_factory(hosted)
    # A GPU that the run was given need not be on this machine.
    device = pick_device("cpu" if config.device == "cpu" else "auto")
    policy = policy_for(run, config, factory).to(device)
    load_weights(policy, weights)
    seeds = [episode_seed(seed, 0, episode) for episode in range(episodes)]
    with (
        reproducible(config.torch_threads, device),
        build_pool(hosted, factory, num_envs or min(episodes, _MAX_ENVS)) as pool,
    ):
        limit = evaluation_limit(config, factory)
        return evaluate(policy, pool, seeds, deterministic=deterministic, max_episode_steps=limit)
