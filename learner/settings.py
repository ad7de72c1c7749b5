"""Checking settings: their types, one table of rules per config, one clear line per mistake."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool, np.bool_), "true or false"),
    int: ((numbers.Integral,), "an integer"),
    float: ((numbers.Real,), "a number"),
    str: ((str,), "text"),
    Path: ((str, os.PathLike), "a path"),
    type(None): ((type(None),), "null"),
}
"""The accepted Python types of a setting, and their description in messages."""


class ConfigError(ValueError):
    """A setting is wrong; the message names it and says what is allowed."""


Rule = tuple[str, Callable[[Any], bool], str]
"""Field names, separated by spaces; a predicate; what it allows, in words."""


def check(config: Any, rules: tuple[Rule, ...]) -> None:
    """Check that the fields of a config have their annotated types and satisfy the rules.

    A field whose default is None may be None.

    Args:
        config: a dataclass.
        rules: see `Rule`.

    Raises:
        ConfigError: names the first field that has another type or breaks its rule.
    """
    for name, hint in get_type_hints(type(config)).items():
        if not has_type(getattr(config, name), hint):
            raise ConfigError(f"{name} must be {type_in_words(hint)}, got {getattr(config, name)!r}")
    optional = {item.name for item in dataclasses.fields(config) if item.default is None}
    for names, allowed, words in rules:
        for name in names.split():
            value = getattr(config, name)
            if not (name in optional if value is None else allowed(value)):
                raise ConfigError(f"{name} must be {words}, got {value!r}")


def require(allowed: Callable[[Any], bool], words: str, **values: Any) -> None:
    """Check keyword arguments that belong to no config dataclass.

    Args:
        allowed: a predicate.
        words: what it allows.
        values: by name.

    Raises:
        ConfigError: names the first value that breaks the rule.
    """
    for name, value in values.items():
        if not allowed(value):
            raise ConfigError(f"{name} must be {words}, got {value!r}")


def require_counts(**values: Any) -> None:
    """Require integers of at least 1.

    Raises:
        ConfigError: names the first value that is something else.
    """
    require(is_integer, "an integer, at least 1", **values)


def require_instance(kind: type, words: str, **values: Any) -> None:
    """Require objects of a class.

    Args:
        kind: the class.
        words: what such an object is.
        values: by name.

    Raises:
        ConfigError: names the first value that is something else.
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            got = f"the class {value.__name__}" if isinstance(value, type) else f"one {type(value).__name__}"
            raise ConfigError(f"{name} must be {words}, got {'None' if value is None else got}")


def is_integer(value: Any, least: int = 1) -> bool:
    """Whether a value is an integer of at least `least`; true and false are not integers."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any, above: float = -math.inf) -> bool:
    """Whether a value is a finite number greater than `above`; true and false are not numbers."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and above < value < math.inf


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value matches a type annotation. NumPy's scalars count as Python's."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, types.UnionType):
        return any(has_type(value, part) for part in parts)
    if origin is Sequence:
        items = isinstance(value, Sequence) and not isinstance(value, str)
        return items and all(has_type(item, parts[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if hint not in _TYPES:  # the type of a field that a subclass of the config added
        return True
    return isinstance(value, _TYPES[hint][0]) and (hint is bool or not isinstance(value, bool))


def type_in_words(hint: Any) -> str:
    """A type in words: `int | None` is "an integer or null"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(str(choice) for choice in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(type_in_words(part) for part in parts)
    if origin is Sequence:
        return f"a list, each {type_in_words(parts[0])}"
    if origin is Mapping:
        return "a mapping"
    return _TYPES[hint][1] if hint in _TYPES else str(hint)
