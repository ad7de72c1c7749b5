"""A block of envs stepped one after the other: what a worker process hosts, and the inline pool too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np

from workers.arrays import Array
from workers.env_compare import AnyEnv
from workers.envs import EnvFactory
from workers.errors import USER_ERRORS, EnvFailure, describe, shown
from workers.failed_episode import FailedEpisode
from workers.final_infos import write_final_info
from workers.global_random import GloballySeededEnv, never_draws_globally, seeded_globally
from workers.infos import InfoRecorder, InfoTap
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
from workers.seeding import NO_SEED
from workers.slab import Slab

Options: TypeAlias = "dict[str, Any] | None"
"""Of Gymnasium's `reset`."""


class EnvBlock:
    """Envs that read their actions from, and write their answers to, the rows of a slab.

    Every value is checked (`workers.rows`, `workers.returns`): no value of an env is changed silently.

    Args:
        factory: builds each env.
        first_env: index of the env in row 0.
        slab: one row per env of the block.
        on_built: called with the number of envs that have been built, after each of them.
        before_use: called before the global generators are seeded for an env (see `workers.global_random`).

    Attributes:
        first_env: as given.

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
        self.first_env = first_env
        self._played = [False] * len(slab)  # whether they were reset before
        self._seeds = [0] * len(slab)  # of the episodes
        # The steps of an episode so far are the sum of the two: counting one is cheaper than counting all.
        self._steps = [0] * len(slab)
        self._full_steps = 0
        self._codec = RowCodec(factory.observation_space)
        self._obs = self._codec.columns(slab.obs)
        self._next_obs = self._codec.columns(slab.next_obs)
        self._targets = [slab.obs[row, ...] for row in range(len(slab))]
        self._next_targets = [slab.next_obs[row, ...] for row in range(len(slab))]
        plain = self._codec.plain
        # An array of this dtype and shape is copied without further checks. None for composite spaces.
        self._dtype = None if plain is None else plain.dtype
        self._shape = None if plain is None else plain.shape
        self._actions = RowCodec(factory.action_space)
        self._before_use = before_use
        self._envs: list[GloballySeededEnv] = []
        self._steppers: Sequence[GloballySeededEnv | InfoTap] = self._envs
        self._recorder: InfoRecorder | None = None
        try:
            for row in range(len(slab)):
                self._build(factory, row)
                if on_built is not None:
                    on_built(row + 1)
        except BaseException:
            self.close()  # the envs built so far are known only here
            raise
        # All or none: an env that draws late sees what the resets of the others have left.
        if all(never_draws_globally(env.env) for env in self._envs):
            for env in self._envs:
                env.leave_generators_alone()

    def _build(self, factory: EnvFactory, row: int) -> None:
        try:
            with seeded_globally(self.first_env + row):
                env = factory.build(self.first_env + row)
        except USER_ERRORS as error:  # the env's constructor is the user's code
            self._fail(row, f"its constructor raised {describe(error)}", error)
        self._envs.append(GloballySeededEnv(env, self._before_use))
        for kind in ("observation_space", "action_space"):
            found = getattr(env, kind)
            if not factory.has_space(kind, found):
                self._fail(row, f"its {kind} is {found}, but the first env has {getattr(factory, kind)}")

    def env(self, row: int) -> AnyEnv:
        """The env of a row, with all of its wrappers."""
        return self._envs[row].env

    def has_played(self, row: int) -> bool:
        """Whether the env of a row was reset before."""
        return self._played[row]

    def record_infos(self, recorder: InfoRecorder) -> None:
        """From now on, give the infos of resets and steps to a recorder, unless they are empty."""
        self._recorder = recorder
        self._steppers = [InfoTap(env, row, recorder) for row, env in enumerate(self._envs)]

    def reset(
        self, rows: Sequence[int], seeds: Sequence[int], options: Sequence[Options] | None = None
    ) -> None:
        """Start an episode in each row; writes the first observations.

        Args:
            rows: of the envs.
            seeds: one per row; `NO_SEED` for none.
            options: of Gymnasium's `reset`, one per row.

        Raises:
            EnvFailure: an env raised, or returned something that is not valid.
        """
        for index, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            self._slab.reward[row] = 0.0
            self._slab.flags[row] = 0
            its_options = None if options is None else options[index]
            self._start_episode(row, seed, self._obs, self._targets, its_options)
        self._require(rows, self._obs)

    def step(self, rows: Sequence[int], next_seeds: Sequence[int] | None = None) -> None:
        """Take one step in each row with the action that lies there; writes the results.

        Args:
            rows: of the envs that step.
            next_seeds: one per row; where an episode ends, the next one starts with its seed (`NO_SEED`:
                without one). None starts nothing.

        Raises:
            EnvFailure: an env raised, or returned something that is not valid.
        """
        slab = self._slab
        if len(rows) == len(self._envs):
            # A slice, and whole lists, where they say the same, are several times faster than indices.
            self._full_steps += 1
            index: slice | Array = slice(None)
            envs, targets = self._steppers, self._targets
        else:
            for row in rows:
                self._steps[row] += 1
            index = np.asarray(rows, np.intp)
            envs, targets = [self._steppers[row] for row in rows], [self._targets[row] for row in rows]
        rewards, ended = self._step_envs(rows, envs, self._actions.read(slab.action[index]), targets)
        slab.reward[index] = rewards
        slab.flags[index] = 0
        for position, flags in ended:
            slab.flags[rows[position]] = flags
        if not self._codec.is_valid(self._obs, index):  # for all rows: it costs as much as for one
            self._require(rows, self._obs)
        if next_seeds is not None and ended:
            for position, _ in ended:
                self._start_episode(rows[position], next_seeds[position], self._next_obs, self._next_targets)
            self._require([rows[position] for position, _ in ended], self._next_obs)

    def _step_envs(
        self,
        rows: Sequence[int],
        envs: Sequence[GloballySeededEnv | InfoTap],
        actions: Sequence[Any] | Array,
        targets: Sequence[Array],
    ) -> tuple[list[float], list[tuple[int, int]]]:
        """Step each env and write its observation.

        Returns:
            The reward of each row; (position in `rows`, flags) of those whose episode has ended.
        """
        # The hot path: the usual types are recognised at once, only others are looked at closely. Names are
        # local, since after the env's own code a look-up in a module or an object takes as long as a check.
        array_type, scalar_type, dtype, shape = np.ndarray, np.float64, self._dtype, self._shape
        low, high, slab = -MAX_REWARD, MAX_REWARD, self._slab
        rewards: list[float] = []
        ended: list[tuple[int, int]] = []
        returned: Sequence[Any]
        try:
            for env, action, target in zip(envs, actions, targets, strict=True):
                try:
                    returned = env.step(action)
                except USER_ERRORS as error:  # the env is the user's code
                    self._fail_call(rows[len(rewards)], f"step({shown(action)})", error)
                if type(returned) is not tuple or len(returned) != 5:
                    returned = step_values(returned)
                obs, reward, terminated, truncated, info = returned
                if not (terminated is False and truncated is False) and (
                    flags := _flags_of(terminated, truncated)
                ):
                    ended.append((len(rewards), flags))
                    if slab.info_columns:
                        write_final_info(slab.info_columns, info, slab.final_info, rows[len(rewards)])
                # An array that was pickled has a dtype that equals NumPy's own, but is another object.
                if (
                    type(obs) is array_type
                    and (obs.dtype is dtype or obs.dtype == dtype)
                    and obs.shape == shape
                ):
                    target[...] = obs
                else:
                    self._codec.write(obs, self._obs, rows[len(rewards)])
                number = float(reward) if type(reward) is scalar_type else reward
                if not (type(number) is float and low <= number <= high):  # NaN fails both
                    number = reward_of(reward)
                rewards.append(number)
        except (ReturnError, RowError) as error:
            self._fail_value(rows[len(rewards)], error)
        return rewards, ended

    def _start_episode(
        self,
        row: int,
        seed: int,
        columns: Sequence[Array],
        targets: Sequence[Array],
        options: Options = None,
    ) -> None:
        self._played[row] = True
        self._seeds[row] = seed
        self._steps[row] = -self._full_steps
        asked = None if seed == NO_SEED else seed
        try:
            if options is None:
                returned = self._envs[row].reset(seed=asked)
            else:
                returned = self._envs[row].reset(seed=asked, options=options)
            obs, info = reset_values(returned)
            if info and self._recorder is not None:
                self._recorder.record(row, info, restarted=columns is self._next_obs)
        except USER_ERRORS as error:  # the env is the user's code
            self._fail_call(row, f"reset(seed={asked})", error)
        if type(obs) is np.ndarray and obs.dtype == self._dtype and obs.shape == self._shape:
            targets[row][...] = obs
            return
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
        env, steps = self.first_env + row, self._steps[row] + self._full_steps
        where = f"env {env}"
        if self._played[row]:  # the seed, since a number of the episode would count from the process's start
            seed = "" if self._seeds[row] == NO_SEED else f", seed {self._seeds[row]}"
            where += f"{seed}, step {steps}"
        failure = EnvFailure(" ".join(f"{where}: {what}".split()))  # spaces print in several lines
        failure.episode = FailedEpisode(env, self._seeds[row], steps)
        raise failure from cause


def _flags_of(terminated: Any, truncated: Any) -> int:
    """The flags of a step.

    Raises:
        ReturnError: one of them is no bool, nor 0 or 1.
    """
    if type(terminated) not in BOOLS or type(truncated) not in BOOLS:
        terminated = flag_of(terminated, "terminated")
        truncated = flag_of(truncated, "truncated")
    return (TERMINATED if terminated else 0) | (TRUNCATED if truncated else 0)
