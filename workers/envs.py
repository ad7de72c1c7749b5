"""From whatever names an environment to a factory that any worker can call, and its spaces."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import PassiveEnvChecker, TimeLimit

from workers.errors import USER_ERRORS, EnvError, one_line
from workers.pickling import dumps
from workers.rows import has_numbers, is_numeric, leaves
from workers.slab import Field
from workers.wrappers import (
    MASK_KEY,
    ActionMask,
    NamedWrapper,
    NumericObservation,
    has_choices,
    mask_length,
    mask_of,
)

AnyEnv: TypeAlias = "gym.Env[Any, Any]"
_REGISTERED_ON_IMPORT = {
    "ALE/": "ale_py",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "prl/": "prl.chain",
}
EnvLike: TypeAlias = "str | EnvSpec | Callable[..., AnyEnv] | AnyEnv"


@dataclass(frozen=True)
class EnvFactory:
    """How to build one more env of the same kind.

    Attributes:
        name: what to call it in messages.
        payload: a cloudpickled function without arguments that returns a new env. Classes of the
            user's `__main__` travel inside it by value, so a child need not run the user's script.
        observation_space, action_space: of every env that it builds.
        has_time_limit: whether every episode is sure to end.
        ignored_observations: parts of the env's observation that hold no numbers and are not in
            `observation_space`: paths and kinds of space, like "observation['mission'] (MissionSpace)".
        mask_from_info: whether `observation_space` has an "action_mask" that comes from the env's info.
    """

    name: str
    payload: bytes
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    has_time_limit: bool
    ignored_observations: tuple[str, ...] = ()
    mask_from_info: bool = False

    def build(self) -> AnyEnv:
        """A new env with the factory's spaces. Raises whatever the env's constructor raises."""
        env: AnyEnv = cloudpickle.loads(self.payload)()
        if self.ignored_observations:
            env = NumericObservation(env)
        return ActionMask(env) if self.mask_from_info else env


def env_factory(
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    wrappers: Sequence[str] = (),
) -> EnvFactory:
    """Turn anything that names an environment into a factory.

    Args:
        env: a Gymnasium id (`module:EnvId` imports `module` first), an `EnvSpec`, a class or function
            that returns an env, or an env. An env is rebuilt from its spec with all its wrappers, or
            copied by cloudpickle if it has none.
        env_kwargs: keyword arguments for the env's constructor; not for an env that exists already.
        max_episode_steps: cut episodes after so many steps (truncation). For an id or spec it
            replaces the registered limit.
        wrappers: put around the env and its time limit, from the inside out; each is "module:Class" or
            "module:Class(key=value, ...)" with literal values.

    Raises:
        EnvError: in one line, why the env cannot be used.
    """
    kwargs = dict(env_kwargs or {})
    build: Callable[[], AnyEnv]
    if isinstance(env, gym.Env):
        if kwargs:
            raise EnvError("env_kwargs cannot be applied to an env that exists already; pass its id or class")
        build, name = _rebuild(env)
        if max_episode_steps is not None:
            build = _WithTimeLimit(build, max_episode_steps)
    elif isinstance(env, str | EnvSpec):
        spec, module = _find_spec(env)
        build, name = _FromSpec(_portable(spec), kwargs, max_episode_steps, module), spec.id
    elif callable(env):
        build, name = _FromCallable(env, kwargs), getattr(env, "__name__", type(env).__name__)
        if max_episode_steps is not None:
            build = _WithTimeLimit(build, max_episode_steps)
    else:
        raise EnvError(f"an env is given as id, EnvSpec, class, function or env, not as {type(env).__name__}")
    if wrappers:
        build = _WithWrappers(build, tuple(NamedWrapper(text) for text in wrappers))
    return _describe(name, build)


def _describe(name: str, build: Callable[[], AnyEnv]) -> EnvFactory:
    """Pickle the builder first, then learn from one trial env what it builds."""
    payload = dumps(name, build, (_FromSpec, _FromCallable, _WithTimeLimit, _WithWrappers))
    trial = _trial(name, build)
    try:
        for kind in ("observation_space", "action_space"):
            _require_space(name, trial, kind)
        with _error_context(f"the action space of {name}"):
            Field.of(trial.action_space)  # raises, if no row can hold an action
        ignored_observations = _ignored_observations(trial.observation_space)
        env = NumericObservation(trial) if ignored_observations else trial
        with _error_context(f"the observation space of {name}"):
            Field.of(env.observation_space)
        masked = _gives_mask(name, env)
        space = ActionMask(env).observation_space if masked else env.observation_space
        return EnvFactory(
            name, payload, space, env.action_space, _has_time_limit(trial), ignored_observations, masked
        )
    finally:
        trial.close()


def _trial(name: str, build: Callable[[], AnyEnv]) -> AnyEnv:
    try:
        trial = build()
    except EnvError:  # a wrapper's, and it says which
        raise
    except gym.error.DependencyNotInstalled as error:
        raise EnvError(f"{name} needs a package that is not installed: {one_line(error)}") from error
    except USER_ERRORS as error:  # the env's constructor is the user's code
        raise EnvError.of(f"the constructor of {name}", error) from error
    if not isinstance(trial, gym.Env):
        raise EnvError(f"{name} returned {type(trial).__name__}, not a gymnasium.Env")
    return trial


def _require_space(name: str, trial: AnyEnv, kind: str) -> None:
    try:
        space = getattr(trial, kind)
    except AttributeError:
        raise EnvError(f"{name} has no {kind}; its constructor has to set one") from None
    except USER_ERRORS as error:  # a property of the user's
        raise EnvError.of(f"the {kind} of {name}", error) from error
    if not isinstance(space, gym.Space):
        raise EnvError(f"the {kind} of {name} is of type {type(space).__name__}, not a gymnasium.Space")


@contextlib.contextmanager
def _error_context(what: str) -> Iterator[None]:
    """Say of an EnvError what it is about."""
    try:
        yield
    except EnvError as error:
        raise EnvError(f"{what}: {error}") from error


def _ignored_observations(space: gym.Space[Any]) -> tuple[str, ...]:
    """What `numeric_part` leaves out; nothing, if nothing would be left."""
    others = [(path, leaf) for path, leaf in leaves(space) if not is_numeric(leaf)]
    return tuple(f"observation{path} ({type(leaf).__name__})" for path, leaf in others if has_numbers(space))


def _gives_mask(name: str, trial: AnyEnv) -> bool:
    """Whether the env tells in its info which actions it takes, and does not in its observation."""
    space = trial.observation_space
    in_observation = isinstance(space, gym.spaces.Dict) and MASK_KEY in space.spaces
    if in_observation or not has_choices(trial.action_space):
        return False
    try:
        _, info = trial.reset(seed=0)
    except USER_ERRORS as error:  # the env is the user's code
        raise EnvError.of(f"reset(seed=0) of {name}", error) from error
    if not isinstance(info, Mapping) or MASK_KEY not in info:
        return False
    length = mask_length(trial.action_space)
    if length is None and info[MASK_KEY] is None:
        return False
    if length is None:
        raise EnvError(f"{name} gives an {MASK_KEY!r}, but parts of its actions cannot be masked (Box)")
    try:
        mask_of(info, length)
    except ValueError as error:
        raise EnvError(f"{name} has an action mask that does not fit its actions: {error}") from error
    return True


def _find_spec(env: str | EnvSpec) -> tuple[EnvSpec, str | None]:
    """The spec behind an id, and the module that registers it (`module:EnvId`)."""
    if isinstance(env, EnvSpec):
        return env, None
    module, _, env_id = env.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise EnvError(f"cannot import {module!r} of the env id {env!r}: {error}") from error
        except USER_ERRORS as error:  # what happens in the module is the user's code
            raise EnvError.of(f"importing {module!r} for {env!r}", error) from error
    try:
        spec = gym.spec(env_id)
    except gym.error.Error as error:
        raise EnvError(f"unknown env id {env!r}{_hint(env_id, error)}") from error
    return spec, module or None


def _hint(env_id: str, error: Exception) -> str:
    for prefix, package in _REGISTERED_ON_IMPORT.items():
        if env_id.startswith(prefix) and package not in sys.modules:
            return f"; its package registers it on import: {package}:{env_id}"
    close = difflib.get_close_matches(env_id, gym.registry, n=1)
    return f"; did you mean {close[0]!r}?" if close else f": {one_line(error)}"


def _portable(spec: EnvSpec) -> EnvSpec:
    """A spec whose entry point a child can find without the user's main script."""
    if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
        creator = cast("Callable[..., AnyEnv]", load_env_creator(spec.entry_point))
        return replace(spec, entry_point=creator)
    return spec


@dataclass(frozen=True)
class _FromSpec:
    spec: EnvSpec
    kwargs: dict[str, Any]
    max_episode_steps: int | None
    module: str | None = None

    def __call__(self) -> AnyEnv:
        if self.module is not None:
            importlib.import_module(self.module)
        # The worker checks every observation itself; the passive checker would cost time twice.
        return gym.make(
            self.spec,
            max_episode_steps=self.max_episode_steps,
            disable_env_checker=True,
            **self.kwargs,
        )


@dataclass(frozen=True)
class _FromCallable:
    function: Callable[..., AnyEnv]
    kwargs: dict[str, Any]

    def __call__(self) -> AnyEnv:
        return self.function(**self.kwargs)


@dataclass(frozen=True)
class _FromPickle:
    env: bytes

    def __call__(self) -> AnyEnv:
        env: AnyEnv = cloudpickle.loads(self.env)
        return env


@dataclass(frozen=True)
class _WithTimeLimit:
    build: Callable[[], AnyEnv]
    max_episode_steps: int

    def __call__(self) -> AnyEnv:
        return TimeLimit(self.build(), self.max_episode_steps)


@dataclass(frozen=True)
class _WithWrappers:
    build: Callable[[], AnyEnv]
    wrappers: tuple[NamedWrapper, ...]

    def __call__(self) -> AnyEnv:
        env = self.build()
        for wrapper in self.wrappers:
            env = wrapper(env)
        return env


def _rebuild(env: AnyEnv) -> tuple[Callable[[], AnyEnv], str]:
    """A builder of copies of an existing env: from its spec if that gives the same env, else by pickle."""
    spec = _spec_of(env)
    name = type(env.unwrapped).__name__ if spec is None else spec.id
    if spec is not None and not _has_wrapper_of_main(spec):
        build = _FromSpec(_portable(spec), {}, None)
        if _same_kind(build, env):
            return build, name
    return _FromPickle(dumps(name, env)), name


def _has_wrapper_of_main(spec: EnvSpec) -> bool:
    """A spec names its wrappers by module and class; a child has another `__main__` (see `_portable`)."""
    return any(wrapper.entry_point.startswith("__main__:") for wrapper in spec.additional_wrappers)


def _spec_of(env: AnyEnv) -> EnvSpec | None:
    try:
        return env.spec
    except Exception:  # a wrapper that did not record its arguments, or an env with an odd `spec`
        return None


def _same_kind(build: Callable[[], AnyEnv], env: AnyEnv) -> bool:
    try:
        copy = build()
    except Exception:  # whatever it is, the env itself is at hand: fall back to copying it
        return False
    try:
        return (
            _stack(copy) == _stack(env)
            and copy.observation_space == env.observation_space
            and copy.action_space == env.action_space
        )
    finally:
        copy.close()


def _stack(env: AnyEnv) -> list[type]:
    """The classes of the wrappers, outermost first, and of the env itself."""
    classes: list[type] = []
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, PassiveEnvChecker):
            classes.append(type(env))
        env = env.env
    return [*classes, type(env)]


def _has_time_limit(env: AnyEnv) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    if _is_minigrid(env):  # these truncate by themselves
        return True
    spec = _spec_of(env)
    return spec is not None and spec.max_episode_steps is not None


def _is_minigrid(env: AnyEnv) -> bool:
    return any(kind.__module__.partition(".")[0] == "minigrid" for kind in type(env).__mro__)
