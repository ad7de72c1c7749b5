"""Proximal Policy Optimisation: one update of a policy from a rollout (Schulman et al. 2017)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.advantages import gae, next_values
from learner.errors import NonFiniteError
from learner.exploration import Exploration, NoExploration
from learner.losses import approx_kl, clip_fraction, explained_variance, normalize, policy_loss, value_loss
from learner.meter import Meter
from learner.minibatches import Batch, Minibatches, RowMinibatches
from learner.normalize import RawRewards, RewardScaler
from learner.policy import ActorCritic
from learner.settings import Rule, check
from learner.store import Rollout

_MAX_NON_FINITE_STEPS = 3  # consecutive minibatches with a non-finite gradient before giving up


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
        vf_coef: weight of the value loss, which is 0.5 MSE (as in the paper's code and CleanRL): 0.5 here
            weighs half of what 0.5 weighs in Stable-Baselines3, whose loss is the MSE itself.
        max_grad_norm: bound on the gradient's norm over actor and critic together.
        target_kl: end the update once approx_kl exceeds 1.5 times this; None never does.

    Raises:
        ConfigError: a value is out of range.
    """

    actor_lr: float = 1e-3
    critic_lr: float = 2.5e-3
    anneal_lr: bool = False
    anneal_clip_range: bool = False
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = None
    num_epochs: int = 10
    minibatch_size: int = 256
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


class PPOLearner:
    """A policy and the optimiser that improves it.

    Args:
        policy: trained in place; stays on its device.
        config: hyper-parameters.
        exploration: adds to the advantages.
    """

    def __init__(
        self, policy: ActorCritic, config: PPOConfig, exploration: Exploration | None = None
    ) -> None:
        self.policy = policy
        self.config = config
        self.exploration = exploration or NoExploration()
        self._rewards = (RewardScaler if config.normalize_reward else RawRewards)(0, config.gamma)
        shared = [parameter for parameter in policy.encoder.parameters() if parameter.requires_grad]
        self._actor_parameters = [*shared, *policy.actor.parameters(), *policy.head.parameters()]
        self._critic_parameters = list(policy.critic.parameters())
        self._minibatches: Minibatches = RowMinibatches(config.num_epochs, config.minibatch_size)
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

    def update(
        self,
        rollout: Rollout,
        rng: np.random.Generator,
        progress: float = 0.0,
        acting_policy: ActorCritic | None = None,
    ) -> dict[str, float]:
        """Improve the policy from a rollout.

        Running statistics of observations take the rollout in at the end, so that the old log-probabilities
        are those of the network that has played.

        Args:
            rollout: S steps.
            rng: shuffles the minibatches.
            progress: the share of the run that is done, in [0, 1]; for annealing.
            acting_policy: has played the rollout, perhaps with older weights; None is the learner's policy.

        Returns:
            Metrics by name, without prefix.

        Raises:
            NonFiniteError: see there.
        """
        metrics = self.optimize(self.prepare(rollout, acting_policy), rng, progress)
        self.policy.update_statistics(rollout.obs)
        return metrics

    def prepare(self, rollout: Rollout, acting_policy: ActorCritic | None = None) -> Batch:
        """Values, old log-probabilities, advantages and returns, all with the weights that acted.

        Args:
            rollout: S steps.
            acting_policy: has played them; None is the learner's own policy.
        """
        acting = acting_policy or self.policy
        inputs, masks = acting.preprocess(torch.as_tensor(rollout.obs, device=acting.device))
        actions = torch.as_tensor(rollout.actions, device=acting.device)
        log_probs, values = acting.evaluate_actions(inputs, masks, actions)
        return self.with_advantages(rollout, acting, (inputs, masks, actions, log_probs, values))

    def with_advantages(
        self, rollout: Rollout, acting_policy: ActorCritic, known: tuple[Tensor, ...]
    ) -> Batch:
        """The batch of a rollout whose values and log-probabilities are known.

        Args:
            rollout: rewards, ends and final observations are taken from it.
            acting_policy: has played it; values of final observations are its own.
            known: inputs, masks, actions, log_probs and values, [S, ...]; see `Batch`.
        """
        values = known[-1].cpu().numpy()
        device = known[-1].device
        self._rewards.update(rollout.rewards, rollout.env_ids, rollout.episode_ends)
        rewards = self._rewards.scale(rollout.rewards)
        final_obs = torch.as_tensor(rollout.final_obs, device=device)
        final_values = acting_policy.values_without_grad(final_obs).cpu().numpy()
        bootstrap = np.where(rollout.terminated, 0.0, final_values)
        following = next_values(values, rollout.ends, bootstrap)
        advantages = gae(rewards, values, following, rollout.ends, self.config.gamma, self.config.gae_lambda)
        returns = torch.as_tensor(advantages + values, dtype=torch.float32, device=device)
        exploration = self.exploration.begin(rollout)
        total = torch.as_tensor(advantages + exploration.advantages, dtype=torch.float32, device=device)
        inputs, masks, actions, log_probs, old_values = known
        return Batch(
            inputs, masks, actions, log_probs, old_values, total, returns, acting_policy, exploration
        )

    def optimize(self, batch: Batch, rng: np.random.Generator, progress: float = 0.0) -> dict[str, float]:
        """PPO's epochs over a batch; see `update`."""
        clip_range = self._anneal(progress)
        meter = Meter()
        for rows, minibatch in self._minibatches.of(batch, rng):
            if not self._step(minibatch, clip_range, meter):
                break
            batch.exploration.learn(rows)
        self._require_finite_weights()
        metrics = meter.means() | batch.exploration.finish()
        metrics["explained_variance"] = explained_variance(batch.values, batch.returns)
        metrics["learning_rate"] = self._optimizer.param_groups[0]["lr"]
        metrics["clip_range"] = clip_range
        return metrics

    def _anneal(self, progress: float) -> float:
        """Set the step sizes for this share of the run. Returns the clip range."""
        left = max(0.0, 1.0 - progress)
        factor = left if self.config.anneal_lr else 1.0
        actor, critic = self._optimizer.param_groups
        actor["lr"] = self.config.actor_lr * factor
        critic["lr"] = self.config.critic_lr * factor
        return self.config.clip_range * (left if self.config.anneal_clip_range else 1.0)

    def _step(self, batch: Batch, clip_range: float, meter: Meter) -> bool:
        """One optimiser step; False ends the update early (target_kl)."""
        config = self.config
        outputs, values = self.policy.outputs_and_values(batch.inputs, batch.masks)
        log_ratio = self.policy.head.log_prob(outputs, batch.actions) - batch.log_probs
        entropy = self.policy.head.entropy(outputs).mean()
        advantages = normalize(batch.advantages) if config.normalize_advantage else batch.advantages
        actor_loss = policy_loss(log_ratio, advantages, clip_range)
        critic_loss = value_loss(values, batch.returns, batch.values, config.clip_range_vf)
        with torch.no_grad():
            kl = float(approx_kl(log_ratio))
            if meter.steps == 0:
                meter.initial_ratio_error = self._initial_ratio_error(batch, log_ratio)
            meter.add(
                policy_loss=float(actor_loss),
                value_loss=float(critic_loss),
                entropy_loss=-float(entropy),
                approx_kl=kl,
                clip_fraction=float(clip_fraction(log_ratio, clip_range)),
            )
        if config.target_kl is not None and kl > 1.5 * config.target_kl:
            return False
        loss = actor_loss + config.vf_coef * critic_loss - config.ent_coef * entropy
        self._optimizer_step(loss, meter)
        return True

    def _initial_ratio_error(self, batch: Batch, log_ratio: Tensor) -> float:
        """The largest |ratio - 1| between the stored log-probabilities and those of the weights that acted.

        Before the first step it is rounding error; anything else is a bug.
        """
        acting = batch.acting_policy
        if acting is not self.policy:
            outputs = acting.outputs(batch.inputs, batch.masks)
            log_ratio = acting.head.log_prob(outputs, batch.actions) - batch.log_probs
        return float((log_ratio.exp() - 1.0).abs().max())

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
