"""The player that lives in a worker: it plays one group at a time with the worker's own envs.

Free of torch. Both directions are bytes: requests come from the learner and are pickled, answers are not.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from learner.errors import NoLegalAction, NonFiniteError
from learner.numpy_policy import ActingPlan, NumpyPolicy
from prl.training.group_round import GroupTask, PlayingTime, play_groups
from prl.training.wire import RolloutCodec, WeightsLayout
from workers.arrays import Ids
from workers.guest import Bytes
from workers.pool import EnvPool

SLOTS = 2
"""Versions of weights that can be played at the same time."""

ROLLOUT, NO_LEGAL_ACTION, NON_FINITE = b"R", b"L", b"N"
"""First bytes of answers: a rollout, or what is wrong with the policy."""


@dataclass(frozen=True)
class PlayRequest:
    """One call.

    Attributes:
        task: what to play.
        slot: where the weights lie in shared memory.
        weights: the weights themselves, if no memory is shared, and they are others than in the slot before.
    """

    task: GroupTask
    slot: int
    weights: bytes | None


@dataclass(frozen=True)
class PlayerKit:
    """What a player is made of, apart from weights; makes one in a worker process.

    Attributes:
        plan: how the policy acts.
        layout: of its weights.
        observation_space: of one env.
    """

    plan: ActingPlan
    layout: WeightsLayout
    observation_space: gym.Space[Any]

    def codec(self) -> RolloutCodec:
        """Of what comes of tasks."""
        return RolloutCodec(self.observation_space, self.plan.actions.action_space)

    def __call__(self, memory: Bytes | None) -> Player:
        return Player(self, memory)


class Player:
    """Implements `workers.guest.Guest`.

    Args:
        kit: what it is made of.
        memory: where the learner writes weights, one slot after the other; None if they come with the calls.
    """

    def __init__(self, kit: PlayerKit, memory: Bytes | None) -> None:
        self._kit = kit
        self._codec = kit.codec()
        size = kit.layout.nbytes
        self._policies: dict[int, NumpyPolicy] = {}
        if memory is not None:
            for slot in range(SLOTS):
                self._bind(slot, memory[slot * size : (slot + 1) * size])

    def _bind(self, slot: int, memory: Any) -> None:
        self._policies[slot] = NumpyPolicy(self._kit.plan, self._kit.layout.views(memory))

    def call(self, request: bytes, pool: EnvPool, tell: Callable[[bytes], None]) -> bytes:
        """See `Guest`. `tell` gets the ids i64[E] of envs whose episodes have ended."""
        asked: PlayRequest = pickle.loads(request)  # from the learner, not from a child
        if asked.weights is not None:
            self._bind(asked.slot, asked.weights)

        def on_ended(env_ids: Ids) -> None:
            if len(env_ids):
                tell(env_ids.astype(np.int64).tobytes())

        seconds = PlayingTime()
        try:
            (part,) = play_groups(pool, self._policies[asked.slot], [asked.task], on_ended, seconds)
        except NoLegalAction as error:
            return NO_LEGAL_ACTION + error.rows.astype(np.int64).tobytes()
        except NonFiniteError as error:
            return NON_FINITE + str(error).encode()
        return ROLLOUT + self._codec.encode(part, seconds)
