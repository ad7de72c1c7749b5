"""Environments so small that the right policy and every value are known numbers. No torch here.

The numbers are those of `test_probes.py`.
"""

import time

import gymnasium as gym
import numpy as np

from workers.seeding import episode_seed

IDENTITIES = 4
"""Of `Identity`."""


class Tiny(gym.Env):
    """What the probes share: a vector observation, and `cue`, a number that follows from the reset seed."""

    obs_size = 1
    action_space = gym.spaces.Discrete(1)

    def __init__(self):
        self.observation_space = gym.spaces.Box(-2.0, 2.0, (self.obs_size,), np.float32)
        self.steps = 0
        self.cue = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        self.cue = np.random.default_rng(seed).integers(1 << 20).item()
        return self.obs(), {}

    def step(self, action):
        reward, terminated = self.play(action)
        self.steps += 1
        return self.obs(), reward, terminated, False, {}

    def obs(self):
        return np.zeros(self.obs_size, np.float32)

    def play(self, action):
        """The reward of this step, and whether it is the last."""
        raise NotImplementedError


class ConstantReward(Tiny):
    """Probe 1: one action, one step, reward 1."""

    def play(self, action):
        return 1.0, True


class RewardIsObs(Tiny):
    """Probe 2: the observation is -1 or 1, and so is the reward."""

    def obs(self):
        return np.array([self.cue % 2 * 2.0 - 1.0], np.float32)

    def play(self, action):
        return self.cue % 2 * 2.0 - 1.0, True


class DelayedReward(Tiny):
    """Probe 3: two steps, told apart by the observation; the second one pays 1."""

    def obs(self):
        return np.array([self.steps], np.float32)

    def play(self, action):
        return float(self.steps == 1), self.steps == 1


class TwoActions(Tiny):
    """Probe 4: action 1 pays 1, action 0 pays -1."""

    action_space = gym.spaces.Discrete(2)

    def play(self, action):
        return 2.0 * action - 1.0, True


class ObsTimesAction(Tiny):
    """Probe 5: pays 1 if the action is the cue in the observation, -1 if not."""

    action_space = gym.spaces.Discrete(2)

    def obs(self):
        return np.array([self.cue % 2 * 2.0 - 1.0], np.float32)

    def play(self, action):
        return (1.0 if action == self.cue % 2 else -1.0), True


class Endless(Tiny):
    """Probe 6: always the same observation, reward 1 per step; only a time limit ends it."""

    def obs(self):
        return np.ones(1, np.float32)

    def play(self, action):
        return 1.0, False


class EndlessButTerminated(Endless):
    """The same, its eighth step marked as terminal: what a learner sees that mistakes truncation for it."""

    def play(self, action):
        return 1.0, self.steps == 7


class Identity(Tiny):
    """Probe 7: identity k in 0..3 plays k + 1 steps, and only its own action k pays: 1 + k, else -1.

    An action, observation, reward or final flag that reaches another env is wrong there. The observation
    tells the identity and the steps that are left.
    """

    obs_size = IDENTITIES + 1
    action_space = gym.spaces.Discrete(IDENTITIES)

    @property
    def identity(self):
        return self.cue % IDENTITIES

    def obs(self):
        obs = np.zeros(self.obs_size, np.float32)
        obs[self.identity] = 1.0
        obs[-1] = (self.identity + 1 - self.steps) / IDENTITIES
        return obs

    def play(self, action):
        reward = 1.0 + self.identity if action == self.identity else -1.0
        return reward, self.steps == self.identity


class HiddenLength(Tiny):
    """Probe 8: the first action decides; episodes of 1 to 8 steps end by chance, whatever it was.

    Action 1 pays at the end: 1.5 in long episodes (5 to 8 steps), -0.5 in short ones, 0.5 on average.
    Action 0 pays 0. A learner to which short episodes count more, or which drops stragglers, prefers it.
    """

    action_space = gym.spaces.Discrete(2)

    def obs(self):
        return np.array([1.0 if self.steps == 0 else -1.0], np.float32)

    def reset(self, *, seed=None, options=None):
        self.chosen = 0
        return super().reset(seed=seed)

    def play(self, action):
        if self.steps == 0:
            self.chosen = action
        length = self.cue % 8 + 1
        last = self.steps + 1 == length
        return (1.5 if length > 4 else -0.5) * self.chosen * last, last


class TargetNearABound(Tiny):
    """Probe 9: two continuous actions with bounds (-2, 1) and (0, 10); pays for being near (0.8, 1)."""

    action_space = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
    target = np.array([0.8, 1.0])

    def play(self, action):
        assert self.action_space.contains(action)
        error = (action - self.target) / (self.action_space.high - self.action_space.low)
        return 1.0 - 10.0 * float(np.square(error).sum()), True


class Unequal(Tiny):
    """Probe 10: env k of a run with seed 1 has a right action of its own, k, and env 2 is slow.

    Episodes have 1 + k steps; each pays 1 + k for the right action, -1 for another one.
    """

    obs_size = 3
    action_space = gym.spaces.Discrete(3)
    index = None

    def reset(self, *, seed=None, options=None):
        if self.index is None:  # an env keeps its index for the whole run, and its first seed tells it
            self.index = {episode_seed(1, env, 0): env for env in range(3)}.get(seed)
        return super().reset(seed=seed)

    def obs(self):
        obs = np.zeros(self.obs_size, np.float32)
        if self.index is not None:
            obs[self.index] = 1.0
        return obs

    def play(self, action):
        if self.index == 2:
            time.sleep(0.0005)  # a fast one takes some 10 us
        return (1.0 + self.index if action == self.index else -1.0), self.steps == self.index


class AlikeAtFirst(Tiny):
    """Probe 11: four steps, of which the first two look alike; only the last one pays, 1.

    The values of the last two states are gamma and 1, whatever lambda is. For the other two it matters, since
    one cannot tell them apart: the mean of their returns with lambda 1, the fixed point of one-step targets
    with lambda 0.
    """

    obs_size = 3

    def obs(self):
        return np.eye(3, dtype=np.float32)[max(0, min(self.steps, 3) - 1)]

    def play(self, action):
        return float(self.steps == 3), self.steps == 3


class Shifted(Tiny):
    """Probe 13: four steps, a cue of +-1 in each, and pay for the action that fits it, +-1.

    Seen through bad instruments: all observations are shifted, all rewards in another unit.
    """

    action_space = gym.spaces.Discrete(2)

    def __init__(self, unit=1.0, offset=0.0):
        super().__init__()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.unit, self.offset = unit, offset

    def sign(self):
        return (self.cue >> self.steps) % 2 * 2.0 - 1.0

    def obs(self):
        return np.array([self.offset + self.sign()], np.float32)

    def play(self, action):
        return self.unit * self.sign() * (2.0 * action - 1.0), self.steps == 3
