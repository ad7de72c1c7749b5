"""Envs that show what adapters have to carry, and a strict comparison. Torch-free: workers import this."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Talker(gym.Env):
    """Random episodes and infos of every kind. `length` bounds its episodes."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium's own envs have it

    def __init__(self, length=6, render_mode=None):
        self.observation_space = spaces.Box(-9, 9, (3,), np.float32)
        self.action_space = spaces.Discrete(4)
        self.length = length
        self.render_mode = render_mode
        self.seen_options = []
        self._buffer = np.zeros(2)
        self._unpicklable = lambda: None

    def _obs(self):
        return self.np_random.uniform(-9, 9, 3).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen_options.append(options)
        self._left = int(self.np_random.integers(1, self.length + 1))
        return self._obs(), {"start": self._left, "who": {"length": self.length}}

    def step(self, action):
        self._left -= 1
        draw = self.np_random.random()
        self._buffer[:] = draw, action  # the same array in every info
        info = {
            "count": self._left,
            "speed": np.float64(draw),
            "small": np.float32(draw),
            "flag": bool(draw > 0.5),
            "numpy_flag": np.bool_(draw > 0.5),
            "text": f"action {action}",
            "array": self._buffer,
            "nested": {"inner": {"draw": draw}, "nothing": {}, "list": [1, 2.5, None]},
        }
        if draw > 0.8:
            info["rare"] = np.int64(action)
        if draw < 0.3:
            info = {}
        return self._obs(), float(draw), self._left == 0, draw > 0.95, info

    def render(self):
        return np.full((2, 2, 3), self.length, np.uint8)

    def add(self, one, two=0):
        return self.length + one + two

    def fail(self, kind=ValueError):
        raise kind("it was asked to")

    def make_object(self):
        return Custom()


class Custom:
    """No plain data."""


class CustomError(Exception):
    pass


class Composite(gym.Env):
    """Nested Dict and Tuple observations and actions; the observation shows the action."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            b=spaces.Tuple([spaces.Discrete(5), spaces.Box(-1, 1, (2,), np.float64)]),
            a=spaces.MultiDiscrete([3, 4]),
            c=spaces.Dict(z=spaces.MultiBinary(3), y=spaces.Box(0, 255, (2, 2), np.uint8)),
        )
        self.action_space = spaces.Dict(
            move=spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)]),
            bits=spaces.MultiBinary(3),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._kind, self._bits = 0, np.zeros(3, np.int8)
        return self._obs(np.zeros(2)), {}

    def _obs(self, pair):
        return {
            "a": np.array([self._kind, 1]),
            "b": (self._kind, np.asarray(pair, np.float64)),
            "c": {"y": self.np_random.integers(0, 256, (2, 2), np.uint8), "z": self._bits},
        }

    def step(self, action):
        move, self._kind = action["move"][0], int(action["move"][1])
        self._bits = action["bits"].copy()
        ended = bool(self.np_random.random() < 0.1)
        return self._obs(move), 0.1 * self._kind, ended, False, {"kind": self._kind}


class Pair(gym.Env):
    """Tuple observations and actions; the observation shows the action."""

    observation_space = spaces.Tuple([spaces.Discrete(7), spaces.Box(-1, 1, (2,), np.float32)])
    action_space = spaces.Tuple([spaces.Discrete(7), spaces.Box(-1, 1, (2,), np.float32)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return (int(self.np_random.integers(7)), np.zeros(2, np.float32)), {"pair": True}

    def step(self, action):
        draw = self.np_random.random()
        return (int(action[0]), action[1]), float(draw), bool(draw < 0.1), bool(draw > 0.95), {"draw": draw}


class Breaks(Talker):
    """Raises in step when its action is 3."""

    def step(self, action):
        if action == 3:
            raise RuntimeError("it broke")
        return super().step(action)


def assert_same(expected, found, path=""):
    """Types, dtypes, shapes and every bit agree. Wall times, which infos call "t", may differ."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), path
        assert expected.keys() == found.keys(), path
        for key in expected:
            if not (path.endswith("['episode']") and key == "t"):
                assert_same(expected[key], found[key], f"{path}[{key!r}]")
    elif isinstance(expected, tuple | list):
        assert type(expected) is type(found), path
        assert len(expected) == len(found), path
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert_same(one, other, f"{path}[{index}]")
    elif isinstance(expected, np.ndarray) and expected.dtype != object:
        assert isinstance(found, np.ndarray), path
        assert (expected.dtype, expected.shape) == (found.dtype, found.shape), path
        assert expected.tobytes() == found.tobytes(), path
    elif isinstance(expected, np.ndarray):
        assert_same(expected.tolist(), found.tolist(), path)
    else:
        assert type(expected) is type(found), path
        assert expected == found, path
