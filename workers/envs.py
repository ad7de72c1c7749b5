"""From whatever names an environment to a factory that any worker can call, and its spaces."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from workers.env_builders import (
    BUILDERS,
    Builder,
    FromCallable,
    FromSpec,
    WithRegistry,
    WithTimeLimit,
    WithWrappers,
)
from workers.env_compare import AnyEnv
from workers.env_copies import close_quietly, copies_of
from workers.env_specs import OLD_GYM_ADVICE, find_spec, is_old_gym_env, portable, registered_here
from workers.errors import USER_ERRORS, EnvError
from workers.global_random import seeded_globally
from workers.pickling import dumps, parts
from workers.slab import Field
from workers.trial_env import (
    build_trial,
    gives_mask_in_info,
    has_mask_in_observation,
    has_time_limit,
    ignored_observations,
    process_kept,
    shorter_limit,
    stateful_wrappers,
)
from workers.wrappers import ActionMask, NamedWrapper, NumericObservation, PlainActionMask

__all__ = ["AnyEnv", "EnvFactory", "EnvLike", "env_factory"]

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
        ignores_mask: whether the "action_mask" of the env's observation is in `observation_space` as an
            observation like any other, under the key "plain_action_mask".
        notes: lines that the user should read, e.g. that the env itself has a shorter time limit.
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

    def for_envs(self, envs: range) -> EnvFactory:
        """The factory that a worker needs to build some of a pool's envs."""
        return self

    def build(self, env_index: int = 0) -> AnyEnv:
        """A new env with the factory's spaces. Raises whatever the env's constructor raises.

        Args:
            env_index: of the env in its pool. All envs of this factory are alike.
        """
        env: AnyEnv = cloudpickle.loads(self.payload)()
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
) -> EnvFactory:
    """Turn anything that names an environment into a factory.

    One env is built here, in the learner's process, to learn its spaces; the working directory and the
    global generators of `random` and `numpy.random` are as before when it is done.

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

    Raises:
        EnvError: in one line, why the env cannot be used.
    """
    with process_kept(), seeded_globally(0):
        build, name = _builder(env, dict(env_kwargs or {}), _checked_limit(max_episode_steps))
        if wrappers:
            build = WithWrappers(build, tuple(NamedWrapper(text) for text in wrappers))
        payload = dumps(name, build, BUILDERS)
        trial = build_trial(name, build)
        try:
            return _describe(name, payload, trial, max_episode_steps, ends_by_itself, use_action_masks)
        finally:
            close_quietly(trial)


def _builder(env: EnvLike, kwargs: dict[str, Any], max_episode_steps: int | None) -> tuple[Builder, str]:
    """What builds the env, without wrappers, and its name."""
    build: Builder
    if isinstance(env, str | EnvSpec):
        found, module = find_spec(env)
        spec = portable(found)
        build, name = FromSpec(spec, kwargs, max_episode_steps, module), found.id
        if not isinstance(spec.entry_point, str):
            build = _with_registry(build)
    elif (existing := env if isinstance(env, gym.Env) else _returned_env(env)) is not None:
        if kwargs:
            raise EnvError("env_kwargs cannot be applied to an env that exists already; pass its id or class")
        build, name = copies_of(existing)
    elif callable(env):
        build = _with_registry(FromCallable(env, kwargs))
        name = getattr(env, "__name__", type(env).__name__)
    else:
        old = f"; it is an env of {OLD_GYM_ADVICE}" if is_old_gym_env(env) else ""
        raise EnvError(
            f"an env is given as id, EnvSpec, class, function or env, not as {type(env).__name__}{old}"
        )
    return (build if max_episode_steps is None else WithTimeLimit(build, max_episode_steps)), name


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


def _describe(
    name: str,
    payload: bytes,
    trial: AnyEnv,
    max_episode_steps: int | None,
    ends_by_itself: bool,
    use_action_masks: bool,
) -> EnvFactory:
    """The factory of envs like `trial`."""
    with _error_context(f"the action space of {name}"):
        Field.of(trial.action_space)  # raises, if no row can hold an action
    ignored = ignored_observations(trial.observation_space)
    env: AnyEnv = NumericObservation(trial) if ignored else trial
    with _error_context(f"the observation space of {name}"):
        Field.of(env.observation_space)
    mask_from_info = use_action_masks and gives_mask_in_info(name, env)
    ignores_mask = not use_action_masks and has_mask_in_observation(env)
    if mask_from_info:
        env = ActionMask(env)
    if ignores_mask:
        env = PlainActionMask(env)
    notes = stateful_wrappers(name, trial)
    if max_episode_steps is not None and (limit := shorter_limit(name, trial, max_episode_steps)):
        notes.append(limit)
    return EnvFactory(
        name,
        payload,
        env.observation_space,
        env.action_space,
        has_time_limit=ends_by_itself or has_time_limit(trial),
        ignored_observations=ignored,
        mask_from_info=mask_from_info,
        ignores_mask=ignores_mask,
        notes=tuple(notes),
    )


@contextlib.contextmanager
def _error_context(what: str) -> Iterator[None]:
    """Say of an EnvError what it is about."""
    try:
        yield
    except EnvError as error:
        raise EnvError(f"{what}: {error}") from error
