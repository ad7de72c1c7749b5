"""The policy: an actor, a critic and the head that makes actions of the actor's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy.typing as npt
import torch
from torch import Tensor, nn

from learner.distributions import action_head
from learner.networks import FlatInput, mlp

Array = npt.NDArray[Any]

_CHUNK = 16384  # rows per forward pass where no gradient is needed; bounds the memory of activations


class ActorCritic(nn.Module):
    """Separate actor and critic networks (64 x 64, tanh) for vector observations.

    Args:
        observation_space: a Box of rank 1.
        action_space: Discrete, or a Box of floats.
        hidden_sizes: of both networks.
        seed: of the initial weights.

    Raises:
        ValueError: a space is not supported.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"observation space {observation_space} is not supported: it must be a vector Box"
            )
        generator = torch.Generator().manual_seed(seed)
        self.observation_space = observation_space
        self.action_space = action_space
        self.head = action_head(action_space)
        sizes = [int(observation_space.shape[0]), *hidden_sizes]
        self.actor = nn.Sequential(FlatInput(), *mlp([*sizes, self.head.num_outputs], 0.01, generator))
        self.critic = nn.Sequential(FlatInput(), *mlp([*sizes, 1], 1.0, generator))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def act(self, obs: Array, noise: Array) -> Array:
        """Sample actions.

        Args:
            obs: [G, *O].
            noise: f32[G, K] from `head.draw_noise`.

        Returns:
            Actions [G, *A]; `head.to_env` makes env actions of them.
        """
        return self.head.sample(self._actor_outputs(obs), noise)

    @torch.inference_mode()
    def act_and_judge(self, obs: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Sample actions as `act` does, with what a loop of one's own has to remember of them.

        Args:
            obs: [G, *O].
            noise: f32[G, K].

        Returns:
            Actions [G, *A], V(obs) f32[G] and the log-probabilities of the actions f32[G].
        """
        rows = torch.as_tensor(obs, device=self.device)
        outputs = self.actor(rows)
        actions = self.head.sample(outputs.cpu().numpy(), noise)
        log_probs = self.head.log_prob(outputs, torch.as_tensor(actions, device=self.device))
        return actions, self.values(rows).cpu().numpy(), log_probs.cpu().numpy()

    def act_greedily(self, obs: Array) -> Array:
        """The most likely actions [G, *A] for obs [G, *O]."""
        return self.head.mode(self._actor_outputs(obs))

    @torch.inference_mode()
    def _actor_outputs(self, obs: Array) -> Array:
        outputs: Array = self.actor(torch.as_tensor(obs, device=self.device)).cpu().numpy()
        return outputs

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Log pi(action | obs), f32[S], for obs [S, *O] and actions [S, *A]."""
        return self.head.log_prob(self.actor(obs), actions)

    def values(self, obs: Tensor) -> Tensor:
        """V(obs), f32[S], for obs [S, *O]."""
        values: Tensor = self.critic(obs).squeeze(1)
        return values

    @torch.no_grad()
    def behaviour(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of a whole batch with the present weights, without gradients.

        Args:
            obs: [S, *O].
            actions: [S, *A].

        Returns:
            log pi(a|s) f32[S] and V(s) f32[S].
        """
        chunks = list(zip(obs.split(_CHUNK), actions.split(_CHUNK), strict=True))
        log_probs = torch.cat([self.log_prob(o, a) for o, a in chunks])
        return log_probs, torch.cat([self.values(o) for o, _ in chunks])

    @torch.no_grad()
    def state_values(self, obs: Tensor) -> Tensor:
        """V(obs), f32[S], without gradients; obs [S, *O] may be empty."""
        return torch.cat([self.values(chunk) for chunk in obs.split(_CHUNK)])
