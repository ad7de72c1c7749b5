"""Factories of envs that are told apart: one function for each env, as vector envs take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import gymnasium as gym

from workers.env_builders import BUILDERS, Builder, WithRegistry
from workers.env_compare import AnyEnv
from workers.env_copies import close_quietly
from workers.env_specs import registered_here
from workers.envs import EnvFactory
from workers.errors import EnvError, shown
from workers.global_random import seeded_globally
from workers.pickling import dumps
from workers.slab import Field
from workers.space_parts import is_composite, parts
from workers.trial_env import build_trial, process_kept


@dataclass(frozen=True)
class EnvListFactory(EnvFactory):
    """Builds every env by a function of its own.

    Attributes:
        payloads: the cloudpickled functions.
        first_env: the index of the env that the first of them builds.
        specs, left_out: of ids that only the learner's process has registered; see `WithRegistry`.
        other_bounds: whether envs may differ in the bounds of their observations.
    """

    payloads: tuple[bytes, ...] = ()
    first_env: int = 0
    specs: tuple[bytes, ...] = ()
    left_out: tuple[str, ...] = ()
    other_bounds: bool = False

    def has_space(self, kind: str, space: gym.Space[Any]) -> bool:
        """See `EnvFactory.has_space`."""
        if kind == "observation_space" and self.other_bounds:
            return is_alike(self.observation_space, space)
        return super().has_space(kind, space)

    def for_envs(self, envs: range) -> EnvListFactory:
        """See `EnvFactory.for_envs`: a worker gets the functions of its own envs."""
        start = envs.start - self.first_env
        return replace(self, payloads=self.payloads[start : start + len(envs)], first_env=envs.start)

    def build(self, env_index: int = 0) -> AnyEnv:
        """See `EnvFactory.build`."""
        build: Builder = cloudpickle.loads(self.payloads[env_index - self.first_env])
        if self.specs or self.left_out:
            build = WithRegistry(build, self.specs, self.left_out)
        return build()


@dataclass(frozen=True)
class FirstEnv:
    """What a vector env tells about itself, found in the first of its envs.

    Attributes:
        metadata: a copy.
        render_mode: how the envs render.
    """

    metadata: dict[str, Any]
    render_mode: str | None


def is_alike(space: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Whether two spaces are equal, apart from the bounds of each Box."""
    if isinstance(space, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return space.shape == other.shape and space.dtype == other.dtype
    if not (is_composite(space) and type(space) is type(other)):
        return bool(space == other)
    one, two = parts(space), parts(other)
    return len(one) == len(two) and all(
        key == other_key and is_alike(part, other_part)
        for (key, part), (other_key, other_part) in zip(one, two, strict=True)
    )


def _functions(env_fns: Any) -> list[Callable[[], AnyEnv]]:
    """The list of functions.

    Raises:
        ValueError: it is empty.
        EnvError: it is no list, or not of functions.
    """
    wanted = "a list of functions is needed that return an env each"
    if isinstance(env_fns, str) or not isinstance(env_fns, Iterable):
        raise EnvError(f"{wanted}, not {shown(env_fns)}")
    functions = list(env_fns)
    if not functions:
        raise ValueError("at least one env is needed: the list of functions is empty")
    for function in functions:
        if not callable(function):
            raise EnvError(f"{wanted}, but one is a {type(function).__name__}")
    return functions


def env_list_factory(
    env_fns: Iterable[Callable[[], AnyEnv]], other_bounds: bool = False
) -> tuple[EnvListFactory, FirstEnv]:
    """The factory of a list of functions that return an env each.

    The first env is built in this process, too, to learn its spaces, and closed again.

    Args:
        env_fns: one per env; all envs must have the same spaces.
        other_bounds: whether the bounds of observations may differ.

    Raises:
        ValueError: the list is empty.
        EnvError: a function cannot be sent to a worker, or the first env cannot be used.
    """
    env_fns = _functions(env_fns)
    payloads = tuple(dumps(f"env_fns[{i}]", function, BUILDERS) for i, function in enumerate(env_fns))
    specs, left_out = registered_here()
    with process_kept(), seeded_globally(0):
        trial = build_trial("env_fns[0]", env_fns[0])
        try:
            spaces = trial.observation_space, trial.action_space
            first = FirstEnv(dict(trial.metadata), trial.render_mode)
        finally:
            close_quietly(trial)
    for space in spaces:
        Field.of(space)  # raises, if no row can hold an element
    observation_space, action_space = spaces
    factory = EnvListFactory(
        "env_fns[0]",
        b"",
        observation_space,
        action_space,
        has_time_limit=False,
        payloads=payloads,
        specs=specs,
        left_out=left_out,
        other_bounds=other_bounds,
    )
    return factory, first
