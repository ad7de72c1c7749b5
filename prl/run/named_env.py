"""The name of an env that Python code holds, with which another process can make one like it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from workers.env_specs import spec_of
from workers.envs import EnvLike


@dataclass(frozen=True)
class EnvName:
    """What `TrainConfig` calls an env; see there."""

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    max_episode_steps: int | None = None


def name_of(env: EnvLike) -> EnvName | None:
    """The name of an env; None if it has none, as a class or a function, or is wrapped in what has none.

    What was set in an env after it was made is not part of its name.
    """
    if isinstance(env, str):
        return EnvName(env)
    spec = env if isinstance(env, EnvSpec) else spec_of(env) if isinstance(env, gym.Env) else None
    if spec is None or spec.id not in gym.registry:
        return None
    wrappers = [_named_wrapper(wrapper) for wrapper in spec.additional_wrappers]
    named = tuple(wrapper for wrapper in wrappers if wrapper is not None)
    if len(named) < len(wrappers):
        return None
    limit = spec.max_episode_steps
    kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
    own_limit = gym.registry[spec.id].max_episode_steps
    return EnvName(spec.id, kwargs, named, None if limit == own_limit else limit)


def _named_wrapper(wrapper: Any) -> str | None:
    """A wrapper's spec as text, "module:Class(key=value)"; None if that cannot be said."""
    kwargs = wrapper.kwargs or {}
    if wrapper.entry_point.startswith("__main__:") or not all(map(_is_literal, kwargs.values())):
        return None
    return f"{wrapper.entry_point}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
