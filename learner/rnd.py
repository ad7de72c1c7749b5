"""Random Network Distillation: a reward for states that are new to the learner (Burda et al. 2018).

A predictor learns the outputs of a fixed random network, the target, in the states that are visited. Its
error is large where it has rarely been. Section numbers are those of "Exploration by random network
distillation", arXiv:1810.12894.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from learner.advantages import gae, next_values
from learner.arrays import Floats, Ids
from learner.losses import value_loss
from learner.normalize import RewardScaler
from learner.rnd_networks import RNDNetworks
from learner.store import Rollout

_CHUNK = 512  # states per forward pass without gradients: bounds the memory that images take


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
        self.max_grad_norm = max_grad_norm
        self.device = torch.device(device)
        self.networks = RNDNetworks(observation_space, hidden_sizes, seed).to(self.device)
        self.returns = ReturnFilter(gamma)
        self._parameters = [p for p in self.networks.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=lr, eps=1e-5, fused=True)

    def begin(self, rollout: Rollout) -> RNDUpdate:
        """See `Exploration`. Intrinsic rewards are computed with the current predictor and statistics."""
        states = _States(rollout, self.device)
        if not self.networks.has_statistics:
            # An untrained policy has played these steps; they stand in for the random ones of section 2.4.
            self.networks.update_statistics(states.next())
        targets, intrinsic_rewards, values = self._targets_rewards_and_values(states)
        rewards = self.returns.scaled(intrinsic_rewards, rollout.env_ids)
        advantages = self._advantages(rewards, values, rollout)
        returns = torch.as_tensor(advantages + values[: len(rollout)], dtype=torch.float32)
        metrics = {
            "rnd_reward_mean": float(intrinsic_rewards.mean()),
            "rnd_reward_std": float(intrinsic_rewards.std()),
            "rnd_return_std": self.returns.std,
        }
        weighted = self.coef * advantages + 0.0  # no -0.0: a weight of 0 adds just what `NoExploration` does
        return RNDUpdate(self, RNDBatch(states, targets, returns.to(self.device)), weighted, metrics)

    @torch.no_grad()
    def _targets_rewards_and_values(self, states: _States) -> tuple[Tensor, Floats, Floats]:
        """Target outputs f32[S, K] and intrinsic rewards f64[S] of next states; V f64[S + E] of all."""
        targets, intrinsic_rewards = [], []
        for rows in states.next():
            inputs = self.networks.preprocess(rows)
            target = self.networks.target(inputs)
            targets.append(target)
            intrinsic_rewards.append((self.networks.predictor(inputs) - target).square().mean(dim=1))
        values = [self.networks.critic(self.networks.preprocess(rows)).squeeze(1) for rows in states.all()]
        return torch.cat(targets), _floats(intrinsic_rewards), _floats(values)

    def _advantages(self, rewards: Floats, values: Floats, rollout: Rollout) -> Floats:
        """Advantages f64[S]. The lambda chain continues to an env's last step, across ends of episodes."""
        last = rollout.last_of_env
        at_ends = values[len(rollout) :]
        following = next_values(values[: len(rollout)], last, at_ends[last[rollout.ends]])
        return gae(rewards, values[: len(rollout)], following, last, self.gamma, self.gae_lambda)

    def optimizer_step(self, batch: RNDBatch, rows: Tensor) -> tuple[float, float]:
        """One step on the rows i64[B] of a batch. Returns the distillation loss and the critic's loss."""
        predicted = self.networks.predictor(self.networks.preprocess(batch.states.after(rows)))
        distillation = (predicted - batch.targets[rows]).square().mean()
        values = self.networks.critic(self.networks.preprocess(batch.states.before(rows))).squeeze(1)
        critic_loss = value_loss(values, batch.returns[rows])
        self._optimizer.zero_grad()
        (distillation + critic_loss).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        if bool(torch.isfinite(norm)):  # as in PPO's update, a non-finite gradient is skipped
            self._optimizer.step()
        return distillation.item(), critic_loss.item()

    def state_dict(self) -> dict[str, Any]:
        """See `Exploration`."""
        return {
            "networks": self.networks.state_dict(),
            "returns": self.returns.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Exploration`."""
        self.networks.load_state_dict(state["networks"])
        self.returns.load_state_dict(state["returns"])
        self._optimizer.load_state_dict(state["optimizer"])


class RNDUpdate:
    """What `RND` learns from one rollout. Implements `ExplorationUpdate`.

    Args:
        rnd: its networks learn.
        batch: what they learn from.
        advantages: f64[S], weighted.
        metrics: of the rollout, by name.
    """

    def __init__(self, rnd: RND, batch: RNDBatch, advantages: Floats, metrics: dict[str, float]) -> None:
        self.batch = batch
        self.advantages = advantages
        self._rnd = rnd
        self._metrics = metrics
        self._losses: list[tuple[float, float]] = []

    def learn(self, rows: Tensor) -> None:
        """See `ExplorationUpdate`."""
        self._losses.append(self._rnd.optimizer_step(self.batch, rows))

    def finish(self) -> dict[str, float]:
        """See `ExplorationUpdate`. Only now are the rollout's observations counted in the statistics."""
        self._rnd.networks.update_statistics(self.batch.states.next())
        losses = np.array(self._losses).reshape(-1, 2)
        means = losses.mean(axis=0) if len(losses) else np.full(2, np.nan)  # an update may end before a step
        return self._metrics | {"rnd_loss": float(means[0]), "rnd_value_loss": float(means[1])}


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


class _States:
    """The observations of a rollout on a device, each kept once.

    Those of the steps [S, *O] come first, then the final ones [E, *O].

    Args:
        rollout: S steps and E ends.
        device: of all tensors.
    """

    def __init__(self, rollout: Rollout, device: torch.device) -> None:
        self._rows = torch.cat([torch.as_tensor(rollout.obs), torch.as_tensor(rollout.final_obs)]).to(device)
        following = np.arange(1, len(rollout) + 1)
        following[rollout.ends] = len(rollout) + np.arange(len(rollout.final_obs))
        self._following = torch.as_tensor(following, device=device)

    def all(self) -> Iterator[Tensor]:
        """All rows [S + E, *O], in chunks."""
        yield from self._rows.split(_CHUNK)

    def next(self) -> Iterator[Tensor]:
        """The observations [S, *O] after each step, before any reset, in chunks."""
        for rows in self._following.split(_CHUNK):
            yield self._rows[rows]

    def before(self, rows: Tensor) -> Tensor:
        """The observations [B, *O] before steps i64[B]."""
        return self._rows[rows]

    def after(self, rows: Tensor) -> Tensor:
        """The observations [B, *O] after steps i64[B], before any reset."""
        return self._rows[self._following[rows]]


class RNDBatch(NamedTuple):
    """What the networks learn from.

    Attributes:
        states: of S steps.
        targets: f32[S, K], the target's outputs for the observation after each.
        returns: f32[S], intrinsic.
    """

    states: _States
    targets: Tensor
    returns: Tensor


def _floats(chunks: list[Tensor]) -> Floats:
    joined: Floats = torch.cat(chunks).cpu().numpy().astype(np.float64)
    return joined
