"""The weights that act while an update moves the learner's own."""

from __future__ import annotations

import copy
from typing import Any

from learner.actor import acting_plan
from learner.policy import ActorCritic
from learner.state import copied
from prl.training.players import Players, Weights


class LaggingPolicy:
    """Copies of a policy that lag one update behind it.

    Two copies take turns: the one that has played a batch is needed until the update from it is done, while
    the other plays the next.

    Args:
        policy: under training.
    """

    def __init__(self, policy: ActorCritic) -> None:
        self._policy = policy
        self._acting, self._spare = acting_copy(policy), acting_copy(policy)
        self._published: Weights | None = None

    def catch_up(self) -> None:
        """The coming batch is played with the policy as it is now: after a warm-up, before any update."""
        self._acting.load_state_dict(self._policy.state_dict())
        self._published = None

    def acting(self, players: Players) -> Weights:
        """What plays the coming batch."""
        if self._published is None:  # the run begins, or goes on from a state
            self._published = players.publish(self._acting)
        return self._published

    def follow(self, players: Players) -> Weights:
        """What plays the batch after it: the policy as it is now. The next `acting` is this."""
        self._acting, self._spare = self._spare, self._acting
        self._acting.load_state_dict(self._policy.state_dict())
        self._published = players.publish(self._acting)
        return self._published

    def state_dict(self) -> dict[str, Any]:
        """The weights that play the coming batch."""
        return copied(self._acting.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._acting.load_state_dict(state)
        self._published = None


def acting_copy(policy: ActorCritic) -> ActorCritic:
    """A copy that acts: on the CPU if NumPy can compute it, so that workers can, else where the policy is.

    Beside a GPU that computes an update, small networks act on the CPU in less time than the GPU takes to
    begin.
    """
    copied = copy.deepcopy(policy).to("cpu")
    return copied if acting_plan(copied) is not None else copied.to(policy.device)
