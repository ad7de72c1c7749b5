"""Checking settings: one table of rules per config, one clear line per mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


class ConfigError(ValueError):
    """A setting is wrong; the message names it and says what is allowed."""


Rule = tuple[str, Callable[[Any], bool], str]
"""Field names, separated by spaces; a predicate; what it allows, in words."""


def check(config: Any, rules: tuple[Rule, ...]) -> None:
    """Apply the rules to the fields of a config. None is allowed where it is the default.

    Args:
        config: a dataclass.
        rules: see `Rule`.

    Raises:
        ConfigError: the first field that breaks its rule.
    """
    optional = {item.name for item in dataclasses.fields(config) if item.default is None}
    for names, allowed, words in rules:
        for name in names.split():
            value = getattr(config, name)
            if not (name in optional if value is None else _holds(allowed, value)):
                raise ConfigError(f"{name} must be {words}, got {value!r}")


def _holds(allowed: Callable[[Any], bool], value: Any) -> bool:
    try:
        return allowed(value)
    except TypeError:  # another type than the rule speaks of
        return False
