"""Which attributes two envs of the same kind differ in, found without trusting anybody's `__eq__`."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.wrappers import PassiveEnvChecker

AnyEnv: TypeAlias = "gym.Env[Any, Any]"

# `env` is the next layer, `spec` says how the env was made, and reset(seed=...) replaces the generator.
_NOT_COMPARED = {"env", "spec", "_cached_spec", "_np_random", "_np_random_seed"}
_Seen: TypeAlias = "dict[tuple[int, int], tuple[Any, Any]]"


class Attribute(NamedTuple):
    """An attribute of a wrapper or of the env itself: layer 0 is the outermost wrapper."""

    layer: int
    name: str


def layers(env: AnyEnv) -> list[AnyEnv]:
    """The wrappers, outermost first, and the env itself, without Gymnasium's passive checker."""
    found = []
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, PassiveEnvChecker):
            found.append(env)
        env = env.env
    return [*found, env]


def same_kind(first: AnyEnv, second: AnyEnv) -> bool:
    """Whether classes, layer by layer, and spaces agree."""
    return (
        [type(layer) for layer in layers(first)] == [type(layer) for layer in layers(second)]
        and first.observation_space == second.observation_space
        and first.action_space == second.action_space
    )


def differences(first: AnyEnv, second: AnyEnv) -> list[Attribute]:
    """The attributes that differ between two envs of the same kind, outermost layer first.

    Random generators and the specs that envs were made from do not count. Values are compared part by
    part. Two values of one type that can neither be looked into nor pickled (windows, locks, handles of
    C libraries) count as equal, since nothing can be said about them.
    """
    pairs = list(zip(layers(first), layers(second), strict=True))
    found = []
    for index, (one, other) in enumerate(pairs):
        here, there = attributes(one), attributes(other)
        for name in sorted(here.keys() | there.keys()):
            if name in _NOT_COMPARED:
                continue
            if name not in here or name not in there:
                found.append(Attribute(index, name))
            else:
                # Parts that refer back to an env do not differ because of its other attributes.
                seen: _Seen = {(id(mine), id(theirs)): (mine, theirs) for mine, theirs in pairs}
                with contextlib.suppress(RecursionError):  # nested too deeply to be looked into
                    if not _equal(here[name], there[name], seen):
                        found.append(Attribute(index, name))
    return found


def _equal(one: Any, other: Any, seen: _Seen) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    if type(one) is not type(other):
        return False
    # Objects may refer to themselves: the difference is found where the pair was met first. The pair is
    # kept, or its ids could be given to others.
    seen[id(one), id(other)] = (one, other)
    for kinds, same in _CHECKS:
        if isinstance(one, kinds):
            return same(one, other)
    return all(_equal(mine, theirs, seen) for mine, theirs in _pairs(one, other))


def _same_atoms(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and math.isnan(one) and math.isnan(other)
    return both_nan or bool(one == other)


def _same_arrays(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.hasobject:
        return _same_bytes(one, other)
    return bool(np.asarray(one).tobytes() == np.asarray(other).tobytes())


def _same_bytes(one: Any, other: Any) -> bool:
    """By their pickles. What cannot be pickled counts as equal to others of its type."""
    return _pickled(one) == _pickled(other)


def _pickled(value: Any) -> bytes | None:
    try:
        # Through one round trip: equal values may differ in which of their parts are one object.
        once: bytes = cloudpickle.dumps(cloudpickle.loads(cloudpickle.dumps(value)))
    except Exception:  # anything may be raised by a user's __reduce__
        return None
    return once


_CHECKS: tuple[tuple[tuple[type, ...], Callable[[Any, Any], bool]], ...] = (
    ((np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random), lambda *_: True),
    ((type(None), bool, int, float, complex, str, bytes, type, types.ModuleType), _same_atoms),
    ((np.ndarray, np.generic), _same_arrays),
    ((gym.Space,), lambda one, other: bool(one == other)),
    ((set, frozenset), lambda one, other: bool(one == other) or _same_bytes(one, other)),
)


def _pairs(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """What has to be equal in two values of one type."""
    if isinstance(one, dict):
        return [*_pairs_of_values(one, other), *_pairs_of_attributes(one, other)]
    if isinstance(one, list | tuple | deque):
        # The lengths first: `zip` stops at the shorter one.
        return [(len(one), len(other)), *zip(one, other, strict=False), *_pairs_of_attributes(one, other)]
    if (parts := _parts(one)) is not None:
        return list(zip(parts, _parts(other) or (), strict=True))
    if _is_made_of_attributes(type(one)) and (pairs := _pairs_of_attributes(one, other)):
        return pairs
    return [(_reduced(one), _reduced(other))]


def _is_made_of_attributes(kind: Any) -> bool:
    """Whether a class leaves its pickling to Python, which saves the attributes."""
    return kind.__reduce__ is object.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__


def _parts(value: Any) -> tuple[Any, ...] | None:
    """What makes up a function; None for other things."""
    if isinstance(value, types.FunctionType):
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        return value.__code__, value.__defaults__, value.__kwdefaults__, cells
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_consts
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    return None


def _reduced(value: Any) -> Any:
    """What pickle would save of an object whose class says that itself; None if it cannot be pickled."""
    try:
        if hasattr(value, "detach"):  # a tensor, whose pickle says where in memory it is
            return np.asarray(value.detach().cpu())
        reduced = value.__reduce_ex__(4)
    except Exception:  # anything may be raised by a user's __reduce__
        return None
    if isinstance(reduced, str):
        return reduced
    # Items of lists and mappings come as iterators.
    return tuple(list(part) if isinstance(part, Iterator) else part for part in reduced)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not assigned yet
        return None


def _pairs_of_attributes(one: Any, other: Any) -> list[tuple[Any, Any]]:
    return _pairs_of_values(attributes(one), attributes(other))


def _pairs_of_values(one: dict[Any, Any], other: dict[Any, Any]) -> list[tuple[Any, Any]]:
    if one.keys() != other.keys():
        return [(True, False)]
    return [(one[key], other[key]) for key in one]


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object by name, in a new dict: also those in the slots of its classes."""
    return dict(_slots(value)) | getattr(value, "__dict__", {})


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    # Base classes first: of two slots of one name, that of the subclass is seen.
    for kind in reversed(type(value).__mro__):
        members = kind.__dict__.items() if "__slots__" in kind.__dict__ else ()
        for name, member in members:  # the name as Python has mangled it, if it is private
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # it is not set
                    yield name, member.__get__(value)
