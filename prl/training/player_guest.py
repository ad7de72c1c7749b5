"""The player that lives in a worker: it plays one group at a time with the worker's own envs.

Free of torch. Both directions are bytes: requests come from the learner and are pickled, answers are not.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from learner.errors import NoLegalAction, NonFiniteError
from learner.numpy_policy import ActingPlan, NumpyPolicy
from prl.training.group_round import (
    GroupTask,
    OnEnded,
    PlayingTime,
    goes_on_after_episodes,
    nobody_listens,
    play_groups,
)
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
        news_every: seconds at least from one message about ended episodes to the next.
    """

    plan: ActingPlan
    layout: WeightsLayout
    observation_space: gym.Space[Any]
    news_every: float = 0.05

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
        """See `Guest`. `tell` gets the envs that have done their part before others, see `_News`."""
        asked: PlayRequest = pickle.loads(request)  # from the learner, not from a child
        if asked.weights is not None:
            self._bind(asked.slot, asked.weights)

        seconds, news = PlayingTime(), _News(tell, self._kit.news_every)
        on_ended: OnEnded = nobody_listens if goes_on_after_episodes(asked.task) else news
        try:
            (part,) = play_groups(pool, self._policies[asked.slot], [asked.task], on_ended, seconds)
        except NoLegalAction as error:
            return NO_LEGAL_ACTION + error.rows.astype(np.int64).tobytes()
        except NonFiniteError as error:
            return NON_FINITE + str(error).encode()
        news.tell_all()
        return ROLLOUT + self._codec.encode(part, seconds)


class _News:
    """Tells of envs whose episodes have ended, from time to time.

    Args:
        tell: gets i64[E] ids of envs, in the order of their ends, and f64[E] seconds since then, as bytes.
        every: seconds from one message to the next: each wakes the learner, which has its core from a worker.
    """

    def __init__(self, tell: Callable[[bytes], None], every: float) -> None:
        self._tell, self._every = tell, every
        self._told = time.monotonic()
        self._ended: list[tuple[Ids, float]] = []

    def __call__(self, env_ids: Ids) -> None:
        """The episodes of these envs have just ended."""
        if not len(env_ids):
            return
        now = time.monotonic()
        self._ended.append((env_ids, now))
        if now - self._told >= self._every:
            self.tell_all()

    def tell_all(self) -> None:
        """Tell of those that have not been told of yet."""
        if not self._ended:
            return
        now = self._told = time.monotonic()
        ids = np.concatenate([env_ids for env_ids, _ in self._ended]).astype(np.int64)
        ages = np.concatenate([np.full(len(env_ids), now - at) for env_ids, at in self._ended])
        self._tell(ids.tobytes() + ages.tobytes())
        self._ended.clear()
