"""`PPO`: the quick start's agent, on the same networks and update as `train.py`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from learner.actor import Actor
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.settings import ConfigError, is_number, require, require_counts
from learner.store import Rollout, concatenate
from prl.config.train_config import TrainConfig
from prl.run import build
from prl.run.torch_state import standard_torch
from prl.run.weights import load_weights, save_weights
from prl.training.checks import as_array, require_finite
from workers.arrays import Array, Floats
from workers.casts import cast_exactly

_NAMES = {
    "actor_lr": "Actor_lr",
    "critic_lr": "Critic_lr",
    "clip_range": "policy_clip",
    "num_epochs": "k_epochs",
    "gae_lambda": "GAE_lambda",
    "minibatch_size": "mini_batch_size",
    "rnd": "use_RND",
    "rnd_coef": "beta",
}
"""What settings of a TrainConfig are called here."""


class PPO:
    """A PPO agent for vector observations.

    Args:
        is_continuous: Box actions if true, Discrete ones if not.
        action_dim: number of actions (Discrete), or of the action's dimensions (Box).
        observ_dim: length of the observation.
        Actor_lr: Adam's step size for the actor.
        Critic_lr: Adam's step size for the critic.
        action_scaling: Box actions are the policy's (-1, 1) output times this.
        policy_clip: how far the probability ratio may move; 0.2 is 20 percent.
        k_epochs: passes over each batch.
        GAE_lambda: lambda of the advantage estimate.
        batch_size: an update waits for at least this many steps (`AsyncPPO`).
        mini_batch_size: steps per optimiser step.
        gamma: discount.
        use_RND: reward states that are new to the learner (Random Network Distillation).
        beta: weight of the advantages of that reward beside those of the env's.
        ent_coef, vf_coef, max_grad_norm, target_kl, hidden_sizes: as in `prl.TrainConfig`.
        device: "auto", "cpu", "cuda", ...
        torch_threads: of an update; more pay off only for large networks, and change the last bits.
        seed: of the initial weights, and of the actions and minibatches of a custom loop.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        is_continuous: bool,
        action_dim: int,
        observ_dim: int,
        Actor_lr: float = 1e-3,
        Critic_lr: float = 2.5e-3,
        action_scaling: float = 1.0,
        policy_clip: float = 0.2,
        k_epochs: int = 10,
        GAE_lambda: float = 0.95,
        batch_size: int = 1024,
        mini_batch_size: int = 256,
        gamma: float = 0.99,
        use_RND: bool = False,
        beta: float = 0.01,
        *,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        target_kl: float | None = None,
        hidden_sizes: Sequence[int] = (64, 64),
        device: str = "auto",
        torch_threads: int = 1,
        seed: int = 0,
    ) -> None:
        require(
            lambda value: isinstance(value, bool | np.bool_), "true or false", is_continuous=is_continuous
        )
        require_counts(action_dim=action_dim, observ_dim=observ_dim)
        require(lambda value: is_number(value, above=0.0), "a positive number", action_scaling=action_scaling)
        with _names_of_the_quick_start():
            config = TrainConfig(
                env_id="any",  # the env is given to AsyncPPO, and a custom loop has its own
                actor_lr=Actor_lr,
                critic_lr=Critic_lr,
                clip_range=policy_clip,
                num_epochs=k_epochs,
                gae_lambda=GAE_lambda,
                batch_size=batch_size,
                minibatch_size=mini_batch_size,
                gamma=gamma,
                rnd=use_RND,
                rnd_coef=beta,
                ent_coef=ent_coef,
                vf_coef=vf_coef,
                max_grad_norm=max_grad_norm,
                target_kl=target_kl,
                hidden_sizes=hidden_sizes,
                torch_threads=torch_threads,
                seed=seed,
            )
        self.config = config
        """Settings of the networks and the update; those of the env and of the run are defaults."""
        self.batch_size = batch_size
        self.torch_threads = torch_threads
        self.beta = beta
        observation_space = gym.spaces.Box(-np.inf, np.inf, (int(observ_dim),))
        action_space = _action_space(is_continuous, int(action_dim), action_scaling)
        with standard_torch():
            policy = ActorCritic(observation_space, action_space, config.hidden_sizes, seed)
            self.learner = build.build_learner(policy.to(build.pick_device(device)), config)
        self._actor = Actor(policy)
        self.memory: list[Rollout] = []
        """What `learn` learns from; `prl.utils.buffer_to_target_buffer_transfer` fills it."""
        noise, shuffle = np.random.SeedSequence(seed).spawn(2)
        self._noise_rng = np.random.default_rng(noise)
        self._shuffle_rng = np.random.default_rng(shuffle)

    @property
    def policy(self) -> ActorCritic:
        """The networks."""
        return self.learner.policy

    def get_action(self, states: torch.Tensor | Array) -> tuple[Array, Array, Array]:
        """Sample actions for G states.

        Args:
            states: [G, O].

        Returns:
            Actions for the env, i64[G] or f64[G, A]; V(states), f32[G]; the log-probabilities of the
            actions (log-densities of the env's actions if they are continuous), f32[G].

        Raises:
            ValueError: states of another shape, or numbers that are not finite.
        """
        obs = self._observations(states)
        head = self.policy.head
        noise = head.draw_noise(self._noise_rng, len(obs))
        # One thread here, too: a second one would fight with the workers for the cores, at every step.
        with build.reproducible(self.torch_threads, self.policy.device):
            actions, values, log_probs = self._actor.act_with_values(obs, noise)
        log_probs -= head.log_det(torch.as_tensor(actions)).numpy()
        return head.to_env(actions), values, log_probs

    def _observations(self, states: torch.Tensor | Array) -> Floats:
        array = as_array("states", states)
        shape = self.policy.observation_space.shape
        if array.ndim == 0 or array.shape[1:] != shape:
            hint = "; a single state needs a leading axis: states[None]" if array.shape == shape else ""
            raise ValueError(
                f"states must have shape (G, {self.policy.encoder.features}), got {array.shape}{hint}"
            )
        with np.errstate(over="ignore"):
            obs = array.astype(np.float32)
        require_finite("states", obs)
        return obs

    def learn(self) -> dict[str, float]:
        """One PPO update from all episodes in `memory`, which is empty afterwards.

        Values and log-probabilities are those that `get_action` returned when the steps were taken.

        Returns:
            Metrics by name.

        Raises:
            ValueError: `memory` is empty, or its states or actions are not those of this PPO.
        """
        if not self.memory:
            raise ValueError("learn() has nothing to learn from: transfer a buffer to ppo.memory first")
        for rollout in self.memory:
            _check_rollout(rollout, self.policy)
        with build.reproducible(self.torch_threads, self.policy.device):
            metrics = self.learner.optimize(self._batch(concatenate(self.memory)), self._shuffle_rng)
        self.memory.clear()
        return metrics

    def _batch(self, rollout: Rollout) -> Batch[torch.Tensor]:
        policy = self.policy
        obs = torch.as_tensor(rollout.obs, dtype=torch.float32, device=policy.device)
        actions = torch.as_tensor(policy.head.from_env(rollout.actions), device=policy.device)
        log_probs = torch.as_tensor(rollout.extra["log_probs"], device=policy.device)
        values = torch.as_tensor(rollout.extra["values"], device=policy.device)
        log_probs = log_probs + policy.head.log_det(actions)
        inputs, masks = policy.preprocess(obs)
        return self.learner.with_advantages(rollout, policy, (inputs, masks, actions, log_probs, values))

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the networks' weights into the folder `path` (safetensors)."""
        save_weights(self.policy, path)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Read weights that `save_weights` wrote.

        Raises:
            prl.run.weights.WeightsError: no weights are there, or they are damaged or of another network.
        """
        load_weights(self.policy, path)


def _action_space(is_continuous: bool, action_dim: int, action_scaling: float) -> gym.Space[Any]:
    if not is_continuous:
        return gym.spaces.Discrete(action_dim)
    # f64: the unsquashed action can be computed from the env action as long as tanh has not rounded to 1.
    return gym.spaces.Box(-action_scaling, action_scaling, (action_dim,), np.float64)


@contextlib.contextmanager
def _names_of_the_quick_start() -> Iterator[None]:
    """Errors of a TrainConfig, with the names that its settings have in `PPO`."""
    try:
        yield
    except ConfigError as error:
        name, _, rest = str(error).partition(" ")
        raise ConfigError(f"{_NAMES.get(name, name)} {rest}") from None


def _check_rollout(rollout: Rollout, policy: ActorCritic) -> None:
    """Whether what a custom loop has collected is of this policy: NumPy and torch would broadcast it."""
    spaces = {
        "states": (rollout.obs, policy.observation_space),
        "actions": (rollout.actions, policy.action_space),
    }
    for name, (rows, space) in spaces.items():
        if rows.shape[1:] != space.shape:
            raise ValueError(f"memory holds {name} of shape {rows.shape[1:]}, but this PPO has {space.shape}")
    if isinstance(policy.action_space, gym.spaces.Discrete):
        actions = cast_exactly(rollout.actions, np.dtype(np.int64))
        choices = int(policy.action_space.n)
        if actions is None or actions.min() < 0 or actions.max() >= choices:
            raise ValueError(
                f"memory holds actions from {rollout.actions.min()} to {rollout.actions.max()}, "
                f"but those of this PPO are integers from 0 to {choices - 1}"
            )
