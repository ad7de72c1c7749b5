"""A policy as one function of tensors: observations to the most likely env actions, for exporters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from learner.policy import ActorCritic
from learner.space_tensors import torch_dtype
from learner.spaces import MASK_KEY, leaves


class DeterministicPolicy(nn.Module):
    """What `Actor.act` without noise and `Actor.to_env` do together, without rows of bytes and without NumPy.

    A mask that allows nothing is no error here: all choices are then equally illegal, and the first is taken.

    Args:
        policy: with its normaliser; its weights are shared, not copied.
        action_space: of the env, if its dtypes are not those of the policy's action space.
    """

    def __init__(self, policy: ActorCritic, action_space: gym.Space[Any] | None = None) -> None:
        super().__init__()
        self.policy = policy
        self._is_mask = [leaf.path == (MASK_KEY,) for leaf in leaves(policy.observation_space)]
        self._dtypes = [torch_dtype(leaf.dtype) for leaf in leaves(action_space or policy.action_space)]

    def outputs(self, parts: Sequence[Tensor]) -> Tensor:
        """The actor's masked outputs f32[G, K].

        Args:
            parts: the leaves of the observation space, depth first: [G, *shape] in the dtype of each. An
                action mask is one of them.
        """
        outputs: Tensor = self.policy.actor(self.policy.encoder.encode(parts))
        for part, is_mask in zip(parts, self._is_mask, strict=True):
            if is_mask:
                outputs = self.policy.masks.apply(outputs, part.flatten(start_dim=1) != 0)
        return outputs

    def env_actions(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """The most likely env actions, leaf by leaf [G, *A] in the leaf's dtype, for outputs f32[G, K]."""
        modes = self.policy.head.env_modes(outputs)
        return tuple(mode.to(dtype) for mode, dtype in zip(modes, self._dtypes, strict=True))

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The most likely env actions for observations, both leaf by leaf."""
        return self.env_actions(self.outputs(parts))
