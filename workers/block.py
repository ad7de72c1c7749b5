"""A block of envs stepped one after the other: what a worker process hosts, and the inline pool too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from workers.arrays import Array
from workers.envs import EnvFactory
from workers.errors import USER_ERRORS, EnvFailure, describe, shown
from workers.global_random import GloballySeededEnv, seeded_globally
from workers.pool import TERMINATED, TRUNCATED
from workers.returns import (
    BOOLS,
    MAX_REWARD,
    ReturnError,
    api_error,
    flag_of,
    reset_values,
    reward_of,
    step_values,
)
from workers.rows import RowCodec, RowError
from workers.slab import Slab


class EnvBlock:
    """Envs that read their actions from, and write their answers to, the rows of a slab.

    Every value is checked (`workers.rows`, `workers.returns`): no value of an env is changed silently.

    Args:
        factory: builds each env.
        first_env: index of the env in row 0.
        slab: one row per env of the block.
        on_built: called with the number of envs that have been built, after each of them.
        before_use: called before the global generators are seeded for an env (see `workers.global_random`).

    Raises:
        EnvFailure: an env cannot be built, or has other spaces than the factory says.
    """

    def __init__(
        self,
        factory: EnvFactory,
        first_env: int,
        slab: Slab,
        *,
        on_built: Callable[[int], None] | None = None,
        before_use: Callable[[], None] | None = None,
    ) -> None:
        self._slab = slab
        self._first_env = first_env
        self._episode = [-1] * len(slab)
        self._steps = [0] * len(slab)
        self._codec = RowCodec(factory.observation_space)
        self._obs = self._codec.columns(slab.obs)
        self._next_obs = self._codec.columns(slab.next_obs)
        plain = self._codec.plain
        # An array of this dtype and shape is copied without further checks. None for composite spaces.
        self._dtype = None if plain is None else plain.dtype
        self._shape = None if plain is None else plain.shape
        self._actions = RowCodec(factory.action_space)
        self._before_use = before_use
        self._envs: list[GloballySeededEnv] = []
        try:
            for row in range(len(slab)):
                self._build(factory, row)
                if on_built is not None:
                    on_built(row + 1)
        except BaseException:
            self.close()  # the envs built so far are known only here
            raise

    def _build(self, factory: EnvFactory, row: int) -> None:
        try:
            with seeded_globally(self._first_env + row):
                env = factory.build()
        except USER_ERRORS as error:  # the env's constructor is the user's code
            self._fail(row, f"its constructor raised {describe(error)}", error)
        self._envs.append(GloballySeededEnv(env, self._before_use))
        for kind in ("observation_space", "action_space"):
            expected, found = getattr(factory, kind), getattr(env, kind)
            if found != expected:
                self._fail(row, f"its {kind} is {found}, but the first env has {expected}")

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Start an episode in each row; writes the first observations.

        Raises:
            EnvFailure: an env raised, or returned something that is not valid.
        """
        for row, seed in zip(rows, seeds, strict=True):
            self._slab.reward[row] = 0.0
            self._slab.flags[row] = 0
            self._start_episode(row, seed, self._obs)
        self._require(rows, self._obs)

    def step(self, rows: Sequence[int], next_seeds: Sequence[int] | None = None) -> None:
        """Take one step in each row with the action that lies there; writes the results.

        Args:
            rows: of the envs that step.
            next_seeds: one per row; where an episode ends, the next one starts with its seed. None starts
                nothing.

        Raises:
            EnvFailure: an env raised, or returned something that is not valid.
        """
        slab = self._slab
        # A slice, where it says the same, is several times faster than a list.
        index = slice(None) if len(rows) == len(slab) else np.asarray(rows, np.intp)
        actions = self._actions.read(slab.action[index])
        rewards, flags = self._step_envs(rows, actions)
        slab.reward[index] = rewards
        slab.flags[index] = flags
        if not self._codec.is_valid(self._obs, index):  # for all rows: it costs as much as for one
            self._require(rows, self._obs)
        if next_seeds is not None and any(flags):
            ended = [(row, seed) for row, seed, flag in zip(rows, next_seeds, flags, strict=True) if flag]
            for row, seed in ended:
                self._start_episode(row, seed, self._next_obs)
            self._require([row for row, _ in ended], self._next_obs)

    def _step_envs(
        self, rows: Sequence[int], actions: Sequence[Any] | Array
    ) -> tuple[list[float], list[int]]:
        """Step each env and write its observation; rewards and flags of all."""
        slab_obs, envs, steps = self._slab.obs, self._envs, self._steps
        rewards: list[float] = []
        flags: list[int] = []
        row = -1
        returned: Sequence[Any]
        try:
            for row, action in zip(rows, actions, strict=True):
                steps[row] += 1
                try:
                    returned = envs[row].step(action)
                except USER_ERRORS as error:  # the env is the user's code
                    self._fail_call(row, f"step({shown(action)})", error)
                # The hot path: the usual types are recognised at once, only others are looked at closely.
                if type(returned) is not tuple or len(returned) != 5:
                    returned = step_values(returned)
                obs, reward, terminated, truncated, _ = returned
                if terminated is False and truncated is False:
                    flags.append(0)
                else:
                    if type(terminated) not in BOOLS or type(truncated) not in BOOLS:
                        terminated = flag_of(terminated, "terminated")
                        truncated = flag_of(truncated, "truncated")
                    flags.append((TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0))
                if type(obs) is np.ndarray and obs.dtype is self._dtype and obs.shape == self._shape:
                    slab_obs[row] = obs
                else:
                    self._codec.write(obs, self._obs, row)
                if not (type(reward) is float and -MAX_REWARD <= reward <= MAX_REWARD):  # NaN fails both
                    reward = reward_of(reward)
                rewards.append(reward)
        except (ReturnError, RowError) as error:
            self._fail_value(row, error)
        return rewards, flags

    def _start_episode(self, row: int, seed: int, columns: Sequence[Array]) -> None:
        self._episode[row] += 1
        self._steps[row] = 0
        try:
            obs, _ = reset_values(self._envs[row].reset(seed=seed))
        except USER_ERRORS as error:  # the env is the user's code
            self._fail_call(row, f"reset(seed={seed})", error)
        try:
            self._codec.write(obs, columns, row)
        except RowError as error:
            self._fail_value(row, error)

    def close(self) -> None:
        """Close every env; what an env raises then is of no consequence."""
        for env in self._envs:
            try:
                env.close()
            except USER_ERRORS:  # the process or the run ends here anyway
                pass
        self._envs.clear()

    def _require(self, rows: Sequence[int], columns: Sequence[Array]) -> None:
        for row in rows:
            try:
                self._codec.check(columns, row)
            except RowError as error:
                self._fail_value(row, error)

    def _fail_value(self, row: int, error: ReturnError | RowError) -> NoReturn:
        """Fail for a value; without a cause, since no traceback would lead to the env's code."""
        self._fail(row, f"returned {error}" if isinstance(error, RowError) else str(error))

    def _fail_call(self, row: int, call: str, error: BaseException) -> NoReturn:
        """Fail for an exception of `reset` or `step`: the env's own, or one that tells of a wrong API."""
        if (problem := api_error(error)) is not None:
            self._fail(row, str(problem))
        self._fail(row, f"{call} raised {describe(error)}", error)

    def _fail(self, row: int, what: str, cause: BaseException | None = None) -> NoReturn:
        where = f"env {self._first_env + row}"
        if self._episode[row] >= 0:
            where += f", episode {self._episode[row]}, step {self._steps[row]}"
        raise EnvFailure(" ".join(f"{where}: {what}".split())) from cause  # spaces print in several lines
