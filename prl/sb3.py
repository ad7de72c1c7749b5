"""prl's workers as the vectorised env of Stable-Baselines3.

In place of `SubprocVecEnv`, in one line::

    env = make_vec_env("CartPole-v1", n_envs=32, vec_env_cls=prl.sb3.VecEnv)

Needs the package stable_baselines3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from prl.adapters.arguments import check_seconds, check_workers
from prl.adapters.closing import Closing
from prl.adapters.infos import as_list
from workers.arrays import Array, Flags
from workers.env_compare import AnyEnv
from workers.env_lists import env_list_factory
from workers.errors import shown
from workers.remote_envs import RemoteEnvs
from workers.seeding import NO_SEED
from workers.space_parts import is_composite, parts

try:
    from stable_baselines3.common.vec_env import VecEnv as _VecEnv
except ModuleNotFoundError as error:  # the module can be imported all the same
    if error.name != "stable_baselines3":
        raise
    _VecEnv = None

Indices: TypeAlias = "int | Iterable[int] | None"
_Step: TypeAlias = "tuple[Any, Array, Flags, list[dict[Any, Any]]]"


class VecEnv(_VecEnv or object):  # type: ignore[misc]  # Stable-Baselines3 may be absent
    """N envs in worker processes, several in each.

    Gives, bit for bit, what Stable-Baselines3's `DummyVecEnv` gives, rewards as f32[N] included.

    Args:
        env_fns: one function per env that returns it; all envs have the same spaces, made of numbers. The
            first one is also called in this process, to learn the spaces; that env is closed again.
        start_method: of no effect: workers are spawned.
        num_workers: processes; None is one per usable core, 0 keeps the envs in this process.
        any_objects, step_timeout, start_timeout, pin_workers: see `prl.VectorEnv`.
        close_timeout: there, too; longer here, since a process that has imported torch takes its time to end.
        shared_memory: whether observations come by shared memory; otherwise through pipes.

    Raises:
        ModuleNotFoundError: Stable-Baselines3 is not installed.
        EnvError: an env cannot be used, or not be sent to a worker.
        WorkerError: a worker could not be started, or an env not be built. So do all methods that wait for
            envs, when a worker dies, hangs or reports a failed env; all workers are ended then.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], AnyEnv]],
        start_method: str | None = None,
        *,
        num_workers: int | None = None,
        any_objects: bool = False,
        shared_memory: bool = True,
        step_timeout: float = 60.0,
        start_timeout: float = 120.0,
        close_timeout: float = 5.0,
        pin_workers: bool = True,
    ) -> None:
        if _VecEnv is None:
            raise ModuleNotFoundError("prl.sb3 needs Stable-Baselines3: pip install stable_baselines3")
        num_workers = check_workers(None, None, num_workers)
        check_seconds(step_timeout=step_timeout, start_timeout=start_timeout, close_timeout=close_timeout)
        factory, _ = env_list_factory(env_fns)
        _refuse_nested(factory.observation_space)
        self.waiting = False
        self.closed = False
        self._was_reset = False
        self._remote: RemoteEnvs | None = RemoteEnvs(
            factory,
            num_workers=num_workers,
            any_objects=any_objects,
            reward_dtype=np.float32,
            transport="shared" if shared_memory else "pipe",
            step_timeout=step_timeout,
            start_timeout=start_timeout,
            close_timeout=close_timeout,
            pin_workers=pin_workers,
        )
        try:
            super().__init__(len(factory.payloads), factory.observation_space, factory.action_space)
        except BaseException:
            self.close()
            raise

    def reset(self) -> Any:
        """Reset all envs, with the seeds and options that were set for this once.

        Returns:
            Observations: an array [N, *O], or a dict or tuple of arrays.
        """
        if self.waiting:
            self.step_wait()
        seeds = [NO_SEED if seed is None else int(seed) for seed in self._seeds]
        options = [chosen or None for chosen in self._options]
        with self._closing():
            self._envs.reset(np.arange(self.num_envs), seeds, options if any(options) else None)
            answers = self._envs.take()
        self._was_reset = True
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = as_list(answers.infos, self.num_envs)
        return answers.obs

    def step_async(self, actions: Any) -> None:
        """Begin a step of all envs.

        Args:
            actions: [N, *A], or a list of N actions.

        Raises:
            ValueError, TypeError: the actions do not fit the space, bounds of a Box apart. Nothing was sent.
            RuntimeError: the results of another step were not waited for.
            ResetNeeded: the envs were never reset.
        """
        self._require_no_step("step_async")
        if not self._was_reset and self._remote is not None:
            raise ResetNeeded("step before the first reset: call reset()")
        self._envs.put_actions(actions)
        with self._closing():
            self._envs.step(autoreset=True)
        self.waiting = True

    def step_wait(self) -> _Step:
        """The results of the step; envs whose episode has ended were reset.

        Returns:
            Observations (the first ones of the next episode where one has ended), rewards f32[N], dones
            bool[N], and one info per env: with "TimeLimit.truncated", and where an episode has ended
            "terminal_observation".

        Raises:
            RuntimeError: no step was begun.
        """
        if not self.waiting and self._remote is not None:
            raise RuntimeError("step_wait without step_async before it")
        with self._closing():
            answers = self._envs.take()
        self.waiting = False
        infos = as_list(answers.infos, self.num_envs)
        terminated, truncated = answers.terminated, answers.truncated
        cut = (truncated & ~terminated).tolist()
        for info, is_cut in zip(infos, cut, strict=True):
            info["TimeLimit.truncated"] = is_cut
        for env, obs in answers.final.items():
            infos[env]["terminal_observation"] = obs
        if answers.final:
            restarted = as_list(answers.infos, self.num_envs, restarted=True)
            self.reset_infos = list(self.reset_infos)
            for env in answers.final:
                self.reset_infos[env] = restarted[env]
        return answers.obs, answers.reward, terminated | truncated, infos

    def close(self) -> None:
        """End all workers, in `close_timeout` seconds at most. Idempotent."""
        self.waiting = False
        self.closed = True
        remote, self._remote = self._remote, None  # with it goes the shared memory
        if remote is not None:
            remote.close()

    @property
    def _envs(self) -> RemoteEnvs:
        if self._remote is None:
            raise RuntimeError("this VecEnv is closed (an env or worker that fails closes it, too)")
        return self._remote

    def get_images(self) -> Sequence[Any]:
        """A frame of each env; None, with a warning, unless the envs render to arrays."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode is {self.render_mode}, but images need rgb_array", stacklevel=2)
            return [None] * self.num_envs
        return self.env_method("render")

    def has_attr(self, attr_name: str) -> bool:
        """Whether every env, or a wrapper of it, has an attribute."""
        return all(self._call("has", None, attr_name))

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of each env or of a wrapper of it.

        Raises:
            AttributeError: an env has none.
            NotData: a value is an object that is no data; see `any_objects`.
        """
        return self._call("get", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the outermost wrapper of each env, as Stable-Baselines3 does."""
        self._call("set_outermost", indices, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each env or of a wrapper of it.

        Raises:
            AttributeError, ...: an env raised an exception of Python's own; the workers live on.
            EnvCallError: an env raised another exception.
            NotData: a result is an object that is no data; see `any_objects`.
        """
        return self._call("method", indices, method_name, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Indices = None) -> list[bool]:
        """Whether each env has a wrapper of a class."""
        return self._call("is_wrapped", indices, wrapper_class)

    def _call(self, verb: str, indices: Indices, *arguments: Any) -> list[Any]:
        self._require_no_step("a call")
        env_ids = [self._env_id(index) for index in self._get_indices(indices)]
        with self._closing(Exception):
            self._envs.begin_call(verb, env_ids, *arguments)
            return self._envs.take_call()

    def _env_id(self, index: Any) -> int:
        count = self.num_envs
        if not (isinstance(index, int | np.integer) and -count <= index < count):
            raise IndexError(f"indices of envs are integers from {-count} to {count - 1}, got {shown(index)}")
        return range(count)[index]

    def _require_no_step(self, what: str) -> None:
        if self.waiting:
            raise RuntimeError(f"{what} while a step is pending: call step_wait first")

    def _closing(self, *harmless: type[Exception]) -> Closing:
        return Closing(self.close, harmless)


def _refuse_nested(space: gym.Space[Any]) -> None:
    """Refuse what Stable-Baselines3 does not take.

    Raises:
        ValueError: a Dict or Tuple holds another one.
    """
    if any(is_composite(inner) for _, inner in parts(space)):
        raise ValueError(f"Stable-Baselines3 takes no nested observation spaces, and this is one: {space}")
