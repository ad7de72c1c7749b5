"""Acting with a small policy in NumPy alone: the same code, and so the same bits, in learner and workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from learner.actions import Actions
from learner.arrays import Array, Ids
from learner.errors import NoLegalAction, NonFiniteError
from learner.inputs import Inputs
from learner.numpy_mlp import NumpyMLP
from learner.spaces import Leaf

ILLEGAL = -1e8
"""The logit of a masked choice: exp of it is exactly 0, but, unlike -inf, 0 times it is not NaN."""


class Acts(Protocol):
    """What rounds need of a policy: `NumpyPolicy`, and `learner.actor.Actor`."""

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """The noise for `rows` rows, f32[rows, K]."""

    def act(self, obs: Array, noise: Array | None, env_ids: Ids | None = None) -> Array:
        """Actions [G, *A] for observations [G, *O]."""

    def to_env(self, actions: Array) -> Array:
        """Env actions [G, *A] for actions [G, *A]."""


@dataclass(frozen=True)
class ActingPlan:
    """How a policy acts, without its weights; can be pickled.

    Weights are a list of arrays: the statistics of the inputs, then weight and bias of each layer of the
    actor, then the weights of the actions.

    Attributes:
        inputs: what the network sees of an observation.
        mask: the part of observations that says which actions are legal; None if there is none.
        activation: between the layers.
        actions: what becomes of the outputs.
    """

    inputs: Inputs
    mask: Leaf | None
    activation: str
    actions: Actions


class NumpyPolicy:
    """Chooses actions by a plan, with weights that may lie in memory that others write.

    Implements `Acts`.

    Args:
        plan: how.
        weights: see `ActingPlan`; changes in place are seen.
    """

    def __init__(self, plan: ActingPlan, weights: Sequence[Array]) -> None:
        self._plan = plan
        self.actions = plan.actions
        first = plan.inputs.num_statistics
        last = len(weights) - plan.actions.num_weights
        self._statistics = list(weights[:first])
        self._mlp = NumpyMLP(weights[first:last], activation=plan.activation)
        self._of_actions = list(weights[last:])

    def draw_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """The noise for `rows` rows, f32[rows, K]; see `Actions.draw_noise`."""
        return self.actions.draw_noise(rng, rows)

    def act(self, obs: Array, noise: Array | None, env_ids: Ids | None = None) -> Array:
        """Choose actions; see `learner.actor.Actor.act`."""
        with np.errstate(all="ignore"):  # `finite` looks at what has become of it
            outputs = self.inputs_and_outputs(obs, env_ids)[1]
            if noise is None:
                return finite(self.actions.mode(outputs))
            return finite(self.actions.sample(outputs, noise, self._of_actions))

    def inputs_and_outputs(self, obs: Array, env_ids: Ids | None = None) -> tuple[Array, Array]:
        """The inputs f32[G, F] of the networks, and the actor's masked outputs f32[G, K].

        Raises:
            NoLegalAction: a mask allows nothing.
        """
        inputs = self._plan.inputs.read(obs, self._statistics)
        outputs = self._mlp.forward(inputs)[-1]
        if self._plan.mask is not None:
            masks = self._plan.mask.read(obs).reshape(len(obs), -1) != 0
            require_choice(self.actions, masks, env_ids)
            outputs[~masks] = ILLEGAL
        return inputs, outputs

    def to_env(self, actions: Array) -> Array:
        """Env actions [G, *A] for actions [G, *A]; see `Actions.to_env`."""
        return self.actions.to_env(actions)


def require_choice(actions: Any, masks: Array, env_ids: Ids | None) -> None:
    """Refuse masks bool[G, K] that leave a row without a choice.

    Args:
        actions: `Actions`, or a head.
        masks: of the rows.
        env_ids: i64[G], names the envs in the error; None names rows.

    Raises:
        NoLegalAction: a mask allows nothing.
    """
    stuck = np.flatnonzero(~actions.has_choice(masks))
    if len(stuck):
        raise NoLegalAction(stuck) if env_ids is None else NoLegalAction(env_ids[stuck], "envs")


def finite(actions: Array) -> Array:
    """The actions themselves.

    Raises:
        NonFiniteError: they are not finite.
    """
    # Choices are integers, and always are.
    if actions.dtype.kind == "f" and not np.isfinite(actions).all():
        raise NonFiniteError("the policy's actions are not finite; a smaller learning rate may help")
    return actions
