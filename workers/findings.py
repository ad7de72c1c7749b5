"""What an examination of an env has found, in rows that people and programs can read."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Severity(enum.IntEnum):
    """How much a finding matters; the worst of all decides on the exit code."""

    OK = 0
    """As it should be."""
    NOTE = 1
    """Worth knowing; nothing has to be done."""
    WARNING = 2
    """It can be trained, but something does not work as well as it could, or as promised."""
    ERROR = 3
    """It cannot be trained so."""


@dataclass(frozen=True)
class Finding:
    """One row.

    Attributes:
        name: what was looked at, one or two words.
        severity: how much it matters.
        text: what was found, a sentence or two in one line.
        numbers: for programs; plain data.
    """

    name: str
    severity: Severity
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "name": self.name,
            "severity": self.severity.name.lower(),
            "text": self.text,
            **({"numbers": dict(self.numbers)} if self.numbers else {}),
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Finding:
        """The finding of `to_json`. Raises KeyError if it is none."""
        severity = Severity[content["severity"].upper()]
        return cls(content["name"], severity, content["text"], content.get("numbers", {}))


def ok(name: str, text: str, **numbers: Any) -> Finding:
    """A finding of severity OK."""
    return Finding(name, Severity.OK, text, numbers)


def note(name: str, text: str, **numbers: Any) -> Finding:
    """A finding of severity NOTE."""
    return Finding(name, Severity.NOTE, text, numbers)


def warning(name: str, text: str, **numbers: Any) -> Finding:
    """A finding of severity WARNING."""
    return Finding(name, Severity.WARNING, text, numbers)


def error(name: str, text: str, **numbers: Any) -> Finding:
    """A finding of severity ERROR."""
    return Finding(name, Severity.ERROR, text, numbers)
