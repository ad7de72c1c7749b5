"""`AsyncPPO`: the quick start's run, on the same pool, store and update as `train.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any, get_args

import gymnasium as gym
import numpy as np

from learner.policy import ActorCritic
from learner.settings import ConfigError, require, require_counts, require_instance
from prl.config.train_config import TrainConfig, folder_path, to_yaml
from prl.quickstart import PPO
from prl.run import build
from prl.run.named_env import EnvName, name_of
from prl.run.policy_spaces import PolicySpaces
from prl.run.run_folder import RunFolder
from prl.run.signals import stop_on_signals
from prl.run.sinks import Sink, distinct_sinks
from prl.run.torch_state import standard_torch
from prl.run.trackers import find_trackers
from prl.run.train import run_training
from prl.training.arguments import check_pool_settings
from prl.training.trainer import Trainer
from workers.envs import EnvFactory, EnvLike, env_factory
from workers.errors import EnvError
from workers.process_pool import Transport

_ABOUT_CONFIG = "# Of a run of AsyncPPO. Its networks were initialised with the seed {}.\n"


class AsyncPPO:
    """Train a `PPO` on many copies of an env in worker processes.

    What the user should know about the env is a warning.

    Args:
        env: an env, id, spec, class or factory; see `workers.envs.env_factory`.
        ppo: trained in place.
        num_envs: copies of the env.
        steps: env steps after which the run ends, at the end of a round.
        num_workers: processes; None starts one per usable core, 0 steps the envs in this process.
        seed: of episodes, actions and minibatches.
        run_folder: where to write settings, progress.csv, summary.json and weights, as `prl play` and
            `prl.load` take them; None writes nothing.
        max_episode_steps: truncate episodes after this many steps.
        ends_by_itself: the env ends every episode itself, although it has no time limit that can be seen.
        transport: "shared" or "pipe".
        step_timeout: seconds a worker may take for one command.
        start_timeout: seconds a worker may take to start and build its first env, and then each further one.
        env_index_kwarg: keyword argument under which the constructor gets the index of its env, 0..N-1, for
            what each copy needs for itself, such as a port.
        track, track_project: experiment trackers, as in `prl.TrainConfig`; they need a run_folder.

    Raises:
        EnvError: the env cannot be used.
        ConfigError: a setting is out of range, the env's spaces are not those of `ppo`, or a tracker cannot
            be used.
    """

    def __init__(
        self,
        env: EnvLike,
        ppo: PPO,
        num_envs: int = 32,
        steps: int = 1_000_000,
        *,
        num_workers: int | None = None,
        seed: int = 0,
        run_folder: str | os.PathLike[str] | None = None,
        max_episode_steps: int | None = None,
        ends_by_itself: bool = False,
        transport: Transport = "shared",
        step_timeout: float = 60.0,
        start_timeout: float = 120.0,
        env_index_kwarg: str | None = None,
        track: Sequence[str] = (),
        track_project: str = "prl",
    ) -> None:
        require_instance(PPO, "a prl.PPO", ppo=ppo)
        require_counts(steps=steps)
        check_pool_settings(num_envs, num_workers, seed, max_episode_steps, step_timeout, start_timeout)
        require(lambda value: value in get_args(Transport), "shared or pipe", transport=transport)
        self.ppo = ppo
        self.num_envs = num_envs
        self.steps = steps
        self.num_workers = num_workers
        self.seed = seed
        # Absolute, since the constructor of an env may change the working directory.
        self.run_folder = None if run_folder is None else folder_path(run_folder).absolute()
        self.transport = transport
        self.step_timeout = step_timeout
        self.start_timeout = start_timeout
        self._env_index_kwarg = env_index_kwarg
        self._config = dataclasses.replace(ppo.config, track=track, track_project=track_project)
        if track and run_folder is None:
            raise ConfigError("track needs a run_folder, in which it is kept what trackers call the run")
        find_trackers(track)  # a missing one is told before anything starts
        with standard_torch():
            self._factory = env_factory(
                env,
                max_episode_steps=max_episode_steps,
                ends_by_itself=ends_by_itself,
                own_process=num_workers != 0,
                start_timeout=start_timeout,
                env_index_kwarg=env_index_kwarg,
            )
        self._name = name_of(env)
        self._max_episode_steps, self._ends_by_itself = max_episode_steps, ends_by_itself
        build.check_trainable(self._factory)
        _check_spaces(self._factory, ppo.policy)
        build.warn_of_notes(self._factory)

    def run(self, sinks: Sequence[Sink] = ()) -> dict[str, Any]:
        """Train; a progress bar shows steps and mean return.

        Args:
            sinks: get the metrics of every update, see `prl.Sink`; closed when the run ends.

        Returns:
            A summary: status, timesteps, episodes, mean_return (last 100 episodes), steps_per_second, ...

        Raises:
            ConfigError: the run folder holds a run already, or cannot be written; `sinks` is no list of
                sinks.
            WorkerError: a worker died, hung or reported a failed env.
            WriteError: the weights or the summary could not be written at the end.
        """
        sinks, config = distinct_sinks(sinks), self._settings()
        with contextlib.ExitStack() as stack:
            folder = None if self.run_folder is None else RunFolder(self.run_folder, can_go_on=False)
            if folder is not None:
                self._write_settings(stack.enter_context(folder), config)
            stack.enter_context(build.reproducible(self.ppo.torch_threads, self.ppo.policy.device))
            signals = stack.enter_context(stop_on_signals())
            kit = build.kit_for(self.ppo.policy, config.groups, self.num_envs, self.num_workers)
            trainer = Trainer(
                pool := stack.enter_context(build.build_pool(config, self._factory, self.num_envs, kit)),
                self.ppo.learner,
                batch_size=self.ppo.batch_size,
                total_timesteps=self.steps,
                seed=self.seed,
                num_groups=config.groups,
                players=build.build_players(pool, kit),
            )
            return run_training(
                *(trainer, self.steps, folder, self._factory.name, None, signals, sinks),
                trackers=find_trackers(self._config.track),
            )

    def _settings(self) -> TrainConfig:
        """The run as `prl train` would do it, if the env has an id."""
        name = self._name or EnvName(self._factory.name)
        return dataclasses.replace(
            self._config,
            env_id=name.env_id,
            env_kwargs=name.env_kwargs,
            env_index_kwarg=self._env_index_kwarg,
            wrappers=name.wrappers,
            preset="none",
            max_episode_steps=self._max_episode_steps or name.max_episode_steps,
            ends_by_itself=self._ends_by_itself,
            num_envs=self.num_envs,
            num_workers=self.num_workers,
            transport=self.transport,
            step_timeout=self.step_timeout,
            start_timeout=self.start_timeout,
            total_timesteps=self.steps,
            seed=self.seed,
            device=str(self.ppo.policy.device),
        )

    def _write_settings(self, folder: RunFolder, config: TrainConfig) -> None:
        folder.write_config(f"{_ABOUT_CONFIG.format(self.ppo.config.seed)}{to_yaml(config)}")
        spaces = PolicySpaces.of(self._factory, self.ppo.policy, has_env_id=self._name is not None)
        folder.write_spaces(spaces.to_json())


def _check_spaces(factory: EnvFactory, policy: ActorCritic) -> None:
    """Whether a PPO, which was built from numbers alone, fits an env.

    Raises:
        ConfigError, EnvError: it does not.
    """
    if factory.mask_from_info:
        raise EnvError(
            f"{factory.name} gives action masks, which PPO does not take; prl.Trainer and train.py do"
        )
    observation, action, mine = factory.observation_space, factory.action_space, policy.action_space
    if not isinstance(observation, gym.spaces.Box) or observation.shape != policy.observation_space.shape:
        raise ConfigError(
            f"observ_dim={policy.encoder.features} does not fit {factory.name}: "
            f"its observation space is {observation}"
        )
    if isinstance(mine, gym.spaces.Discrete):
        if not isinstance(action, gym.spaces.Discrete) or action.n != mine.n:
            raise ConfigError(
                f"is_continuous=False, action_dim={mine.n} does not fit {factory.name}: "
                f"its action space is {action}"
            )
        if action.start != 0:
            raise EnvError(f"{factory.name}: Discrete actions must start at 0, these start at {action.start}")
        return
    if not isinstance(action, gym.spaces.Box) or action.shape != mine.shape:
        raise ConfigError(
            f"is_continuous=True, action_dim={mine.shape[0] if mine.shape else 0} does not fit "
            f"{factory.name}: its action space is {action}"
        )
    limit = min(float(np.abs(action.low).min()), float(np.abs(action.high).min()))
    scaling = float(np.max(mine.high)) if isinstance(mine, gym.spaces.Box) else 0.0
    if scaling > limit * (1.0 + 1e-6):
        raise ConfigError(f"action_scaling={scaling:g} exceeds the bounds of {factory.name}: {action}")
    if scaling < limit * (1.0 - 1e-6) < np.inf:
        warnings.warn(
            f"action_scaling={scaling:g} leaves out a part of the actions of {factory.name}: {action}",
            stacklevel=3,
        )
