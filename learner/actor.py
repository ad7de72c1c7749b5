"""The acting side of a policy: NumPy in, NumPy out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from learner.errors import NoLegalAction, NonFiniteError
from learner.forward_only import ForwardOnly
from learner.policy import ActorCritic

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]


class Actor:
    """Chooses actions with the present weights of a policy.

    Whatever acts (rounds, evaluation, custom loops) does it through an actor, which also checks the result:
    neither a number that is not finite nor a choice that a mask forbids reaches an env, where it would look
    like a failure of the env. State that belongs to acting rather than to the weights (the memory of a
    recurrent policy, a snapshot of weights that an update must not change) has its place here.

    Args:
        policy: acts; to act with weights that stay as they are, give a copy.
    """

    def __init__(self, policy: ActorCritic) -> None:
        self.policy = policy
        self.head = policy.head
        self._actor, self._critic = ForwardOnly(policy.actor), ForwardOnly(policy.critic)

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """The noise for `rows` rows, f32[rows, K]; see `ActionHead.draw_noise`."""
        return self.head.draw_noise(rng, rows)

    @torch.inference_mode()
    def act(self, obs: Array, noise: Array | None, env_ids: Ids | None = None) -> Array:
        """Choose actions.

        Args:
            obs: [G, *O].
            noise: f32[G, K] from `draw_noise`; None takes the most likely actions.
            env_ids: i64[G], names the envs in errors; None names rows.

        Returns:
            Actions [G, *A]; `to_env` makes env actions of them.

        Raises:
            NoLegalAction: a mask allows nothing.
            NonFiniteError: the actions are not finite.
        """
        outputs = self._outputs_and_features(obs, env_ids)[0].cpu().numpy()
        actions = self.head.mode(outputs) if noise is None else self.head.sample(outputs, noise)
        return _finite(actions)

    @torch.inference_mode()
    def act_with_values(self, obs: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Sample actions as `act` does, with what a custom loop has to remember of them.

        Args:
            obs: [G, *O].
            noise: f32[G, K].

        Returns:
            Actions [G, *A], V(obs) f32[G] and the log-probabilities of the actions f32[G].

        Raises:
            NoLegalAction, NonFiniteError: see `act`.
        """
        outputs, features = self._outputs_and_features(obs, None)
        actions = _finite(self.head.sample(outputs.cpu().numpy(), noise))
        log_probs = self.head.log_prob(outputs, torch.as_tensor(actions, device=self.policy.device))
        values = self._critic(features).squeeze(1)
        return actions, values.cpu().numpy(), log_probs.cpu().numpy()

    def to_env(self, actions: Array) -> Array:
        """Env actions [G, *A] for actions [G, *A]; see `ActionHead.to_env`."""
        return self.head.to_env(actions)

    def _outputs_and_features(self, obs: Array, env_ids: Ids | None) -> tuple[Tensor, Tensor]:
        policy = self.policy
        inputs, masks = policy.preprocess(torch.as_tensor(obs, device=policy.device))
        if masks.shape[1]:
            stuck = np.flatnonzero(~self.head.has_choice(masks.cpu().numpy()))
            if len(stuck):
                raise NoLegalAction(stuck) if env_ids is None else NoLegalAction(env_ids[stuck], "envs")
        features = policy.encoder(inputs)
        return policy.masks.apply(self._actor(features), masks), features


def _finite(actions: Array) -> Array:
    if not np.isfinite(actions).all():
        raise NonFiniteError("the policy's actions are not finite; a smaller learning rate may help")
    return actions
