"""Envs that lack one thing each that training, repeating or recovering relies on."""

import os
import random
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np

from workers.testing import FaultWrapper, ProbeEnv


class Plain(gym.Env):
    """A function of its seed and actions; subclasses add something to its observations."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.obs(0), {}

    def step(self, action):
        self.steps += 1
        return self.obs(action), 1.0, self.steps == 30, False, {}

    def obs(self, action):
        return np.array([self.np_random.uniform(), action, self.extra()], np.float32)

    def extra(self):
        return 0.0


class Unseeded(Plain):
    def __init__(self):
        super().__init__()
        self.own = np.random.default_rng()

    def extra(self):
        return self.own.uniform()


class NumpyGlobal(Plain):
    def extra(self):
        return np.random.uniform()  # noqa: NPY002


class PythonGlobalLate(Plain):
    """Begins to draw in its 26th step."""

    def extra(self):
        return random.random() if self.steps > 25 else 0.0


class ConstructorGlobal(Plain):
    def __init__(self):
        super().__init__()
        self.level = np.random.uniform()  # noqa: NPY002

    def extra(self):
        return self.level


class Remembers(Plain):
    """Its episodes are counted in what it shows: something outlives reset."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def extra(self):
        return self.episodes if self.steps > 4 else 0.0


class Process(Plain):
    """Depends on the process that it is in."""

    def extra(self):
        return os.getpid()


class Starts(Plain):
    """Starts a thread and a process, and leaves the working directory."""

    def __init__(self):
        super().__init__()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os.chdir("/")

    def close(self):
        self.child.kill()
        self.child.wait()


class Picky(Plain):
    """Ends its process at a seed that Gymnasium's checker takes."""

    def reset(self, *, seed=None, options=None):
        if seed == 123:
            os._exit(5)
        return super().reset(seed=seed)


class Masked(gym.Env):
    """Raises at an illegal action; its observation says which are legal."""

    observation_space = gym.spaces.Dict(
        at=gym.spaces.Discrete(4), action_mask=gym.spaces.MultiBinary(2 + 3 + 4)
    )
    action_space = gym.spaces.Dict(
        a=gym.spaces.Discrete(2, start=5), b=gym.spaces.MultiDiscrete([3]), c=gym.spaces.MultiBinary(2)
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.obs(), {}

    def obs(self):
        at = int(self.np_random.integers(4))
        self.legal = {"a": 5 + at % 2, "b": [at % 3], "c": [at % 2, 1]}
        mask = np.zeros(9, np.int8)
        mask[[at % 2, 2 + at % 3, 5 + at % 2, 8]] = 1
        return {"at": at, "action_mask": mask}

    def step(self, action):
        if {key: np.asarray(value).tolist() for key, value in action.items()} != self.legal:
            raise ValueError(f"illegal: {action}")
        return self.obs(), 0.0, False, False, {}


def faulty(fault, **where):
    return FaultWrapper(ProbeEnv(), fault, **where)


for _kind in (
    Plain,
    Unseeded,
    NumpyGlobal,
    PythonGlobalLate,
    ConstructorGlobal,
    Remembers,
    Process,
    Starts,
    Picky,
    Masked,
):
    gym.register(f"doctor/{_kind.__name__}-v0", _kind, max_episode_steps=40)
gym.register("doctor/Endless-v0", Plain)
gym.register("doctor/Faulty-v0", faulty, max_episode_steps=40)
