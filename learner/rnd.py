"""Random Network Distillation: a reward for states that are new to the learner (Burda et al. 2018).

A predictor learns the outputs of a fixed random network, the target, in the states that are visited. Its
error is large where it has rarely been. Section numbers are those of "Exploration by random network
distillation", arXiv:1810.12894.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from learner.advantages import gae, next_values
from learner.arrays import Floats, Ids
from learner.fused_rnd import fastest_rnd_step
from learner.normalize import RewardScaler
from learner.rnd_networks import RNDNetworks
from learner.rnd_step import RNDBatch, RNDInputs, RNDLosses, RNDStates, RNDStep
from learner.store import Rollout


class RND:
    """An intrinsic reward and its advantages. Implements `Exploration`.

    RND shares nothing with the policy: networks, optimiser, gradient norm and generator are separate.

    The intrinsic stream does not end with an episode: novelty does not end with it, and the agent must not
    learn to avoid episode ends (section 2.3). Only an env's last step in the rollout ends it, bootstrapped
    with V(final observation).

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.
        coef: weight of the intrinsic advantages; with 0 the update is the same as without RND, bit for bit.
        gamma: discount of intrinsic rewards.
        gae_lambda: lambda of their advantage estimate.
        lr: Adam's step size.
        max_grad_norm: bound on the gradient's norm over predictor and critic together.
        hidden_sizes: of the networks; those of images have none.
        seed: of the initial weights.
        device: of the networks.

    Raises:
        ValueError: the space is not supported.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        *,
        coef: float,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        lr: float = 1e-3,
        max_grad_norm: float = 0.5,
        hidden_sizes: Sequence[int] = (64, 64),
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.coef = coef
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.lr = lr
        self.max_grad_norm = max_grad_norm
        self.device = torch.device(device)
        self.networks = RNDNetworks(observation_space, hidden_sizes, seed).to(self.device)
        self.returns = ReturnFilter(gamma)
        self._step = fastest_rnd_step(self.networks, lr, max_grad_norm)

    def begin(self, rollout: Rollout) -> RNDUpdate:
        """See `Exploration`. Intrinsic rewards are computed with the current predictor and statistics."""
        states = RNDStates(rollout, self.device)
        if not self.networks.has_statistics:
            # An untrained policy has played these steps; they stand in for the random ones of section 2.4.
            self._count(states)
        inputs = RNDInputs(self.networks, states)
        targets, intrinsic_rewards, values = self._targets_rewards_and_values(states, inputs)
        rewards = self.returns.scaled(intrinsic_rewards, rollout.env_ids)
        advantages = self._advantages(rewards, values, rollout)
        returns = torch.as_tensor(advantages + values[: len(rollout)], dtype=torch.float32)
        metrics = {
            "rnd_reward_mean": float(intrinsic_rewards.mean()),
            "rnd_reward_std": float(intrinsic_rewards.std()),
            "rnd_return_std": self.returns.std,
        }
        weighted = self.coef * advantages + 0.0  # no -0.0: a weight of 0 adds just what `NoExploration` does
        batch = RNDBatch(inputs, targets, returns.to(self.device))
        return RNDUpdate(self._step, batch, weighted, metrics, partial(self._count, states))

    def _count(self, states: RNDStates) -> None:
        """Count the observations after each step in the statistics."""
        self.networks.update_statistics(states.of(numbers) for numbers in states.next())

    def _targets_rewards_and_values(
        self, states: RNDStates, inputs: RNDInputs
    ) -> tuple[Tensor, Floats, Floats]:
        """Target outputs f32[S, K] and intrinsic rewards f64[S] of next states; V f64[S + E] of all."""
        networks = self.networks
        target, predictor = networks.target.without_grad(), networks.predictor.without_grad()
        critic = networks.critic.without_grad()
        targets, intrinsic_rewards = [], []
        for numbers in states.next():
            vectors = inputs.of(numbers)
            targets.append(target(vectors))
            intrinsic_rewards.append((predictor(vectors) - targets[-1]).square().mean(dim=1))
        values = [critic(inputs.of(numbers)).squeeze(1) for numbers in states.all()]
        return torch.cat(targets), _floats(intrinsic_rewards), _floats(values)

    def _advantages(self, rewards: Floats, values: Floats, rollout: Rollout) -> Floats:
        """Advantages f64[S]. The lambda chain continues to an env's last step, across ends of episodes."""
        last = rollout.last_of_env
        at_ends = values[len(rollout) :]
        following = next_values(values[: len(rollout)], last, at_ends[last[rollout.ends]])
        return gae(rewards, values[: len(rollout)], following, last, self.gamma, self.gae_lambda)

    def state_dict(self) -> dict[str, Any]:
        """See `Exploration`."""
        return {
            "networks": self.networks.state_dict(),
            "returns": self.returns.state_dict(),
            "step": type(self._step).__name__,
            "optimizer": self._step.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Exploration`.

        Raises:
            ValueError: the state is of another kind of optimiser step; nothing has changed.
        """
        kind = type(self._step).__name__
        if state["step"] != kind:
            raise ValueError(f"the state is of an exploration with the step {state['step']}, not {kind}")
        self.networks.load_state_dict(state["networks"])
        self.returns.load_state_dict(state["returns"])
        self._step.load_state_dict(state["optimizer"])


class RNDUpdate:
    """What `RND` learns from one rollout. Implements `ExplorationUpdate`.

    Args:
        step: moves the networks.
        batch: what they learn from.
        advantages: f64[S], weighted.
        metrics: of the rollout, by name.
        count: counts the rollout's observations in the statistics.
    """

    def __init__(
        self,
        step: RNDStep,
        batch: RNDBatch,
        advantages: Floats,
        metrics: dict[str, float],
        count: Callable[[], None],
    ) -> None:
        self.batch = batch
        self.advantages = advantages
        self._step = step
        self._adapted = step.adapt(batch)
        self._metrics = metrics
        self._count = count
        self._sums = RNDLosses(0.0, 0.0)
        self._steps = 0

    def learn(self, rows: Ids) -> None:
        """See `ExplorationUpdate`."""
        losses = self._step.step(self._adapted, rows)
        self._sums = RNDLosses(*(total + loss for total, loss in zip(self._sums, losses, strict=True)))
        self._steps += 1

    def finish(self) -> dict[str, float]:
        """See `ExplorationUpdate`. Only now are the rollout's observations counted in the statistics."""
        self._count()
        steps = self._steps or math.nan  # an update may end before a step
        distillation, critic = (float(total) / steps for total in self._sums)
        return self._metrics | {"rnd_loss": distillation, "rnd_value_loss": critic}


class ReturnFilter:
    """Divides intrinsic rewards by the running standard deviation of their discounted sums (section 2.4).

    Each env has one sum over the whole run: neither a reset nor the end of a rollout ends it.

    Args:
        gamma: discount.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self._scaler = RewardScaler(0, gamma, clip=math.inf)

    @property
    def std(self) -> float:
        """Of the discounted sums so far."""
        return math.sqrt(float(self._scaler.moments.var))

    @property
    def sums(self) -> Floats:
        """The discounted sum of each env, f64[N]."""
        sums: Floats = self._scaler.running.numpy()
        return sums

    def scaled(self, rewards: Floats, env_ids: Ids) -> Floats:
        """Scaled rewards f64[S] for rewards f64[S], env after env in the order of time, after counting."""
        self._scaler.update(rewards, env_ids, np.zeros(len(rewards), np.bool_))
        return self._scaler.scale(rewards)

    def state_dict(self) -> dict[str, Any]:
        """The sums and their moments."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._scaler.load_state_dict(state)


def _floats(chunks: list[Tensor]) -> Floats:
    joined: Floats = torch.cat(chunks).cpu().numpy().astype(np.float64)
    return joined
