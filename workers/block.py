"""A block of envs stepped one after the other: what a worker process hosts, and the inline pool too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from workers.envs import AnyEnv, EnvFactory
from workers.errors import USER_ERRORS, EnvFailure, describe
from workers.pool import TERMINATED, TRUNCATED
from workers.rows import RowCodec, RowError
from workers.slab import Array, Slab

_MAX_REWARD = float(np.finfo(np.float32).max)


class EnvBlock:
    """Envs that read their actions from, and write their answers to, the rows of a slab.

    Every value is checked (`workers.rows`): nothing that an env returns is changed without a word.

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
        self._codec = RowCodec(factory.observation_space)
        self._obs = self._codec.columns(slab.obs)
        self._next_obs = self._codec.columns(slab.next_obs)
        plain = self._codec.plain
        # What an array needs no closer look with; no array is an element of a composite space.
        self._dtype = None if plain is None else plain.dtype
        self._shape = None if plain is None else plain.shape
        self._actions = RowCodec(factory.action_space)
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
            self._fail(row, f"its constructor raised {describe(error)}", error)
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
            self._start_episode(row, seed, self._obs)
        self._require(rows, self._obs)

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
        actions = self._actions.read(slab.action[index])
        rewards: list[Any] = []
        flags: list[int] = []
        for row, action in zip(rows, actions, strict=True):
            steps[row] += 1
            try:
                obs, reward, terminated, truncated, _ = envs[row].step(action)
                flags.append((TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0))
            except USER_ERRORS as error:  # the env is the user's code
                self._fail(row, f"step({action!r}) raised {describe(error)}", error)
            # What is usual is told at once, and only the rest looked at more closely: this is the hot path.
            if type(obs) is np.ndarray and obs.dtype is self._dtype and obs.shape == self._shape:
                slab.obs[row] = obs
            else:
                self._write_obs(row, obs, self._obs)
            if not (type(reward) is float and -_MAX_REWARD <= reward <= _MAX_REWARD):  # NaN fails both
                reward = self._checked_reward(row, reward)
            rewards.append(reward)
        slab.reward[index] = rewards
        slab.flags[index] = flags
        if not self._codec.is_valid(self._obs, index):  # for all rows: it costs as much as for one
            self._require(rows, self._obs)
        if next_seeds is not None and any(flags):
            ended = [(row, seed) for row, seed, flag in zip(rows, next_seeds, flags, strict=True) if flag]
            for row, seed in ended:
                self._start_episode(row, seed, self._next_obs)
            self._require([row for row, _ in ended], self._next_obs)

    def _start_episode(self, row: int, seed: int, columns: Sequence[Array]) -> None:
        self._episode[row] += 1
        self._steps[row] = 0
        try:
            obs, _ = self._envs[row].reset(seed=seed)
        except USER_ERRORS as error:  # the env is the user's code
            self._fail(row, f"reset(seed={seed}) raised {describe(error)}", error)
        self._write_obs(row, obs, columns)

    def close(self) -> None:
        """Close every env; what an env raises then is of no consequence."""
        for env in self._envs:
            try:
                env.close()
            except USER_ERRORS:  # the process or the run ends here anyway
                pass
        self._envs.clear()

    def _write_obs(self, row: int, obs: Any, columns: Sequence[Array]) -> None:
        try:
            self._codec.write(obs, columns, row)
        except RowError as error:
            self._fail(row, f"returned {error}", error)

    def _checked_reward(self, row: int, reward: Any) -> float:
        try:
            value = float(reward)
        except (TypeError, ValueError) as error:
            self._fail(row, f"returned the reward {reward!r}, which is not a number", error)
        if not -_MAX_REWARD <= value <= _MAX_REWARD:  # NaN fails both
            self._fail(row, f"returned the reward {value}, which is not a finite float32")
        return value

    def _require(self, rows: Sequence[int], columns: Sequence[Array]) -> None:
        for row in rows:
            try:
                self._codec.check(columns, row)
            except RowError as error:
                self._fail(row, f"returned {error}", error)

    def _fail(self, row: int, what: str, cause: BaseException | None = None) -> NoReturn:
        where = f"env {self._first_env + row}"
        if self._episode[row] >= 0:
            where += f", episode {self._episode[row]}, step {self._steps[row]}"
        raise EnvFailure(f"{where}: {what}") from cause
