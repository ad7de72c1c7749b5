"""Proximal Policy Optimisation: one update of a policy from a rollout (Schulman et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.advantages import gae, next_values
from learner.errors import NonFiniteError
from learner.exploration import Exploration, NoExploration
from learner.fused_step import fastest_step
from learner.gradient_step import GradientStep, Number, StepStatistics
from learner.losses import explained_variance
from learner.meter import Meter
from learner.minibatches import Batch, Ids, Minibatches, RowMinibatches
from learner.normalize import RawRewards, RewardScaler
from learner.policy import ActorCritic
from learner.ppo_config import PPOConfig
from learner.settings import require_instance
from learner.skips import Skips
from learner.state import copied
from learner.store import Rollout


class PPOLearner:
    """A policy and the optimiser that improves it.

    Args:
        policy: trained in place; stays on its device.
        config: hyper-parameters.
        exploration: adds to the advantages.
        make_step: makes the optimiser's step of a policy and a config.

    Raises:
        ConfigError: the policy is no `ActorCritic`, or the config no `PPOConfig`.
    """

    def __init__(
        self,
        policy: ActorCritic,
        config: PPOConfig,
        exploration: Exploration | None = None,
        make_step: Callable[[ActorCritic, PPOConfig], GradientStep] = fastest_step,
    ) -> None:
        require_instance(ActorCritic, "an ActorCritic", policy=policy)
        require_instance(PPOConfig, "a PPOConfig", config=config)
        self.policy = policy
        self.config = config
        self.exploration = exploration or NoExploration()
        self._rewards = (RewardScaler if config.normalize_reward else RawRewards)(0, config.gamma)
        self._minibatches: Minibatches = RowMinibatches(config.num_epochs, config.minibatch_size)
        self._skips = Skips()
        self._step = make_step(policy, config)

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and optimiser state, as they are now: further updates do not change them."""
        return copied(
            {
                "policy": self.policy.state_dict(),
                "step": type(self._step).__name__,
                "optimizer": self._step.state_dict(),
                "rewards": self._rewards.state_dict(),
                "exploration": self.exploration.state_dict(),
                "consecutive_non_finite": int(self._skips.in_a_row),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the state is of another kind of optimiser step, of the policy or of the exploration;
                nothing has changed.
        """
        kind = type(self._step).__name__
        if state["step"] != kind:
            raise ValueError(f"the state is of a learner with the step {state['step']}, not {kind}")
        state = copied(state)  # Adam would keep, and change, the very tensors that it is given
        self.exploration.load_state_dict(state["exploration"])  # first, since it may refuse
        self.policy.load_state_dict(state["policy"])
        self._step.load_state_dict(state["optimizer"])
        self._rewards.load_state_dict(state["rewards"])
        self._skips = Skips(state["consecutive_non_finite"])

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

    def prepare(self, rollout: Rollout, acting_policy: ActorCritic | None = None) -> Batch[Tensor]:
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
    ) -> Batch[Tensor]:
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
        batch = Batch(
            inputs, masks, actions, log_probs, old_values, total, returns, acting_policy, exploration
        )
        return batch.map(lambda column: column.to(self.policy.device))  # who acts may be on the CPU

    def optimize(
        self, batch: Batch[Tensor], rng: np.random.Generator, progress: float = 0.0
    ) -> dict[str, float]:
        """PPO's epochs over a batch; see `update`."""
        config, meter = self.config, Meter()
        left = max(0.0, 1.0 - progress)
        lr_scale = left if config.anneal_lr else 1.0
        clip_range = config.clip_range * (left if config.anneal_clip_range else 1.0)
        self._skips.begin()
        for rows, minibatch in self._minibatches.of(self._step.adapt(batch), rng):
            found = self._step.gradient(minibatch, clip_range)
            if meter.steps == 0:
                meter.initial_ratio_error = self._initial_ratio_error(batch, rows, found)
            meter.add(found)
            if config.target_kl is not None and found.approx_kl > 1.5 * config.target_kl:
                break
            self._step.apply(config.actor_lr * lr_scale, config.critic_lr * lr_scale, self._skips)
            self._skips.check()
            batch.exploration.learn(rows)
        self._skips.check(waits=True)
        self._require_finite_weights()
        metrics = meter.means() | batch.exploration.finish()
        metrics["skipped_minibatches"] = float(self._skips.total)
        metrics["explained_variance"] = explained_variance(batch.values, batch.returns)
        metrics["learning_rate"] = config.actor_lr * lr_scale
        metrics["clip_range"] = clip_range
        return metrics

    def _initial_ratio_error(self, batch: Batch[Tensor], rows: Ids, found: StepStatistics) -> Number:
        """The largest |ratio - 1| between the stored log-probabilities and those of the weights that acted.

        Before the first step it is rounding error; anything else is a bug.
        """
        acting = batch.acting_policy
        if acting is self.policy:
            return found.ratio_error
        first: Batch[Tensor] = batch.rows(rows).map(lambda column: column.to(acting.device))
        with torch.no_grad():
            log_probs = acting.head.log_prob(acting.outputs(first.inputs, first.masks), first.actions)
        return ((log_probs - first.log_probs).exp() - 1.0).abs().max()

    def _require_finite_weights(self) -> None:
        weights = torch.cat([parameter.detach().flatten() for parameter in self.policy.parameters()])
        if not weights.isfinite().all():  # all at once: a GPU is waited for only once
            raise NonFiniteError(
                "an update made weights that are not finite; a smaller learning rate may help"
            )
