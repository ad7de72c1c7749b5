"""prl's workers as a vector env of Gymnasium."""

from __future__ import annotations

import enum
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import logger
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from prl.adapters.arguments import (
    ObservationMode,
    check_observation_mode,
    check_seconds,
    check_workers,
    checked_mask,
    observation_spaces,
    seeds_of,
)
from prl.adapters.closing import Closing
from prl.adapters.infos import as_vector
from workers.arrays import Array, Flags
from workers.env_compare import AnyEnv
from workers.env_lists import env_list_factory
from workers.errors import shown
from workers.remote_envs import Answers, PerEnv, RemoteEnvs

_REFUSED = ("reset", "step", "close", "_setattr", "_check_spaces")
_Step = tuple[Any, Array, Flags, Flags, dict[Any, Any]]


class _State(enum.Enum):
    """What was begun and not waited for."""

    DEFAULT = "default"
    RESET = "reset"
    STEP = "step"
    CALL = "call"


class VectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """N envs in worker processes, several in each, behind Gymnasium's interface for vector envs.

    It gives, bit for bit, what `gymnasium.vector.SyncVectorEnv` gives: observations, rewards as f64[N],
    flags, and infos. It takes the arguments of `gymnasium.vector.AsyncVectorEnv`, and stands in its place.

    Where it differs: an env that raises is a `WorkerEnvFailed` that names env, seed and step, and ends all
    workers, as the death of a worker does; observations have to be finite, in shape and kind those of their
    space; actions are converted to the dtype of the action space, and refused before anything is sent if
    they are none of its choices or not finite.

    Args:
        env_fns: one function per env that returns it; all envs have the same spaces, made of numbers. The
            first one is also called in this process, to learn the spaces; that env is closed again.
        shared_memory: whether observations come by shared memory; otherwise through pipes.
        copy: of no effect: what is returned is always the caller's own.
        context, daemon: of no effect: workers are spawned, and end with this process.
        worker: must be None.
        observation_mode: "same"; "different" if envs differ in the bounds of their observations; or two
            spaces, of all envs and of a single one.
        autoreset_mode: when an env whose episode has ended is reset: in the next step, in the same step, or
            by the caller ("Disabled").
        max_concurrency: at most this many workers; None is no limit.
        num_workers: processes; None is one per usable core, 0 keeps the envs in this process.
        infos: whether infos are returned; without them, `step` is faster for envs that have some.
        any_objects: whether results of calls and infos may be objects of any class; unpickling them runs
            their code. Otherwise they have to be data: numbers, text, arrays, and containers of them.
        step_timeout: seconds a worker may take for one command.
        start_timeout: seconds a worker may take to start and build its first env, and then each further one.
        close_timeout: seconds all of them may take to close their envs; then they are killed.
        pin_workers: see `workers.process_pool.ProcessPool`.

    Raises:
        EnvError: an env cannot be used, or not be sent to a worker.
        WorkerError: a worker could not be started, or an env not be built. So do all methods that wait for
            envs, when a worker dies, hangs or reports a failed env.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], AnyEnv]],
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: None = None,
        observation_mode: ObservationMode = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_concurrency: int | None = None,
        *,
        num_workers: int | None = None,
        infos: bool = True,
        any_objects: bool = False,
        step_timeout: float = 60.0,
        start_timeout: float = 120.0,
        close_timeout: float = 2.0,
        pin_workers: bool = True,
    ) -> None:
        self.closed = True  # until there is something to close
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        num_workers = check_workers(worker, max_concurrency, num_workers)
        check_seconds(step_timeout=step_timeout, start_timeout=start_timeout, close_timeout=close_timeout)
        factory, first = env_list_factory(env_fns, check_observation_mode(observation_mode))
        self.num_envs = len(factory.payloads)
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode
        self.single_action_space = factory.action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._state = _State.DEFAULT
        self._was_reset = np.zeros(self.num_envs, np.bool_)
        self._remote: RemoteEnvs | None = RemoteEnvs(
            factory,
            num_workers=num_workers,
            infos=infos,
            any_objects=any_objects,
            transport="shared" if shared_memory else "pipe",
            step_timeout=step_timeout,
            start_timeout=start_timeout,
            close_timeout=close_timeout,
            pin_workers=pin_workers,
        )
        self.closed = False
        with self._closing():
            self.single_observation_space, self.observation_space = observation_spaces(
                observation_mode, factory.observation_space, self.num_envs, self._spaces
            )

    def _spaces(self) -> Sequence[gym.Space[Any]]:
        return self.call("observation_space")

    # Gymnasium's own vector envs override these by tuples that cannot be set, too.
    @property  # type: ignore[misc]
    def np_random(self) -> Any:
        """The generator of each env: a copy."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """The seed of each env's generator."""
        return self.get_attr("np_random_seed")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[Any, Any]]:
        """Reset all envs, or those of a mask.

        Args:
            seed: None leaves the generators as they are; an int gives env i the seed `seed + i`; or one seed
                or None per env.
            options: for the envs' `reset`; but "reset_mask", bool[N], says which envs are reset. The dict is
                left as it is.

        Returns:
            Observations, those of envs that are not reset as before, and infos of envs that are.

        Raises:
            ValueError, TypeError: seeds or mask do not fit.
        """
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(
        self, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        """Begin a `reset`.

        Raises:
            ClosedEnvironmentError: the env is closed.
            AlreadyPendingCallError: something else was begun and not waited for.
            ValueError, TypeError: seeds or mask do not fit.
        """
        self._require_open()
        seeds = seeds_of(seed, self.num_envs)
        self._require_state(_State.DEFAULT, "reset_async")
        env_ids = np.arange(self.num_envs)
        if options is not None and not isinstance(options, dict):
            raise TypeError(f"options must be a dict or None, got {shown(options)}")
        if options is not None and "reset_mask" in options:
            env_ids = np.flatnonzero(checked_mask(options["reset_mask"], self.num_envs))
            options = {key: value for key, value in options.items() if key != "reset_mask"}
        its_options = None if options is None else [options] * len(env_ids)
        with self._closing():
            self._envs.reset(env_ids, [seeds[env] for env in env_ids.tolist()], its_options)
        self._was_reset[env_ids] = True
        self._state = _State.RESET

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[Any, Any]]:
        """Wait for a reset that was begun; see `reset` and `step_wait`."""
        answers = self._take(_State.RESET, "reset", timeout)
        return answers.obs, as_vector(answers.infos, {}, self.num_envs)

    def step(self, actions: Any) -> _Step:
        """Take a step in each env.

        Args:
            actions: an array [N, *A], a list of N actions, or what `gymnasium.vector.utils.iterate` splits.

        Returns:
            Observations, rewards f64[N], terminations bool[N], truncations bool[N], and infos. What happens
            to envs whose episode has ended depends on `autoreset_mode`.

        Raises:
            ValueError, TypeError: the actions do not fit the space, bounds of a Box apart. Nothing was sent
                then, and the next `step` goes on as if this one had not been called.
            RuntimeError: autoreset is disabled and an env whose episode has ended was not reset.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin a `step`; see there, and `reset_async`."""
        self._require_open()
        self._require_state(_State.DEFAULT, "step_async")
        if not self._was_reset.all():
            which = np.flatnonzero(~self._was_reset).tolist()
            raise ResetNeeded(f"step before the first reset of envs {which}: call reset()")
        mode, resets = self.autoreset_mode, None
        if mode is not AutoresetMode.SAME_STEP and (ended := self._envs.ended).any():
            if mode is AutoresetMode.DISABLED:
                which = np.flatnonzero(ended).tolist()
                raise RuntimeError(f"envs {which} have ended: reset them with a reset_mask first")
            resets = ended
        self._envs.put_actions(actions, ignored=resets)
        with self._closing():
            self._envs.step(resets=resets, autoreset=mode is AutoresetMode.SAME_STEP)
        self._state = _State.STEP

    def step_wait(self, timeout: float | None = None) -> _Step:
        """Wait for a step that was begun.

        Args:
            timeout: seconds; None waits until the pool's `step_timeout`.

        Raises:
            ClosedEnvironmentError: the env is closed.
            NoAsyncCallError: nothing was begun.
            multiprocessing.TimeoutError: it is not done yet; it can be waited for again.
        """
        answers = self._take(_State.STEP, "step", timeout)
        infos = as_vector(answers.infos, answers.final, self.num_envs)
        return answers.obs, answers.reward, answers.terminated, answers.truncated, infos

    def _take(self, state: _State, name: str, timeout: float | None) -> Answers:
        self._await(state, name, timeout)
        with self._closing():
            answers = self._envs.take()
        self._state = _State.DEFAULT
        return answers

    def _await(self, state: _State, name: str, timeout: float | None) -> None:
        self._require_open()
        if self._state is not state:
            raise NoAsyncCallError(f"Calling `{name}_wait` without any prior call to `{name}_async`.", name)
        if timeout is None:
            return
        with self._closing():
            is_done = self._envs.is_done(timeout)
        if not is_done:
            raise multiprocessing.TimeoutError(f"{name}_wait has timed out after {timeout} s")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each env, or look an attribute up; wrappers are searched, too.

        Returns:
            One result per env.

        Raises:
            AttributeError, ...: an env raised an exception of Python's own; the workers live on.
            EnvCallError: an env raised another exception.
            NotData: a result is an object that is no data; see `any_objects`.
        """
        self.call_async(name, *args, **kwargs)
        return self.call_wait()

    def call_async(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Begin a `call`; see there, and `reset_async`."""
        if name in _REFUSED:
            raise ValueError(f"{name} is not called in each env by itself: use the vector env's own")
        self._begin_call("call_async", "call", name, args, kwargs)

    def _begin_call(self, method: str, verb: str, *arguments: Any) -> None:
        self._require_open()
        self._require_state(_State.DEFAULT, method)
        with self._closing():
            self._envs.begin_call(verb, None, *arguments)
        self._state = _State.CALL

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Wait for a call that was begun; see `call` and `step_wait`."""
        self._await(_State.CALL, "call", timeout)
        self._state = _State.DEFAULT
        with self._closing(Exception):
            return tuple(self._envs.take_call())

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each env; as `call`, a method is called."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each env, where it is: in the env or one of its wrappers.

        Args:
            name: of the attribute.
            values: a list or tuple of one value per env; anything else is set in all of them.

        Raises:
            ValueError: the list has another length.
        """
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"one value per env is needed: {self.num_envs}, got {len(values)}")
        self._begin_call("set_attr", "set", name, PerEnv(values))
        self.call_wait()

    def render(self) -> tuple[Any, ...] | None:
        """What each env renders."""
        return self.call("render")

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End all workers, in `close_timeout` seconds at most.

        Args:
            timeout, terminate: of no effect.
        """
        if self._state is not _State.DEFAULT:
            pending = self._state.value
            logger.warn(f"Calling `close` while waiting for a pending call to `{pending}` to complete.")
        remote, self._remote = self._remote, None  # with it goes the shared memory
        if remote is not None:
            remote.close()

    @property
    def _envs(self) -> RemoteEnvs:
        self._require_open()
        assert self._remote is not None
        return self._remote

    def _require_open(self) -> None:
        if self._remote is None:
            raise ClosedEnvironmentError(
                f"this {type(self).__name__} is closed (an env or worker that fails closes it, too)"
            )

    def _require_state(self, state: _State, method: str) -> None:
        if self._state is not state:
            pending = self._state.value
            raise AlreadyPendingCallError(
                f"Calling `{method}` while waiting for a pending call to `{pending}` to complete: "
                f"call `{pending}_wait` first",
                pending,
            )

    def _closing(self, *harmless: type[Exception]) -> Closing:
        return Closing(self._end, harmless)

    def _end(self) -> None:
        self._state = _State.DEFAULT
        self.close()
