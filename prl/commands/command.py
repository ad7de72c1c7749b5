"""What a module of this package says of its command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Config = TypeVar("Config")


@dataclass(frozen=True)
class Command(Generic[Config]):
    """One command.

    Attributes:
        config_class: a flat dataclass; its fields are the flags, its docstring their help.
        run: carries the command out, and returns its exit code; None is 0.
        positional: the field that is given without a flag.
    """

    config_class: type[Config]
    run: Callable[[Config], int | None]
    positional: str | None = None
