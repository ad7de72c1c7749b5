"""A block of envs stepped one after the other: what a worker process hosts, and the inline pool too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from workers.envs import AnyEnv, EnvFactory
from workers.errors import USER_ERRORS, EnvFailure
from workers.protocol import TERMINATED, TRUNCATED
from workers.slab import Array, Slab

_MAX_REWARD = float(np.finfo(np.float32).max)


class EnvBlock:
    """Envs that read their actions from, and write their answers to, the rows of a slab.

    Every value is checked before it is written: NumPy would broadcast a size-1 observation and wrap
    300 to the uint8 44 without a word.

    Args:
        factory: builds each env.
        first_env: index of the env in row 0.
        slab: one row per env of the block.

    Raises:
        EnvFailure: an env cannot be built, or has other spaces than the factory says.
    """

    def __init__(self, factory: EnvFactory, first_env: int, slab: Slab) -> None:
        self._slab = slab
        self._first_env = first_env
        self._episode = [-1] * len(slab)
        self._steps = [0] * len(slab)
        self._dtype = slab.obs.dtype
        self._shape = slab.obs.shape[1:]
        self._check_finite = np.issubdtype(self._dtype, np.floating)
        self._discrete = isinstance(factory.action_space, gym.spaces.Discrete)
        self._envs: list[AnyEnv] = []
        try:
            for row in range(len(slab)):
                self._build(factory, row)
        except BaseException:
            self.close()  # nobody else knows the envs that were built before
            raise

    def _build(self, factory: EnvFactory, row: int) -> None:
        try:
            env = factory.build()
        except USER_ERRORS as error:  # the env's constructor is the user's code
            self._fail(row, f"its constructor raised {_describe(error)}", error)
        self._envs.append(env)
        for kind in ("observation_space", "action_space"):
            expected, found = getattr(factory, kind), getattr(env, kind)
            if found != expected:
                self._fail(row, f"its {kind} is {found}, but the first env has {expected}")

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Start an episode in each row; writes the first observations."""
        for row, seed in zip(rows, seeds, strict=True):
            self._slab.reward[row] = 0.0
            self._slab.flags[row] = 0
            self._start_episode(row, seed, self._slab.obs)
        self._require_finite(rows, self._slab.obs)

    def step(self, rows: Sequence[int], next_seeds: Sequence[int] | None = None) -> None:
        """Take one step in each row with the action that lies there; writes what came of it.

        Args:
            rows: of the envs that step.
            next_seeds: as many seeds; where an episode ends, the next one starts with its seed. None starts
                nothing.
        """
        slab, envs, steps = self._slab, self._envs, self._steps
        # A slice, where it says the same, is several times faster than a list.
        index = slice(None) if len(rows) == len(slab) else np.asarray(rows, np.intp)
        # Plain ints for Discrete: every env takes them, and fewer take NumPy scalars. A copy of Box actions:
        # they belong to the learner.
        actions: Any = slab.action[index].tolist() if self._discrete else slab.action[index].copy()
        rewards: list[Any] = []
        flags: list[int] = []
        for row, action in zip(rows, actions, strict=True):
            steps[row] += 1
            try:
                obs, reward, terminated, truncated, _ = envs[row].step(action)
                flags.append((TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0))
            except USER_ERRORS as error:  # the env is the user's code
                self._fail(row, f"step({action!r}) raised {_describe(error)}", error)
            # What is usual is told at once, and only the rest looked at more closely: this is the hot path.
            if type(obs) is np.ndarray and obs.dtype is self._dtype and obs.shape == self._shape:
                slab.obs[row] = obs
            else:
                self._write_obs(row, obs, slab.obs)
            if not (type(reward) is float and -_MAX_REWARD <= reward <= _MAX_REWARD):  # NaN fails both
                reward = self._checked_reward(row, reward)
            rewards.append(reward)
        slab.reward[index] = rewards
        slab.flags[index] = flags
        if self._check_finite and not np.isfinite(slab.obs[index]).all():  # for all rows: it costs as much
            self._require_finite(rows, slab.obs)
        if next_seeds is not None and any(flags):
            ended = [(row, seed) for row, seed, flag in zip(rows, next_seeds, flags, strict=True) if flag]
            for row, seed in ended:
                self._start_episode(row, seed, slab.next_obs)
            self._require_finite([row for row, _ in ended], slab.next_obs)

    def _start_episode(self, row: int, seed: int, target: Array) -> None:
        self._episode[row] += 1
        self._steps[row] = 0
        try:
            obs, _ = self._envs[row].reset(seed=seed)
        except USER_ERRORS as error:  # the env is the user's code
            self._fail(row, f"reset(seed={seed}) raised {_describe(error)}", error)
        self._write_obs(row, obs, target)

    def close(self) -> None:
        """Close every env; what an env raises then is of no consequence."""
        for env in self._envs:
            try:
                env.close()
            except USER_ERRORS:  # the process or the run ends here anyway
                pass
        self._envs.clear()

    def _write_obs(self, row: int, obs: Any, target: Array) -> None:
        if type(obs) is not np.ndarray or obs.dtype != self._dtype:
            obs = self._converted(row, obs)
        if obs.shape != self._shape:
            self._fail(row, f"returned an observation of shape {obs.shape}, its space says {self._shape}")
        target[row] = obs

    def _converted(self, row: int, obs: Any) -> Array:
        """Lists, scalars and wider floats are taken; whatever could change a value is refused."""
        try:
            array = np.asarray(obs)
        except ValueError as error:
            self._fail(row, f"returned an observation that is no array: {_describe(error)}", error)
        if not self._takes(array):
            self._fail(row, f"returned an observation of dtype {array.dtype}, its space says {self._dtype}")
        return array

    def _takes(self, array: Array) -> bool:
        if _both(array.dtype, self._dtype, "f") or np.can_cast(array.dtype, self._dtype, "safe"):
            return True
        # A wider integer is fine as long as its values fit: envs often return int64 for int8.
        return _both(array.dtype, self._dtype, "iu") and bool((array == array.astype(self._dtype)).all())

    def _checked_reward(self, row: int, reward: Any) -> float:
        try:
            value = float(reward)
        except (TypeError, ValueError) as error:
            self._fail(row, f"returned the reward {reward!r}, which is not a number", error)
        if not -_MAX_REWARD <= value <= _MAX_REWARD:  # NaN fails both
            self._fail(row, f"returned the reward {value}, which is not a finite float32")
        return value

    def _require_finite(self, rows: Sequence[int], written: Array) -> None:
        for row in rows if self._check_finite else ():
            if not np.isfinite(written[row]).all():
                self._fail(row, f"returned an observation that is not finite: {written[row]}")

    def _fail(self, row: int, what: str, cause: BaseException | None = None) -> NoReturn:
        where = f"env {self._first_env + row}"
        if self._episode[row] >= 0:
            where += f", episode {self._episode[row]}, step {self._steps[row]}"
        raise EnvFailure(f"{where}: {what}") from cause


def _both(left: np.dtype[Any], right: np.dtype[Any], kinds: str) -> bool:
    return left.kind in kinds and right.kind in kinds


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
