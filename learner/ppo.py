"""Proximal Policy Optimisation: one update of a policy from a rollout (Schulman et al. 2017)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.advantages import gae, next_values
from learner.exploration import Exploration, ExplorationUpdate, NoExploration
from learner.losses import approx_kl, clip_fraction, explained_variance, normalize, policy_loss, value_loss
from learner.meter import Meter
from learner.normalize import RawRewards, RewardScaler
from learner.policy import ActorCritic
from learner.settings import Rule, check
from learner.store import Rollout

_MAX_NON_FINITE_STEPS = 3  # consecutive minibatches with a non-finite gradient before giving up


class NonFiniteError(ArithmeticError):
    """Gradients were not finite several times in a row, or an update made weights or actions that are not."""


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of the update.

    Attributes:
        actor_lr: Adam's step size for the actor.
        critic_lr: Adam's step size for the critic.
        anneal_lr: scale both linearly to 0 over the run.
        anneal_clip_range: scale clip_range linearly to 0 over the run.
        gamma: discount.
        gae_lambda: lambda of the advantage estimate.
        clip_range: how far the probability ratio may move, 0.2 is 20 %.
        clip_range_vf: how far a value may move; None does not clip.
        num_epochs: passes over the batch.
        minibatch_size: steps per optimiser step; the last minibatch of an epoch may be smaller.
        normalize_advantage: per minibatch.
        normalize_reward: divide rewards by the running standard deviation of the discounted return.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        max_grad_norm: bound on the gradient's norm over actor and critic together.
        target_kl: end the update once approx_kl exceeds 1.5 times this; None never does.

    Raises:
        ConfigError: a value is out of range.
    """

    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    anneal_lr: bool = False
    anneal_clip_range: bool = False
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = None
    num_epochs: int = 10
    minibatch_size: int = 64
    normalize_advantage: bool = True
    normalize_reward: bool = False
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None

    def __post_init__(self) -> None:
        check(self, _RULES)


# Comparisons are written so that NaN fails them.
_RULES: tuple[Rule, ...] = (
    ("actor_lr critic_lr max_grad_norm", lambda v: 0.0 < v < math.inf, "a positive number"),
    ("gamma gae_lambda", lambda v: 0.0 <= v <= 1.0, "between 0 and 1"),
    ("clip_range clip_range_vf target_kl", lambda v: 0.0 < v < math.inf, "a positive number"),
    ("num_epochs minibatch_size", lambda v: v >= 1, "at least 1"),
    ("ent_coef vf_coef", lambda v: 0.0 <= v < math.inf, "0 or a positive number"),
)


@dataclass(frozen=True)
class Batch:
    """What the optimiser sees; all tensors on the policy's device.

    Attributes:
        inputs: [S, ...], preprocessed observations.
        actions: [S, *A].
        log_probs: f32[S], of the behaviour weights.
        values: f32[S], of the behaviour weights.
        advantages: f32[S].
        returns: f32[S], advantages + values.
        exploration: learns from the same rows; not sliced with them.
    """

    inputs: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    exploration: ExplorationUpdate

    def __len__(self) -> int:
        return len(self.log_probs)

    def rows(self, index: Tensor | slice) -> Batch:
        """The rows of `index`, i64[B] or a slice."""
        return Batch(
            self.inputs[index],
            self.actions[index],
            self.log_probs[index],
            self.values[index],
            self.advantages[index],
            self.returns[index],
            self.exploration,
        )


class PPOLearner:
    """A policy and the optimiser that improves it.

    Args:
        policy: trained in place; stays on its device.
        config: hyper-parameters.
        num_envs: N, of the rollouts to come; only to have room for them at once.
        exploration: adds to the advantages.
    """

    def __init__(
        self,
        policy: ActorCritic,
        config: PPOConfig,
        num_envs: int = 1,
        exploration: Exploration | None = None,
    ) -> None:
        self.policy = policy
        self.config = config
        self.exploration = exploration or NoExploration()
        self._rewards = (RewardScaler if config.normalize_reward else RawRewards)(num_envs, config.gamma)
        shared = [parameter for parameter in policy.encoder.parameters() if parameter.requires_grad]
        self._actor_parameters = [*shared, *policy.actor.parameters(), *policy.head.parameters()]
        self._critic_parameters = list(policy.critic.parameters())
        self._clip_range = config.clip_range
        self._consecutive_non_finite = 0
        self._optimizer = torch.optim.Adam(
            [
                {"params": self._actor_parameters, "lr": config.actor_lr},
                {"params": self._critic_parameters, "lr": config.critic_lr},
            ],
            eps=1e-5,
            fused=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and optimiser state, as they are now: further updates do not change them."""
        return copy.deepcopy(
            {
                "policy": self.policy.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "rewards": self._rewards.state_dict(),
                "exploration": self.exploration.state_dict(),
                "consecutive_non_finite": self._consecutive_non_finite,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        state = copy.deepcopy(state)  # Adam would keep, and change, the very tensors that it is given
        self.policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._rewards.load_state_dict(state["rewards"])
        self.exploration.load_state_dict(state["exploration"])
        self._consecutive_non_finite = state["consecutive_non_finite"]

    def update(self, rollout: Rollout, rng: np.random.Generator, progress: float = 0.0) -> dict[str, float]:
        """Improve the policy from what it has played with its present weights.

        Running statistics of observations take this rollout in at the end, so that the old log-probabilities
        are those of the network that has played.

        Args:
            rollout: S steps.
            rng: shuffles the minibatches.
            progress: the share of the run that is done, in [0, 1]; for annealing.

        Returns:
            Metrics by name, without prefix.

        Raises:
            NonFiniteError: see there.
        """
        metrics = self.optimize(self.prepare(rollout), rng, progress)
        self.policy.update_statistics(rollout.obs)
        return metrics

    def prepare(self, rollout: Rollout) -> Batch:
        """Values, old log-probabilities, advantages and returns, all with the present weights."""
        device = self.policy.device
        inputs = self.policy.preprocess(torch.as_tensor(rollout.obs, device=device))
        actions = torch.as_tensor(rollout.actions, device=device)
        log_probs, values = self.policy.evaluate_actions(inputs, actions)
        return self.with_advantages(rollout, inputs, actions, log_probs, values)

    def with_advantages(
        self, rollout: Rollout, inputs: Tensor, actions: Tensor, log_probs: Tensor, values: Tensor
    ) -> Batch:
        """The batch of a rollout whose values and log-probabilities are known.

        Args:
            rollout: rewards, ends and final observations are taken from it.
            inputs, actions, log_probs, values: [S, ...], see `Batch`.
        """
        self._rewards.update(rollout.rewards, rollout.env_ids, rollout.episode_ends)
        rewards = self._rewards.scale(rollout.rewards)
        final_obs = torch.as_tensor(rollout.final_obs, device=values.device)
        final_values = self.policy.values_without_grad(final_obs).cpu().numpy()
        bootstrap = np.where(rollout.terminated, 0.0, final_values)
        known = values.cpu().numpy()
        following = next_values(known, rollout.ends, bootstrap)
        advantages = gae(rewards, known, following, rollout.ends, self.config.gamma, self.config.gae_lambda)
        returns = torch.as_tensor(advantages + known, dtype=torch.float32, device=values.device)
        exploration = self.exploration.begin(rollout)
        advantages = advantages + exploration.advantages
        as_tensor = torch.as_tensor(advantages, dtype=torch.float32, device=values.device)
        return Batch(inputs, actions, log_probs, values, as_tensor, returns, exploration)

    def optimize(self, batch: Batch, rng: np.random.Generator, progress: float = 0.0) -> dict[str, float]:
        """PPO's epochs over a batch; see `update`."""
        self._anneal(progress)
        meter = Meter()
        for rows, minibatch in self._minibatches(batch, rng):
            if not self._step(minibatch, meter):
                break
            batch.exploration.learn(rows)
        self._require_finite_weights()
        metrics = meter.means() | batch.exploration.finish()
        metrics["explained_variance"] = explained_variance(batch.values, batch.returns)
        metrics["learning_rate"] = self._optimizer.param_groups[0]["lr"]
        metrics["clip_range"] = self._clip_range
        return metrics

    def _anneal(self, progress: float) -> None:
        left = max(0.0, 1.0 - progress)
        self._clip_range = self.config.clip_range * (left if self.config.anneal_clip_range else 1.0)
        factor = left if self.config.anneal_lr else 1.0
        actor, critic = self._optimizer.param_groups
        actor["lr"] = self.config.actor_lr * factor
        critic["lr"] = self.config.critic_lr * factor

    def _minibatches(self, batch: Batch, rng: np.random.Generator) -> Iterator[tuple[Tensor, Batch]]:
        """Every step once per epoch, in a new order each epoch; the last, short minibatch is kept.

        With each minibatch, the rows i64[B] of the batch that are in it.
        """
        for _ in range(self.config.num_epochs):
            order = torch.as_tensor(rng.permutation(len(batch)), device=batch.inputs.device)
            shuffled = batch.rows(order)
            for start in range(0, len(batch), self.config.minibatch_size):
                rows = slice(start, start + self.config.minibatch_size)
                yield order[rows], shuffled.rows(rows)

    def _step(self, batch: Batch, meter: Meter) -> bool:
        """One optimiser step; False ends the update early (target_kl)."""
        config = self.config
        outputs, values = self.policy.outputs_and_values(batch.inputs)
        log_ratio = self.policy.head.log_prob(outputs, batch.actions) - batch.log_probs
        entropy = self.policy.head.entropy(outputs).mean()
        advantages = normalize(batch.advantages) if config.normalize_advantage else batch.advantages
        actor_loss = policy_loss(log_ratio, advantages, self._clip_range)
        critic_loss = value_loss(values, batch.returns, batch.values, config.clip_range_vf)
        with torch.no_grad():
            kl = float(approx_kl(log_ratio))
            if meter.steps == 0:
                # The behaviour weights are still in place: anything but 1 here is a bug.
                meter.initial_ratio_error = float((log_ratio.exp() - 1.0).abs().max())
            meter.add(
                policy_loss=float(actor_loss),
                value_loss=float(critic_loss),
                entropy_loss=-float(entropy),
                approx_kl=kl,
                clip_fraction=float(clip_fraction(log_ratio, self._clip_range)),
            )
        if config.target_kl is not None and kl > 1.5 * config.target_kl:
            return False
        loss = actor_loss + config.vf_coef * critic_loss - config.ent_coef * entropy
        self._optimizer_step(loss, meter)
        return True

    def _optimizer_step(self, loss: Tensor, meter: Meter) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        parameters = self._actor_parameters + self._critic_parameters
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        if not np.isfinite(norm):
            meter.skipped += 1
            self._count_non_finite_step()
            return
        self._consecutive_non_finite = 0
        self._optimizer.step()

    def _count_non_finite_step(self) -> None:
        """A step was left out, because its gradient was not finite. Counts over updates, too."""
        self._consecutive_non_finite += 1
        if self._consecutive_non_finite >= _MAX_NON_FINITE_STEPS:
            raise NonFiniteError(
                f"the gradient was not finite in {_MAX_NON_FINITE_STEPS} minibatches in a row; "
                "a smaller learning rate, or normalised rewards or observations may help"
            )

    def _require_finite_weights(self) -> None:
        parameters = self._actor_parameters + self._critic_parameters
        if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
            raise NonFiniteError(
                "an update made weights that are not finite; a smaller learning rate may help"
            )
