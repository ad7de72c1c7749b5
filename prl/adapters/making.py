"""`make_vec`: a `VectorEnv` from the id of an env."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from prl.adapters.vector_env import VectorEnv
from workers.env_compare import AnyEnv
from workers.env_specs import find_spec, portable
from workers.errors import EnvError, shown

_MODES = (None, "prl", "async", "sync")


def make_vec(
    id: str | EnvSpec,
    num_envs: int = 1,
    vectorization_mode: str | None = None,
    vector_kwargs: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[AnyEnv], AnyEnv]] | None = None,
    *,
    num_workers: int | None = None,
    **kwargs: Any,
) -> VectorEnv:
    """A `VectorEnv` of a registered env, with the arguments of `gymnasium.make_vec`.

    Args:
        id: of the env, as `gymnasium.make` takes it, or its spec.
        num_envs: N.
        vectorization_mode: "async" and "sync", which programs written for Gymnasium say, mean the same here:
            prl's workers.
        vector_kwargs: for the `VectorEnv`.
        wrappers: functions that put a wrapper around each env.
        num_workers: processes; None is one per usable core, 0 keeps the envs in this process.
        **kwargs: for `gymnasium.make`, e.g. `render_mode`, `max_episode_steps`, or the env's own.

    Raises:
        EnvError: the id is unknown, or the env cannot be used.
        ValueError: another mode, a number of envs below 1, or wrappers that are no list.
    """
    if vectorization_mode not in _MODES:
        raise ValueError(f"vectorization_mode is one of {_MODES}, not {vectorization_mode!r}")
    if not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ValueError(f"num_envs must be an integer of at least 1, got {shown(num_envs)}")
    if not isinstance(id, str | EnvSpec):
        raise EnvError(
            f"an env is given by its id or spec, not as {type(id).__name__}: VectorEnv takes functions"
        )
    if wrappers is not None and not isinstance(wrappers, list | tuple):
        raise ValueError(f"wrappers must be a list of functions, got {shown(wrappers)}")
    found, module = find_spec(id)
    single = copy.deepcopy(found)
    # The spec of a vector env holds how it was made.
    num_envs = single.kwargs.pop("num_envs", num_envs)
    single.kwargs.pop("vectorization_mode", None)
    vector_kwargs = dict(single.kwargs.pop("vector_kwargs", vector_kwargs) or {})
    wrappers = single.kwargs.pop("wrappers", wrappers)
    # Arguments of `gymnasium.make` itself, like max_episode_steps, are no arguments of the constructor.
    kwargs, single.kwargs = {**single.kwargs, **kwargs}, {}
    make = functools.partial(_make, portable(single), module, kwargs, tuple(wrappers or ()))
    env = VectorEnv([make] * num_envs, num_workers=num_workers, **vector_kwargs)
    env.spec = _spec_of_all(single, num_envs, vector_kwargs, wrappers, kwargs)
    return env


def _make(
    spec: EnvSpec,
    module: str | None,
    kwargs: dict[str, Any],
    wrappers: Sequence[Callable[[AnyEnv], AnyEnv]],
) -> AnyEnv:
    if module is not None:
        __import__(module)
    env: AnyEnv = gym.make(spec, **kwargs)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def _spec_of_all(
    spec: EnvSpec,
    num_envs: int,
    vector_kwargs: dict[str, Any],
    wrappers: Sequence[Callable[[AnyEnv], AnyEnv]] | None,
    kwargs: dict[str, Any],
) -> EnvSpec:
    """The spec of the vector env, as `gymnasium.make_vec` writes it: it has to make a vector env again."""
    found = copy.deepcopy(spec)
    found.kwargs = {**kwargs, "vectorization_mode": "async"}
    if num_envs != 1:
        found.kwargs["num_envs"] = num_envs
    if vector_kwargs:
        found.kwargs["vector_kwargs"] = vector_kwargs
    if wrappers:
        found.kwargs["wrappers"] = list(wrappers)
    return found
