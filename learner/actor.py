"""The acting side of a policy: NumPy in, NumPy out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from learner.arrays import Array, Ids
from learner.forward_only import ForwardOnly, activation_of, is_plain_mlp, parameters_of
from learner.heads import ActingHead
from learner.normalize import ObservationNormalizer
from learner.numpy_policy import ActingPlan, Acts, NumpyPolicy, finite, require_choice
from learner.policy import ActorCritic


class Actor:
    """Chooses actions with the present weights of a policy.

    Whatever acts (rounds, evaluation, custom loops) does it through an actor, which also checks the result:
    neither a number that is not finite nor a choice that a mask forbids reaches an env, where it would look
    like a failure of the env. State that belongs to acting rather than to the weights (the memory of a
    recurrent policy, a snapshot of weights that an update must not change) has its place here.

    Small policies on the CPU act by `NumpyPolicy`, which gives the same bits in a worker; others by torch.

    Args:
        policy: acts; to act with weights that stay as they are, give a copy.
    """

    def __init__(self, policy: ActorCritic) -> None:
        self.policy = policy
        self.head = policy.head
        self._actor, self._critic = ForwardOnly(policy.actor), ForwardOnly(policy.critic)
        self._numpy: NumpyPolicy | None = None
        self._seen: list[int] | None = None

    def now(self) -> Acts:
        """What acts just as this actor would now, as long as no weight is moved or replaced, but cheaper."""
        return self._in_numpy() or self

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """The noise for `rows` rows, f32[rows, K]; see `ActionHead.draw_noise`."""
        return self.head.draw_noise(rng, rows)

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
        if (in_numpy := self._in_numpy()) is not None:
            return in_numpy.act(obs, noise, env_ids)
        outputs = self._features_and_outputs(obs, env_ids)[1].cpu().numpy()
        return finite(self.head.mode(outputs) if noise is None else self.head.sample(outputs, noise))

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
        if (in_numpy := self._in_numpy()) is not None:
            with np.errstate(all="ignore"):  # `finite` looks at what has become of it
                features, outputs = map(torch.from_numpy, in_numpy.inputs_and_outputs(obs))
        else:
            features, outputs = self._features_and_outputs(obs, None)
        actions = finite(self.head.sample(outputs.cpu().numpy(), noise))
        log_probs = self.head.log_prob(outputs, torch.as_tensor(actions, device=self.policy.device))
        values = self._critic(features).squeeze(1)
        return actions, values.cpu().numpy(), log_probs.cpu().numpy()

    def to_env(self, actions: Array) -> Array:
        """Env actions [G, *A] for actions [G, *A]; see `ActionHead.to_env`."""
        return self.head.to_env(actions)

    @torch.inference_mode()
    def _features_and_outputs(self, obs: Array, env_ids: Ids | None) -> tuple[Tensor, Tensor]:
        policy = self.policy
        inputs, masks = policy.preprocess(torch.as_tensor(obs, device=policy.device))
        if masks.shape[1]:
            require_choice(self.head, masks.cpu().numpy(), env_ids)
        features = policy.encoder(inputs)
        return features, policy.masks.apply(self._actor(features), masks)

    def _in_numpy(self) -> NumpyPolicy | None:
        """The policy with its present weights, unless they are where they were; None if torch has to act."""
        seen = _places_of_weights(self.policy)
        if seen != self._seen:
            self._seen = seen
            plan = acting_plan(self.policy)
            self._numpy = None if plan is None else NumpyPolicy(plan, acting_weights(self.policy))
        return self._numpy


def acting_plan(policy: ActorCritic) -> ActingPlan | None:
    """How a policy acts without torch; None if it cannot: images, custom encoders, CUDA, changed modules."""
    inputs, head = policy.encoder.in_numpy, policy.head
    if type(policy) is not ActorCritic or not is_plain_mlp(policy.actor) or not isinstance(head, ActingHead):
        return None
    if inputs is None or any(
        module._forward_hooks or module._forward_pre_hooks for module in policy.encoder.modules()
    ):
        return None
    if any(tensor.device.type != "cpu" for tensor in _tensors(policy)):
        return None
    return ActingPlan(inputs, policy.masks.leaf, activation_of(policy.actor), head.actions)


def acting_weights(policy: ActorCritic) -> list[Array]:
    """The weights that a policy acts with, as `ActingPlan` orders them: on the CPU, views of its tensors."""
    return [tensor.detach().cpu().numpy() for tensor in _tensors(policy)]


def _tensors(policy: ActorCritic) -> list[Tensor]:
    normalizers = [m for m in policy.encoder.modules() if isinstance(m, ObservationNormalizer)]
    statistics = [tensor for normalizer in normalizers for tensor in (normalizer.mean, normalizer.var)]
    return [*statistics, *parameters_of(policy.actor), *policy.head.parameters()]


def _places_of_weights(policy: ActorCritic) -> list[int]:
    """Changes whenever tensors were moved or replaced, or hooks set."""
    modules = [policy.encoder, *policy.actor.children()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
    return [tensor.data_ptr() for tensor in _tensors(policy)] + hooks
