"""Envs whose infos say something. Without torch: worker processes import this."""

import gymnasium as gym
import numpy as np

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


class Goal(gym.Env):
    """Up to ten steps; action 1 reaches the goal, and ends the episode.

    The last info also has the number of `steps`, the `name` of the env, and `late`, a number, in episodes of
    more than two steps.
    """

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._obs(), {"is_success": True, "steps": -1.0}

    def step(self, action):
        self._steps += 1
        info = {"is_success": bool(action), "steps": self._steps, "name": "goal"}
        if self._steps > 2:
            info["late"] = np.float32(7.5)
        return self._obs(), -1.0, bool(action), False, info

    def _obs(self):
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)


gym.register("telling/Goal-v0", Goal, max_episode_steps=10)
