"""The parts of a run, made from its config: env factory, pool, policy, learner, device."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch

from learner.blas import blas_threads
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.rnd import RND
from learner.settings import ConfigError
from prl.config.train_config import TrainConfig
from prl.pools import make_pool
from prl.run.policies import make_policy
from prl.run.torch_state import standard_torch, use_deterministic_algorithms
from prl.training.lagging import acting_copy
from prl.training.player_guest import PlayerKit
from prl.training.players import LearnerPlayers, Players
from prl.training.rounds import split_groups
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.cores import usable_cores
from workers.envs import EnvFactory, env_factory
from workers.errors import EnvError
from workers.pool import ChangeablePool
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool, Recovery
from workers.trial_env import process_kept

LONGEST_EPISODE = 27_000
"""Steps after which evaluations cut episodes that have no time limit; Atari's longest have as many."""


# `standard_torch`: building an env or importing an encoder runs the user's code in the learner's process.


@standard_torch()
def build_factory(config: TrainConfig) -> EnvFactory:
    """The factory of a config's envs, with its wrappers.

    Raises:
        EnvError: the env cannot be used.
    """
    return env_factory(
        config.env_id,
        env_kwargs=config.env_kwargs,
        env_index_kwarg=config.env_index_kwarg,
        max_episode_steps=config.max_episode_steps,
        wrappers=config.wrappers,
        ends_by_itself=config.ends_by_itself,
        use_action_masks=config.action_masks,
        own_process=config.num_workers != 0,  # else the envs are in this process, too
        start_timeout=config.start_timeout,
    )


@process_kept()
@standard_torch()
def build_pool(
    config: TrainConfig, factory: EnvFactory, num_envs: int, kit: PlayerKit | None = None
) -> ChangeablePool:
    """A pool of a config's envs, in its number of worker processes.

    Args:
        config: of the run.
        factory: builds each env.
        num_envs: N.
        kit: makes players that move into the workers; every group of the config is then in one worker.

    Raises:
        WorkerError: a worker could not be started, or an env not be built.
    """
    return make_pool(
        factory,
        num_envs,
        config.workers,
        transport=config.transport,
        step_timeout=config.step_timeout,
        start_timeout=config.start_timeout,
        close_timeout=config.close_timeout,
        pin_workers=config.pin_workers,
        recovery=recovery_of(config),
        log_info=config.log_info,
        **places(kit, num_envs, config.groups),
    )


def recovery_of(config: TrainConfig) -> Recovery | None:
    """How the pools of a config recover; None if they do not."""
    if config.on_worker_failure == "fail":
        return None
    return Recovery(config.max_restarts, config.replay_limit)


def places(kit: PlayerKit | None, num_envs: int, num_groups: int) -> dict[str, Any]:
    """Arguments of `make_pool` for players in workers, if there are any."""
    return {} if kit is None else {"groups": split_groups(num_envs, num_groups), "guest": invitation(kit)}


def build_players(pool: ChangeablePool, kit: PlayerKit | None) -> Players:
    """Who plays in a pool: the players that have moved into its workers, or the learner."""
    if kit is not None and isinstance(pool, ProcessPool | RecoveringPool):
        return WorkerPlayers(pool, kit)
    return LearnerPlayers(pool)


def players_of(config: TrainConfig, policy: ActorCritic) -> PlayerKit | None:
    """What makes the players of a config that act in workers; None if the learner acts.

    Raises:
        ConfigError: workers were asked to act, but cannot.
    """
    if config.acting == "learner":
        return None
    if config.overlap:
        policy = acting_copy(policy)
    if config.acting == "auto":
        return kit_for(policy, config.groups, config.envs, config.workers)
    kit = player_kit(policy)
    if kit is None:
        raise ConfigError(
            "acting=worker needs a policy that NumPy can compute: on the CPU (or with overlap), without "
            "images and custom encoders; acting=learner takes all"
        )
    if config.num_workers == 0:
        raise ConfigError("acting=worker needs worker processes, got num_workers 0")
    return kit


def kit_for(policy: ActorCritic, num_groups: int, num_envs: int, num_workers: int | None) -> PlayerKit | None:
    """What makes players in workers if that is faster than the learner: if every worker gets a group."""
    workers = usable_cores() if num_workers is None else num_workers
    return player_kit(policy) if num_groups >= min(workers, num_envs) else None


def build_policy(factory: EnvFactory, config: TrainConfig) -> ActorCritic:
    """The untrained policy of a config.

    Raises:
        ConfigError: the encoder cannot be made, or does not fit.
        EnvError: a space of the env is not supported.
    """
    return make_policy(factory.observation_space, factory.action_space, config, factory.name)


def build_learner(policy: ActorCritic, config: TrainConfig) -> PPOLearner:
    """The update of a config, for a policy that is on its device."""
    try:
        exploration = _rnd(policy, config) if config.rnd else None
    except ValueError as error:
        raise ConfigError(f"rnd cannot be used: {error}") from error
    return PPOLearner(policy, config, exploration)


def _rnd(policy: ActorCritic, config: TrainConfig) -> RND:
    return RND(
        policy.observation_space,
        coef=config.rnd_coef,
        gamma=config.rnd_gamma,
        gae_lambda=config.gae_lambda,
        lr=config.rnd_lr,
        max_grad_norm=config.max_grad_norm,
        hidden_sizes=config.hidden_sizes,
        seed=config.seed,
        device=policy.device,
    )


def check_trainable(factory: EnvFactory) -> None:
    """Check that episodes end, as rounds of whole episodes need.

    Raises:
        EnvError: nothing says that the env's episodes end.
    """
    if not factory.has_time_limit:
        raise EnvError(
            f"{factory.name} has no time limit, so an episode might never end; set one with "
            "--max-episode-steps (max_episode_steps=), say --ends-by-itself (ends_by_itself=True) if it ends "
            "all its episodes itself, or take --rollout steps with prl train"
        )


def warn_of_notes(factory: EnvFactory) -> None:
    """Warn the caller of a constructor of what one should know about the env; commands print these lines."""
    for line in factory.notes:
        warnings.warn(line, stacklevel=3)


def evaluation_limit(config: TrainConfig, factory: EnvFactory) -> int | None:
    """The steps after which evaluations cut an episode; None if the env has a time limit."""
    may_be_endless = config.ends_by_itself or not factory.has_time_limit
    return LONGEST_EPISODE if may_be_endless and config.max_episode_steps is None else None


def pick_device(name: str) -> torch.device:
    """The device behind a name; "auto" is the GPU if there is one.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not there; this machine has {torch.cuda.device_count()} GPUs")
    return device


@contextlib.contextmanager
def reproducible(torch_threads: int | Literal["auto"], device: torch.device) -> Iterator[None]:
    """Fix what bits depend on for the time of a run: threads, CUDA's kernels, and torch's defaults.

    Args:
        torch_threads: of torch and of NumPy's products; 1 if they have not been measured.
        device: of the policy.
    """
    threads = 1 if torch_threads == "auto" else torch_threads
    with standard_torch(), blas_threads(threads):
        torch.set_num_threads(threads)
        if device.type == "cuda":
            use_deterministic_algorithms(True)
        yield
