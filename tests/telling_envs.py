"""Envs whose infos say something. Without torch: worker processes import this."""

import gymnasium as gym

from workers.testing import ProbeEnv


class Telling(gym.Wrapper):
    """Tells in every info how far it is, and at the end of an episode with an even seed whether it won.

    Args:
        env: a `ProbeEnv`; None makes one.
    """

    def __init__(self, env=None):
        super().__init__(ProbeEnv() if env is None else env)

    def reset(self, *, seed=None, options=None):
        self._seed, self._steps = seed, 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        self._steps += 1
        info = {"distance": self._seed + self._steps / 8, "is_success": False}
        if (terminated or truncated) and self._seed % 2 == 0:
            info["is_success"] = self._seed % 4 == 0
        elif terminated or truncated:
            del info["is_success"]
        return obs, reward, terminated, truncated, info


class Odd(ProbeEnv):
    """One step per episode, whose info is whatever the env was made with."""

    def __init__(self, info):
        super().__init__(shortest=1, longest=1)
        self._info = info

    def step(self, action):
        return *super().step(action)[:4], self._info
