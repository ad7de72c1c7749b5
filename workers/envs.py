"""From whatever names an environment to a factory that any worker can call, and its spaces."""

from __future__ import annotations

import dataclasses
import inspect
import multiprocessing
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from workers.env_builders import (
    BUILDERS,
    Builder,
    FromCallable,
    FromModule,
    FromSpec,
    WithRegistry,
    WithTimeLimit,
    WithWrappers,
    with_argument,
)
from workers.env_compare import AnyEnv
from workers.env_copies import copies_of
from workers.env_specs import OLD_GYM_ADVICE, find_spec, is_old_gym_env, portable, registered_here
from workers.errors import USER_ERRORS, EnvError
from workers.global_random import KNOWN_PACKAGES, seeded_globally
from workers.pickling import dumps, parts
from workers.trial_env import Trial, describe, process_kept
from workers.trial_process import describe_in_process
from workers.wrappers import ActionMask, NamedWrapper, NumericObservation, PlainActionMask

__all__ = ["AnyEnv", "EnvFactory", "EnvLike", "env_factory"]

EnvLike: TypeAlias = "str | EnvSpec | Callable[..., AnyEnv] | AnyEnv"

# Modules whose envs and wrappers do nothing to the process in which they are built: Gymnasium's and prl's.
_KNOWN = (*KNOWN_PACKAGES, "gymnasium.wrappers", "workers.", "prl.")


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
        ignores_mask: whether the "action_mask" of the env's observation is in `observation_space` as an
            observation like any other, under the key "plain_action_mask".
        notes: lines that the user should read, e.g. that the env itself has a shorter time limit.
        index_argument: keyword argument under which the constructor gets the index of its env; None for none.
        first_index: of a pool's first env; another pool's envs have other ones.
    """

    name: str
    payload: bytes
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    has_time_limit: bool
    ignored_observations: tuple[str, ...] = ()
    mask_from_info: bool = False
    ignores_mask: bool = False
    notes: tuple[str, ...] = ()
    index_argument: str | None = None
    first_index: int = 0

    def for_envs(self, envs: range) -> EnvFactory:
        """The factory that a worker needs to build some of a pool's envs."""
        return self

    def has_space(self, kind: str, space: gym.Space[Any]) -> bool:
        """Whether an env of this factory may have a space.

        Args:
            kind: "observation_space" or "action_space".
            space: of the env.
        """
        return bool(space == getattr(self, kind))

    def build(self, env_index: int = 0) -> AnyEnv:
        """A new env with the factory's spaces. Raises whatever the env's constructor raises.

        Args:
            env_index: of the env in its pool. Apart from it, all envs of this factory are alike.
        """
        build: Builder = cloudpickle.loads(self.payload)
        if self.index_argument is not None:
            build = with_argument(build, self.index_argument, self.first_index + env_index)
        env: AnyEnv = build()
        if self.ignored_observations:
            env = NumericObservation(env)
        if self.ignores_mask:
            env = PlainActionMask(env)
        return ActionMask(env) if self.mask_from_info else env


def env_factory(
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    wrappers: Sequence[str] = (),
    ends_by_itself: bool = False,
    use_action_masks: bool = True,
    own_process: bool = True,
    start_timeout: float = 120.0,
    env_index_kwarg: str | None = None,
) -> EnvFactory:
    """Turn anything that names an environment into a factory.

    One env is built to learn its spaces: in a process of its own, so that its constructor may hang, exit,
    print, change directory or set whatever it likes without doing anything to this process. Only what cannot
    do harm (Gymnasium's own envs), or has been built in this process before (an env that exists already), is
    built here, as everything is in a daemonic process, which must not have children; the working directory
    and the global generators of `random` and `numpy.random` are then as before when it is done.

    Args:
        env: a Gymnasium id (`module:EnvId` imports `module` first), an `EnvSpec`, a class or function
            that returns an env, or an env. Of an env, workers get equal copies, with all that was set in
            it: rebuilt from its spec, or copied by cloudpickle (see `env_copies.copies_of`).
        env_kwargs: keyword arguments for the env's constructor; not for an env that exists already.
        max_episode_steps: truncate episodes after this number of steps. It replaces the registered limit
            and every `TimeLimit` of the env, shorter or longer.
        wrappers: put around the env and its time limit, from the inside out; each is "module:Class" or
            "module:Class(key=value, ...)" with literal values.
        ends_by_itself: the env ends all of its episodes, though it has no time limit that can be seen.
        use_action_masks: False ignores the masks of legal actions that the env gives: all actions are
            played. The key "action_mask" of a Dict observation then is an observation like any other,
            called "plain_action_mask".
        own_process: False builds the env in this process in any case, for pools whose envs are here, too.
        start_timeout: seconds that the process may take to start, and the env to be built, and to be reset.
        env_index_kwarg: keyword argument under which the constructor gets the index of its env, 0..N-1, for
            what each copy needs for itself, such as a port. The env that is built to learn the spaces gets
            0, too, and is closed before the others are built.

    Raises:
        EnvError: in one line, why the env cannot be used.
    """
    with process_kept(), seeded_globally(0):
        build, name, is_known = _builder(env, dict(env_kwargs or {}), _checked_limit(max_episode_steps))
        if wrappers:
            named = tuple(NamedWrapper(text) for text in wrappers)
            build = WithWrappers(build, named)
            is_known = is_known and all(wrapper.module.startswith(_KNOWN) for wrapper in named)
        payload = dumps(name, build, BUILDERS)
        if env_index_kwarg is not None:
            build = with_argument(build, env_index_kwarg, 0)
        trial = Trial(name, dumps(name, build, BUILDERS), max_episode_steps, use_action_masks)
        if is_known or not own_process or multiprocessing.current_process().daemon:
            found = describe(trial, build)
        else:
            found = describe_in_process(trial, start_timeout)
    if ends_by_itself:
        found = dataclasses.replace(found, has_time_limit=True)
    return EnvFactory(name, payload, **vars(found), index_argument=env_index_kwarg)


class _Named(NamedTuple):
    """What builds an env, its name, and whether that is known to do nothing to this process."""

    build: Builder
    name: str
    is_known: bool


def _builder(env: EnvLike, kwargs: dict[str, Any], max_episode_steps: int | None) -> _Named:
    """What builds the env, without wrappers."""
    if isinstance(env, str | EnvSpec):
        found = _by_id(env, kwargs, max_episode_steps)
    elif (existing := env if isinstance(env, gym.Env) else _returned_env(env)) is not None:
        if kwargs:
            raise EnvError("env_kwargs cannot be applied to an env that exists already; pass its id or class")
        found = _Named(*copies_of(existing), is_known=True)  # its constructor has run here
    elif callable(env):
        is_known = inspect.isclass(env) and env.__module__.startswith(_KNOWN) and _is_plain(kwargs)
        name = getattr(env, "__name__", type(env).__name__)
        found = _Named(_with_registry(FromCallable(env, kwargs)), name, is_known)
    else:
        old = f"; it is an env of {OLD_GYM_ADVICE}" if is_old_gym_env(env) else ""
        raise EnvError(
            f"an env is given as id, EnvSpec, class, function or env, not as {type(env).__name__}{old}"
        )
    if max_episode_steps is None:
        return found
    return found._replace(build=WithTimeLimit(found.build, max_episode_steps))


def _by_id(env: str | EnvSpec, kwargs: dict[str, Any], max_episode_steps: int | None) -> _Named:
    if isinstance(env, str):
        module, _, env_id = env.rpartition(":")
        if module and module not in sys.modules and not module.startswith(_KNOWN):
            return _Named(FromModule(env, kwargs, max_episode_steps), env_id, is_known=False)
    found, imported = find_spec(env)
    spec = portable(found)
    build: Builder = FromSpec(spec, kwargs, max_episode_steps, imported)
    if not isinstance(spec.entry_point, str):
        return _Named(_with_registry(build), found.id, is_known=False)
    is_known = spec.entry_point.startswith(_KNOWN) and not spec.additional_wrappers
    return _Named(build, found.id, is_known and _is_plain((spec.kwargs, kwargs)))


def _is_plain(value: object) -> bool:
    """Whether a value is made of numbers and text alone."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _returned_env(function: object) -> AnyEnv | None:
    """The env of `lambda: env`; None for functions that make one, and for anything else."""
    if not isinstance(function, types.FunctionType) or function.__code__.co_argcount:
        return None
    held = [part for _, part in parts(function) if isinstance(part, gym.Env)]
    try:
        returned = function() if held else None
    except USER_ERRORS:  # the trial will tell
        return None
    return next((env for env in held if env is returned), None)


def _checked_limit(max_episode_steps: int | None) -> int | None:
    if max_episode_steps is None:
        return None
    if not isinstance(max_episode_steps, int | np.integer) or max_episode_steps < 1:
        raise EnvError(f"max_episode_steps must be an integer of at least 1, got {max_episode_steps!r}")
    return int(max_episode_steps)


def _with_registry(build: Builder) -> Builder:
    specs, left_out = registered_here()
    return WithRegistry(build, specs, left_out) if specs or left_out else build
