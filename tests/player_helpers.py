"""Envs and guests for the tests of players. Without torch: worker processes import this."""

import threading

import gymnasium as gym
import numpy as np

from workers.testing import ProbeEnv


class Slow(ProbeEnv):
    """Takes its time; in the third step of one episode, all the time there is.

    Args:
        hangs: the seed of that episode.
    """

    def __init__(self, hangs=None):
        super().__init__()
        self._hangs = hangs

    def step(self, action):
        hangs = self._seed == self._hangs and len(self._actions) == 2
        threading.Event().wait(None if hangs else 0.01)
        return super().step(action)


class Stuck(gym.Env):
    """Episodes of five steps; the mask of some allows nothing in the third observation.

    Args:
        seeds: of these episodes.
    """

    observation_space = gym.spaces.Dict(
        action_mask=gym.spaces.MultiBinary(2), obs=gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    )
    action_space = gym.spaces.Discrete(2)

    def __init__(self, seeds):
        self._seeds = seeds

    def reset(self, *, seed=None, options=None):
        self._stuck, self._steps = seed in self._seeds, 0
        return self._shown(), {}

    def step(self, action):
        self._steps += 1
        return self._shown(), 0.0, self._steps == 5, False, {}

    def _shown(self):
        mask = np.full(2, not (self._stuck and self._steps == 2), np.int8)
        return {"action_mask": mask, "obs": np.zeros(1, np.float32)}


class Liar:
    """A guest that says the same, whatever it is asked."""

    def __init__(self, answer, news=None):
        self._answer, self._news = answer, news

    def call(self, request, pool, tell):
        if self._news is not None:
            tell(self._news)
        return self._answer
