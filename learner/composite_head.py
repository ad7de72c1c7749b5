"""`make_head` makes the head of any action space; `CompositeHead` is the one of Dict and Tuple.

The heads of other spaces are in `learner.heads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import gymnasium as gym
import numpy as np
from torch import Tensor, nn

from learner.actions import unsupported
from learner.composite_actions import CompositeActions, Part
from learner.heads import ActingHead, CategoricalHead, GaussianHead, MultiCategoricalHead
from learner.spaces import check_choices, is_composite, walk


class CompositeHead(ActingHead):
    """Dict and Tuple actions: independent heads, one per leaf, depth first in the order of the space.

    For the forms of outputs, actions and env actions see `learner.composite_actions.CompositeActions`.
    Log-probabilities, entropies and log-determinants are sums over the leaves.

    Args:
        space: Dict or Tuple, nested to any depth.
        log_std_init: of every Box in it.

    Raises:
        ValueError: no head for a space in it, or too many choices in all.
    """

    def __init__(self, space: gym.Space[Any], log_std_init: float = 0.0) -> None:
        actions = CompositeActions(space)
        super().__init__(actions)
        self.leaves = nn.ModuleList(_leaf_head(part, log_std_init) for _, part in walk(space))
        self._parts = actions.parts

    def _each(self) -> Iterator[tuple[LeafHead, Part]]:
        return zip(cast("list[LeafHead]", self.leaves), self._parts, strict=True)

    def env_modes(self, outputs: Tensor) -> list[Tensor]:
        """See `ActionHead`."""
        return [mode for head, part in self._each() for mode in head.env_modes(outputs[:, part.outputs])]

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        total = outputs.new_zeros(len(outputs))
        for head, part in self._each():
            leaf_actions = actions[:, part.action].reshape(len(actions), *part.shape)
            total = total + head.log_prob(outputs[:, part.outputs], leaf_actions)
        return total

    def entropy(self, outputs: Tensor) -> Tensor:
        """See `ActionHead`."""
        total = outputs.new_zeros(len(outputs))
        for head, part in self._each():
            total = total + head.entropy(outputs[:, part.outputs])
        return total

    def log_det(self, actions: Tensor) -> Tensor:
        """See `ActionHead`."""
        total = actions.new_zeros(len(actions))
        for head, part in self._each():
            total = total + head.log_det(actions[:, part.action].reshape(len(actions), *part.shape))
        return total


LeafHead: TypeAlias = CategoricalHead | MultiCategoricalHead | GaussianHead
Head: TypeAlias = LeafHead | CompositeHead


def make_head(space: gym.Space[Any], log_std_init: float = 0.0) -> Head:
    """The head for an action space.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these.
        log_std_init: initial log standard deviation of every dimension of a Box.

    Raises:
        ValueError: no head for such a space, or too many choices in it.
    """
    if is_composite(space):
        return CompositeHead(space, log_std_init)
    check_choices([space], "actions")
    return _leaf_head(space, log_std_init)


def _leaf_head(space: gym.Space[Any], log_std_init: float) -> LeafHead:
    if isinstance(space, gym.spaces.Discrete):
        return CategoricalHead(space)
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return MultiCategoricalHead(space)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianHead(space, log_std_init)
    raise unsupported(space)
