"""Episodes with random legal actions, played as workers play them, and what was seen in them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from workers.arrays import Array
from workers.block import EnvBlock
from workers.envs import EnvFactory
from workers.rows import MASK_KEY, pack, unpack
from workers.seeding import Stream, episode_seed, generator
from workers.slab import SlabLayout
from workers.space_parts import parts

_RUN_SEED = 0


@dataclass(frozen=True)
class Moment:
    """What an env has answered to one call.

    Attributes:
        obs: a digest of the bytes of the observation.
        reward: f32, 0 after a reset.
        flags: see `workers.pool.TERMINATED`; 0 after a reset.
    """

    obs: bytes
    reward: float
    flags: int


@dataclass
class Take:
    """One episode, or its beginning.

    Attributes:
        seed: of the episode.
        actions: rows, in the order of time.
        moments: one more than actions; the first is that of the reset.
    """

    seed: int
    actions: list[Array] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)


class Player:
    """One env behind the checks of a worker.

    Args:
        factory: builds it.
        beat: called before every call of the env.

    Attributes:
        largest: absolute value that was seen in observations of floats.

    Raises:
        EnvFailure: the env failed; so do the methods.
    """

    def __init__(self, factory: EnvFactory, beat: Callable[[], None]) -> None:
        self._beat = beat
        beat()
        self._spaces = factory.observation_space, factory.action_space
        self._slab = SlabLayout(*self._spaces, 1).attach()
        self.largest = 0.0
        self._block = EnvBlock(factory, 0, self._slab)

    @property
    def obs(self) -> Array:
        """The present row of the observation, [*O]."""
        obs: Array = self._slab.obs[0]
        return obs

    def reset(self, seed: int) -> Moment:
        """Start an episode."""
        self._beat()
        self._block.reset([0], [seed])
        return self._moment()

    def step(self, action: Array) -> Moment:
        """Take a step with a row of an action."""
        self._beat()
        self._slab.action[0] = action
        self._block.step([0])
        return self._moment()

    def _moment(self) -> Moment:
        if self.obs.dtype.kind == "f" and self.obs.size:
            self.largest = max(self.largest, float(np.abs(self.obs).max()))
        digest = hashlib.blake2b(self.obs.tobytes(), digest_size=8).digest()
        return Moment(digest, float(self._slab.reward[0]), int(self._slab.flags[0]))

    def play(self, episode: int, max_steps: int, until: float) -> Take:
        """An episode with random legal actions, which are a function of its number and its observations.

        Args:
            episode: its number, which its seed and its actions come from.
            max_steps: after which it is left.
            until: time of `time.monotonic` at which it is left, but not before its first step.
        """
        take = Take(episode_seed(_RUN_SEED, 0, episode))
        take.moments.append(self.reset(take.seed))
        rng = generator(_RUN_SEED, Stream.NOISE, episode)
        while len(take.actions) < max_steps and not take.moments[-1].flags:
            take.actions.append(random_row(self._spaces, self.obs, rng))
            take.moments.append(self.step(take.actions[-1]))
            if time.monotonic() > until:
                break
        return take

    def repeat(self, take: Take) -> int | None:
        """Play an episode again.

        Returns:
            The number of the first step (0: the reset) at which something else was seen; None if nothing.
        """
        if self.reset(take.seed) != take.moments[0]:
            return 0
        for number, (action, moment) in enumerate(zip(take.actions, take.moments[1:], strict=True), 1):
            if self.step(action) != moment:
                return number
        return None

    def close(self) -> None:
        """Close the env."""
        self._block.close()


def digest(takes: Sequence[Take]) -> str:
    """A hash of all that was seen in some episodes."""
    seen = [(moment.obs, moment.reward, moment.flags) for take in takes for moment in take.moments]
    return hashlib.blake2b(repr(seen).encode(), digest_size=16).hexdigest()


def random_row(spaces: tuple[gym.Space[Any], gym.Space[Any]], obs: Array, rng: np.random.Generator) -> Array:
    """The row of a random legal action.

    Args:
        spaces: of observations and actions.
        obs: the row of the present observation, which may hold an action mask.
        rng: what it is drawn from.
    """
    observation_space, action_space = spaces
    action_space.seed(int(rng.integers(2**31)))
    action = action_space.sample()
    if isinstance(observation_space, gym.spaces.Dict) and MASK_KEY in observation_space.spaces:
        mask = np.asarray(unpack(observation_space, obs)[MASK_KEY]).ravel() != 0
        action, _ = _legal(action_space, action, mask, rng)
    return pack(action_space, action)


def _legal(space: gym.Space[Any], action: Any, mask: Array, rng: np.random.Generator) -> tuple[Any, Array]:
    """An action whose choices are legal, and the mask that is left for the parts behind it."""
    if inner := parts(space):
        legal = []
        for key, part in inner:
            chosen, mask = _legal(part, action[key], mask, rng)
            legal.append((key, chosen))
        return (dict(legal) if isinstance(space, gym.spaces.Dict) else tuple(v for _, v in legal)), mask
    sizes = _choices(space)
    chosen = []
    for size in sizes:
        allowed = np.flatnonzero(mask[:size])
        chosen.append(int(rng.choice(allowed)) if len(allowed) else 0)
        mask = mask[size:]
    if isinstance(space, Discrete):
        return np.int64(chosen[0] + space.start), mask
    if isinstance(space, MultiDiscrete):
        return np.array(chosen, space.dtype).reshape(space.shape) + space.start, mask
    if isinstance(space, MultiBinary):
        return np.array(chosen, space.dtype).reshape(space.shape), mask
    return action, mask


def _choices(space: gym.Space[Any]) -> list[int]:
    """The numbers of choices of a leaf, in the order of its mask."""
    if isinstance(space, Discrete):
        return [int(space.n)]
    if isinstance(space, MultiDiscrete):
        return [int(size) for size in space.nvec.ravel()]
    if isinstance(space, MultiBinary):
        return [2] * int(np.prod(space.shape))
    return []
