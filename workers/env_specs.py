"""Ids and specs of environments: finding them, and taking them to a process that has registered less."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from workers.env_compare import AnyEnv
from workers.errors import USER_ERRORS, EnvError, one_line, place_of

# By what their ids begin with. These packages have no entry point by which Gymnasium would find them.
_REGISTERED_ON_IMPORT = {"ALE/": "ale_py", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}
OLD_GYM_ADVICE = (
    "the old gym package, which prl does not use: look for a version of it for gymnasium, "
    "or convert it with shimmy"
)


def register_on_import(prefix: str, module: str) -> None:
    """Name the module to import in the message for an unknown id.

    Args:
        prefix: what the ids begin with, e.g. "ALE/".
        module: registers them when it is imported.
    """
    _REGISTERED_ON_IMPORT[prefix] = module


def find_spec(env: str | EnvSpec) -> tuple[EnvSpec, str | None]:
    """The spec of an id, and the module that registers it (`module:EnvId`).

    Raises:
        EnvError: the id is unknown, or its module cannot be imported.
    """
    if isinstance(env, EnvSpec):
        return env, None
    module, _, env_id = env.rpartition(":")
    if module:
        _import(module, env)
    try:
        spec = gym.spec(env_id)
    except gym.error.Error as error:
        raise EnvError(f"unknown env id {env!r}{_hint(env_id, error)}") from error
    return spec, module or None


def _import(module: str, env: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        what = f"cannot import {module!r} of the env id {env!r}"
        if error.name == "gym":
            raise EnvError(f"{what}: it was written for {OLD_GYM_ADVICE}") from error
        raise EnvError(f"{what}: {one_line(error)}{place_of(error)}") from error
    except USER_ERRORS as error:  # what happens in the module is the user's code
        raise EnvError.of(f"importing {module!r} for {env!r}", error) from error


def _hint(env_id: str, error: Exception) -> str:
    for prefix, package in _REGISTERED_ON_IMPORT.items():
        if env_id.startswith(prefix) and package not in sys.modules:
            return f"; its package registers it on import: {package}:{env_id}"
    if env_id in _old_gym_ids():
        return f"; it is registered with {OLD_GYM_ADVICE}"
    close = difflib.get_close_matches(env_id, gym.registry, n=1)
    return f"; did you mean {close[0]!r}?" if close else f": {one_line(error)}"


def _old_gym_ids() -> Mapping[str, Any]:
    """The registry of the old gym package, if anything has imported that."""
    registration = sys.modules.get("gym.envs.registration")
    registry = getattr(registration, "registry", {})
    ids = getattr(registry, "env_specs", registry)  # before gym 0.26 it was an object
    return ids if isinstance(ids, Mapping) else {}


def is_old_gym_env(env: object) -> bool:
    """Whether a value is an env of the old gym package, which Gymnasium does not accept."""
    return any(kind.__module__.partition(".")[0] == "gym" for kind in type(env).__mro__)


def portable(spec: EnvSpec) -> EnvSpec:
    """A spec whose entry point a worker can find without the user's main script."""
    if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
        creator = cast("Callable[..., AnyEnv]", load_env_creator(spec.entry_point))
        return replace(spec, entry_point=creator)
    return spec


def spec_of(env: AnyEnv) -> EnvSpec | None:
    """The spec of an env and its wrappers; None if it has none."""
    try:
        return env.spec
    except Exception:  # a wrapper that did not record its arguments, or an env with an odd `spec`
        return None


def registered_here() -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """What the learner's process has registered, beyond what `import gymnasium` does.

    Returns:
        Pickled lists of specs, and the ids of specs that cannot be pickled.
    """
    specs = [_portable_if_loadable(spec) for spec in list(gym.registry.values())]
    extra = [spec for spec in specs if not str(spec.entry_point).startswith("gymnasium.")]
    # Those of packages in one pickle, since there may be a thousand of them.
    named = [spec for spec in extra if isinstance(spec.entry_point, str)]
    together = _pickled(named) if named else None
    singly = [spec for spec in extra if together is None or not isinstance(spec.entry_point, str)]
    pickled = [] if together is None else [together]
    left_out = []
    for spec in singly:
        if (alone := _pickled([spec])) is None:
            left_out.append(spec.id)
        else:
            pickled.append(alone)
    return tuple(pickled), tuple(left_out)


def _portable_if_loadable(spec: EnvSpec) -> EnvSpec:
    try:
        return portable(spec)
    except Exception:  # its entry point is a name that the main script has not defined
        return spec


def _pickled(specs: list[EnvSpec]) -> bytes | None:
    try:
        payload: bytes = cloudpickle.dumps(specs)
    except Exception:  # anything may be raised by a user's __reduce__
        return None
    return payload
