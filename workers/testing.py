"""Envs for tests: one that certifies every row it returns, and a wrapper that breaks at a chosen place.

An env of a pool does not know its index, but it knows the seed that it is reset with, and seeds are
distinct (`workers.seeding`): a fault names its env and episode by their seed.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np

from workers.arrays import Array
from workers.envs import AnyEnv
from workers.rows import pack

Stage: TypeAlias = Literal["init", "reset", "step", "close"]


def probe_obs(
    seed: int, actions: Sequence[Any] = (), shape: tuple[int, ...] = (8,), dtype: str = "float32"
) -> Array:
    """What `ProbeEnv` shows after `actions` in the episode of `seed`: no two histories look alike.

    Eight numbers from 0 to 255, exact in every dtype (the bytes of seed u32, step u16 and a digest of
    the actions u16), repeated until `shape` is full.
    """
    digest = zlib.crc32(b"".join(np.asarray(action).tobytes() for action in actions)) & 0xFFFF
    code = struct.pack("<IHH", seed, len(actions), digest)
    return np.resize(np.frombuffer(code, np.uint8), shape).astype(dtype)


def probe_reward(obs: Array, action: Any) -> float:
    """The reward of `action` in `obs`: a hash of both, exact in float32. Certifies a row of the store."""
    return zlib.crc32(obs.tobytes() + np.asarray(action).tobytes()) % 2**16 / 256.0


def probe_length(seed: int, shortest: int = 3, longest: int = 12) -> int:
    """The number of steps in the episode of `seed`. Even seeds end terminated, odd ones truncated."""
    return shortest + seed % (longest - shortest + 1)


class ProbeEnv(gym.Env[Array, Any]):
    """A function of its seed and actions, with which a test can verify every row that reaches it.

    See `probe_obs`, `probe_reward` and `probe_length`. Discrete(5) actions, or a Box of two float32.

    Raises:
        RuntimeError: a step before the first reset or after the end of an episode.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...] = (8,),
        dtype: str = "float32",
        box_action: bool = False,
        shortest: int = 3,
        longest: int = 12,
    ) -> None:
        self.observation_space = gym.spaces.Box(0, 255, shape, np.dtype(dtype).type)
        self.action_space = (
            gym.spaces.Box(-2.0, 2.0, (2,), np.float32) if box_action else gym.spaces.Discrete(5)
        )
        self._shape, self._dtype, self._lengths = shape, dtype, (shortest, longest)
        self._seed = 0
        self._actions: list[Any] | None = None
        self._obs = probe_obs(0, (), shape, dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """See `gymnasium.Env.reset`; a seed is required."""
        super().reset(seed=seed, options=options)
        if seed is None:
            raise ValueError("ProbeEnv needs a seed")
        self._seed, self._actions = seed, []
        self._obs = probe_obs(seed, (), self._shape, self._dtype)
        return self._obs, {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`. Keeps the action: it is part of all later observations."""
        if self._actions is None:
            raise RuntimeError("step without an episode")
        self._actions.append(action)
        reward = probe_reward(self._obs, action)
        self._obs = probe_obs(self._seed, self._actions, self._shape, self._dtype)
        ended = len(self._actions) == probe_length(self._seed, *self._lengths)
        even = self._seed % 2 == 0
        if ended:
            self._actions = None
        return self._obs, reward, ended and even, ended and not even, {}


class BusyEnv(gym.Env[Array, Any]):
    """Computes for a given time in each step: for measurements of what workers are worth.

    Time of this thread on a CPU, so steps take longer if other processes use the same core. Episodes have 100
    steps, then they are truncated.

    Args:
        milliseconds: of each step.
    """

    def __init__(self, milliseconds: float = 1.0) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._seconds = milliseconds / 1000.0
        self._obs = np.zeros(4, np.float32)
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """See `gymnasium.Env.reset`. Takes no time."""
        super().reset(seed=seed, options=options)
        self._step = 0
        return self._obs, {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        self._step += 1
        return self._obs, float(action), False, self._step == 100, {}


def composite_of(code: Array) -> dict[str, Any]:
    """What `CompositeProbe` shows: the same eight numbers, in leaves of many kinds.

    Args:
        code: u8[8], of `probe_obs`.
    """
    bits = np.unpackbits(code)
    return {
        "code": code,
        "parts": (
            np.resize(code, (2, 3)).astype(np.float64) / 256,
            int(code[0]),
            {"bits": bits[:6].reshape(2, 3).astype(np.int8), "bools": bits[6:9].astype(np.bool_)},
        ),
        "pair": code[:2].astype(np.int64),
    }


class CompositeProbe(gym.Wrapper[Any, Any, Any, Any]):
    """A `ProbeEnv` whose observations and actions are nested, and as verifiable.

    It acts on the packed action; see `composite_of` for observations. The reward is `probe_reward` of both
    rows.

    Raises:
        TypeError: an action is not made as Gymnasium makes it.
    """

    def __init__(self) -> None:
        super().__init__(ProbeEnv(dtype="uint8"))
        spaces = gym.spaces
        inner = spaces.Dict(bits=spaces.MultiBinary((2, 3)), bools=spaces.Box(0, 1, (3,), np.bool_))
        parts = spaces.Tuple([spaces.Box(0.0, 1.0, (2, 3), np.float64), spaces.Discrete(256), inner])
        code = spaces.Box(0, 255, (8,), np.uint8)
        self.observation_space = spaces.Dict(code=code, parts=parts, pair=spaces.MultiDiscrete([256, 256]))
        move = spaces.Tuple([spaces.Box(-2.0, 2.0, (2,), np.float32), spaces.MultiDiscrete([3, 4])])
        self.action_space = spaces.Dict(kind=spaces.Discrete(5), move=move)
        self._row = np.zeros(0, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        code, info = self.env.reset(seed=seed, options=options)
        return self._shown(code), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        if type(action["kind"]) is not int or not self.action_space.contains(action):
            raise TypeError(f"not an action: {action!r}")
        row = pack(self.action_space, action)
        reward = probe_reward(self._row, row)
        code, _, terminated, truncated, info = self.env.step(row)
        return self._shown(code), reward, terminated, truncated, info

    def _shown(self, code: Array) -> dict[str, Any]:
        obs = composite_of(code)
        self._row = pack(self.observation_space, obs)
        return obs


class AwkwardError(Exception):
    """Takes two arguments and holds a lock: cannot be pickled, and could not be rebuilt if it were."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")
        self.lock = threading.Lock()


def _raise(error: BaseException) -> None:
    raise error


_ACTIONS_OF_FAULTS: Mapping[str, Callable[[], object]] = MappingProxyType(
    {
        "raise": lambda: _raise(ValueError("boom")),
        "raise_awkward": lambda: _raise(AwkwardError("left", "right")),
        "system_exit": lambda: _raise(SystemExit(3)),
        "os_exit": lambda: os._exit(7),
        "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "sigstop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "hang": lambda: threading.Event().wait(),
        "hang_gil": lambda: ctypes.PyDLL(None).pause(),  # PyDLL keeps the GIL: no thread can help
        "slow": lambda: threading.Event().wait(0.3),
    }
)
_BAD_OBS: Mapping[str, Callable[[Array], Any]] = MappingProxyType(
    {
        "obs_short": lambda obs: obs[:-1],
        "obs_size_one": lambda obs: obs.ravel()[:1],  # NumPy would broadcast it
        "obs_300": lambda obs: obs.astype(np.int64) + 300,  # NumPy would wrap it in a uint8
        "obs_complex": lambda obs: obs.astype(np.complex128),
        "obs_object": lambda obs: np.full(obs.shape, None),
        "obs_ragged": lambda obs: [obs, obs[:-1]],
        "obs_dict": lambda obs: {"obs": obs},
        "obs_none": lambda obs: None,
        "obs_nan": lambda obs: np.where(np.arange(obs.size) == 3, np.nan, obs.ravel()).reshape(obs.shape),
        "obs_inf": lambda obs: np.full(obs.shape, -np.inf),
    }
)
_BAD_REWARD: Mapping[str, Any] = MappingProxyType(
    {
        "reward_none": None,
        "reward_nan": math.nan,
        "reward_inf": math.inf,
        "reward_huge": 1e39,  # finite, but not as float32
        "reward_text": "much",
        "reward_list": [1.0, 2.0],
    }
)


class FaultWrapper(gym.Wrapper[Array, Any, Array, Any]):
    """Breaks at a chosen place.

    Args:
        env: any env.
        fault: a key of one of the three tables above: something done, or a value returned instead.
        stage: the call in which it happens.
        at_step: in stage "step", the step of the episode, counted from 1.
        seed: the episode in which it happens; None is every episode. "init" has none, nor has "close".
        once: path of a file that is made when the fault happens; it does not happen if the file exists.
        announce: path to which the fault writes this process's id in a line just before it happens; with
            a FIFO a test can wait for it.
    """

    def __init__(
        self,
        env: AnyEnv,
        fault: str,
        *,
        stage: Stage = "step",
        at_step: int = 1,
        seed: int | None = None,
        once: str | None = None,
        announce: str | None = None,
    ) -> None:
        if fault not in {*_ACTIONS_OF_FAULTS, *_BAD_OBS, *_BAD_REWARD}:
            raise KeyError(fault)
        super().__init__(env)
        self._fault, self._stage, self._at_step = fault, stage, at_step
        self._seed, self._once, self._announce = seed, once, announce
        self._armed = False
        self._step = 0
        if stage == "init":
            self._trigger()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """See `gymnasium.Env.reset`. A fault of stage "reset" happens before the env is reset."""
        self._armed = self._seed in (None, seed)
        self._step = 0
        happens = self._stage == "reset" and self._armed and self._trigger()
        obs, info = self.env.reset(seed=seed, options=options)
        return (self._corrupted(obs) if happens else obs), info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`. A fault of stage "step" happens before the env steps."""
        self._step += 1
        happens = self._stage == "step" and self._armed and self._step == self._at_step and self._trigger()
        obs, reward, terminated, truncated, info = self.env.step(action)
        if happens:
            obs, reward = self._corrupted(obs), _BAD_REWARD.get(self._fault, reward)
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        """See `gymnasium.Env.close`."""
        if self._stage == "close":
            self._trigger()
        self.env.close()

    def _trigger(self) -> bool:
        """Trigger the fault. Returns whether it applies."""
        if self._once is not None:
            try:
                os.close(os.open(self._once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
        if self._announce is not None:
            with open(self._announce, "a", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        action = _ACTIONS_OF_FAULTS.get(self._fault)
        if action is not None:
            action()
        return True

    def _corrupted(self, obs: Array) -> Any:
        spoil = _BAD_OBS.get(self._fault)
        return obs if spoil is None else spoil(obs)
