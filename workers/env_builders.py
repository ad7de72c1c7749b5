"""Functions without arguments that return a new env: what an `EnvFactory` carries to the workers."""

from __future__ import annotations

import importlib
import inspect
import io
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import PassiveEnvChecker, TimeLimit

from workers.env_compare import AnyEnv, Attribute, attributes, layers
from workers.env_specs import find_spec
from workers.errors import EnvError, one_line
from workers.wrappers import NamedWrapper

Builder: TypeAlias = "Callable[[], AnyEnv]"


@dataclass(frozen=True)
class FromSpec:
    """By `gymnasium.make`, after importing the module that registers the env, if there is one."""

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
class FromModule:
    """By the id of an env that a module registers, which is only imported where envs are built.

    Raises:
        EnvError: the module cannot be imported, or the id is unknown after it.
    """

    env: str
    kwargs: dict[str, Any]
    max_episode_steps: int | None

    def __call__(self) -> AnyEnv:
        spec, _ = find_spec(self.env)
        return FromSpec(spec, self.kwargs, self.max_episode_steps)()


@dataclass(frozen=True)
class FromCallable:
    """By a class or function of the user's."""

    function: Callable[..., AnyEnv]
    kwargs: dict[str, Any]

    def __call__(self) -> AnyEnv:
        return self.function(**self.kwargs)


@dataclass(frozen=True)
class FromPickle:
    """By unpickling, without Gymnasium's passive checker."""

    env: bytes

    def __call__(self) -> AnyEnv:
        env: AnyEnv = _without_checker(cloudpickle.loads(self.env))
        layer = env
        while isinstance(layer, gym.Wrapper):
            layer.env = _without_checker(layer.env)
            layer = layer.env
        return env


def _without_checker(env: AnyEnv) -> AnyEnv:
    while isinstance(env, PassiveEnvChecker):
        env = env.env
    return env


class _AttributePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Attributes may refer to the env that they belong to: then to its copy in the copy."""

    def __init__(self, file: io.BytesIO, env: AnyEnv) -> None:
        super().__init__(file)
        self._index = {id(layer): index for index, layer in enumerate(layers(env))}

    def persistent_id(self, obj: Any) -> int | None:
        return self._index.get(id(obj))


class _AttributeUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, env: AnyEnv) -> None:
        super().__init__(file)
        self._layers = layers(env)

    def persistent_load(self, pid: Any) -> AnyEnv:
        layer: AnyEnv = self._layers[pid]
        return layer


def pickle_attributes(env: AnyEnv, names: list[Attribute]) -> bytes:
    """The values of some attributes of an env. Raises whatever pickling one of them raises."""
    stack = layers(env)
    file = io.BytesIO()
    values = [attributes(stack[layer])[name] for layer, name in names]
    _AttributePickler(file, env).dump(values)
    return file.getvalue()


@dataclass(frozen=True)
class WithAttributes:
    """An env whose attributes were set after it had been made.

    Attributes:
        build: makes the env as it was.
        changed: the attributes that are set, in the order of `values`.
        values: by `pickle_attributes`.
        deleted: the attributes that are removed.
    """

    build: Builder
    changed: tuple[Attribute, ...]
    values: bytes
    deleted: tuple[Attribute, ...] = ()

    def __call__(self) -> AnyEnv:
        env = self.build()
        stack = layers(env)
        values = _AttributeUnpickler(io.BytesIO(self.values), env).load()
        for (layer, name), value in zip(self.changed, values, strict=True):
            _set(stack[layer], name, value)
        for layer, name in self.deleted:
            if name in vars(stack[layer]):
                del vars(stack[layer])[name]
            else:  # a slot
                object.__delattr__(stack[layer], name)
        return env


def _set(layer: AnyEnv, name: str, value: Any) -> None:
    """Set an attribute, without asking the env's class unless the attribute lies in a slot of it."""
    if isinstance(inspect.getattr_static(type(layer), name, None), types.MemberDescriptorType):
        object.__setattr__(layer, name, value)
    else:
        vars(layer)[name] = value


@dataclass(frozen=True)
class WithTimeLimit:
    """Episodes are truncated after `max_episode_steps`, instead of at the env's own `TimeLimit`."""

    build: Builder
    max_episode_steps: int

    def __call__(self) -> AnyEnv:
        env = self.build()
        limits = [layer for layer in layers(env) if isinstance(layer, TimeLimit)]
        for limit in limits:
            limit._max_episode_steps = self.max_episode_steps
        return env if limits else TimeLimit(env, self.max_episode_steps)


@dataclass(frozen=True)
class WithWrappers:
    """With wrappers around the env, from the inside out."""

    build: Builder
    wrappers: tuple[NamedWrapper, ...]

    def __call__(self) -> AnyEnv:
        env = self.build()
        for wrapper in self.wrappers:
            env = wrapper(env)
        return env


@dataclass(frozen=True)
class WithRegistry:
    """With env ids that only the learner's process has registered, for functions that call `gym.make`.

    Attributes:
        build: may look ids up.
        specs: pickled lists of specs.
        left_out: ids that cannot be pickled.

    Raises:
        EnvError: an id is unknown here; the message says which ids could not be sent.
    """

    build: Builder
    specs: tuple[bytes, ...]
    left_out: tuple[str, ...] = ()

    def __call__(self) -> AnyEnv:
        for pickled in self.specs:
            for spec in cloudpickle.loads(pickled):
                gym.registry.setdefault(spec.id, spec)
        try:
            return self.build()
        except gym.error.UnregisteredEnv as error:
            if not self.left_out:
                raise
            raise EnvError(
                f"{one_line(error)} (registered in the main process only, and cannot be pickled: "
                f"{', '.join(self.left_out)}; register it in a module that the function imports)"
            ) from error


def with_argument(build: Builder, name: str, value: Any) -> Builder:
    """A builder that gives one more keyword argument to the env's constructor.

    Args:
        build: one of the builders of this module.
        name, value: of the argument.

    Raises:
        EnvError: the argument is given already, is no name, or nothing is constructed.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise EnvError(f"env_index_kwarg must be the name of an argument, such as port_offset, got {name!r}")
    if isinstance(build, FromSpec | FromModule | FromCallable):
        if name in build.kwargs:
            raise EnvError(f"{name} cannot be an argument of the env and get its index, too")
        return replace(build, kwargs={**build.kwargs, name: value})
    if isinstance(build, WithTimeLimit | WithWrappers | WithRegistry):
        return replace(build, build=with_argument(build.build, name, value))
    raise EnvError(f"an env that exists already cannot get its index as {name}; pass its id or class")


BUILDERS = (FromSpec, FromModule, FromCallable, WithAttributes, WithTimeLimit, WithWrappers, WithRegistry)
"""Classes whose attributes are named in messages without a label of their own."""
