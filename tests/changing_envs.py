"""Envs that can be changed from outside. Without torch: worker processes import this."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from workers.testing import ProbeEnv


class Levels(gym.Env):
    """Shows noise, higher on higher levels; a reward tells the level, and that at the reset."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1000.0, 1000.0, (2,))

    def __init__(self, copy=None):
        self.copy = copy
        self.level = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.start = 0, self.level
        return self._obs(), {"start": self.start}

    def step(self, action):
        self.t += 1
        info = {} if self.t == 3 else {"t": self.t, "name": f"step {self.t}"}
        return self._obs(), 10 * self.level + self.start + float(action), self.t >= 9, False, info

    def _obs(self):
        return self.np_random.normal(size=2).astype("float32") + np.float32(self.level)

    def add(self, amount=1):
        """Raise the level; the new one. Works only in an env that was reset before."""
        self.level += amount + 0 * self.t
        return self.level

    def break_down(self):
        """Raise."""
        raise KeyError("out of order")

    def returns_itself(self):
        """What is no data."""
        return self


class Hardens(gym.Wrapper):
    """Fails once its level is 2, which calls raise."""

    level = 0

    def __init__(self):
        super().__init__(ProbeEnv(shortest=30, longest=30))

    def step(self, action):
        if self.level == 2:
            raise ValueError("too hard")
        return self.env.step(action)

    def harden(self):
        self.level += 1


gym.register("Levels-v0", Levels)
gym.register("failing/Hardens-v0", Hardens, max_episode_steps=40)
