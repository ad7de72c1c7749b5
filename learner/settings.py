"""Checking settings: one table of rules per config, one clear line per mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ConfigError(ValueError):
    """A setting is wrong; the message names it and says what is allowed."""


Rule = tuple[str, Callable[[Any], bool], str]
"""Field names, separated by spaces; a predicate; what it allows, in words."""


def check(config: object, rules: tuple[Rule, ...]) -> None:
    """Apply the rules to the fields of a config; None is always allowed.

    Raises:
        ConfigError: the first field that breaks its rule.
    """
    for names, allowed, words in rules:
        for name in names.split():
            value = getattr(config, name)
            if value is not None and not allowed(value):
                raise ConfigError(f"{name} must be {words}, got {value!r}")
