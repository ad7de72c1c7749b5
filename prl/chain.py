"""A chain with a reward only at its end, which undirected exploration does not find.

Importing this module registers `prl/Chain-v0` with Gymnasium, so `--env-id prl.chain:prl/Chain-v0` is enough.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

ENV_ID = "prl/Chain-v0"
_LENGTH = 30
_TOLL = 0.01  # total cost of all steps to the right


class Chain(gym.Env[npt.NDArray[np.float32], np.int64]):
    """Deep Sea (Osband et al. 2019, "Behaviour Suite for Reinforcement Learning"), reduced to its columns.

    The agent starts in state 0 and moves one state to the right or to the left (left has no effect in state
    0). Which of the two actions is "right" is drawn separately for every state, so that what is learnt in
    one state does not help in another. A step to the right costs 0.01 / length; the last state pays 1 and
    ends the episode. As registered, an episode is truncated after length - 1 = 29 steps, so that a single
    sequence of actions finds the reward: random play has a chance of 2**-29, and the small costs lead a
    learner away. The best return is 1 - 0.01 * (length - 1) / length, here 0.9903; staying in state 0 earns
    0.

    Observations are one-hot float32[length].

    Args:
        length: number of states, at least 2. If it is not 30, set `max_episode_steps` to length - 1.
        mapping_seed: decides which actions are "right", for all episodes alike.
        render_mode: only None; the env cannot be rendered.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, length: int = _LENGTH, mapping_seed: int = 0, render_mode: str | None = None) -> None:
        if length < 2:
            raise ValueError(f"length must be at least 2, got {length}")
        self.render_mode = render_mode
        self.length = length
        self.right = np.random.default_rng(mapping_seed).integers(0, 2, size=length)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (length,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start in state 0."""
        super().reset(seed=seed)
        self._state = 0
        return self._observation(), {}

    def step(
        self, action: np.int64 | int
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move one state to the right or to the left."""
        reward = 0.0
        if int(action) == self.right[self._state]:
            self._state += 1
            reward -= _TOLL / self.length
        else:
            self._state = max(self._state - 1, 0)
        done = self._state == self.length - 1
        return self._observation(), reward + done, done, False, {}

    def _observation(self) -> npt.NDArray[np.float32]:
        row = np.zeros(self.length, np.float32)
        row[self._state] = 1.0
        return row


if ENV_ID not in gym.registry:
    gym.register(ENV_ID, entry_point="prl.chain:Chain", max_episode_steps=_LENGTH - 1)
