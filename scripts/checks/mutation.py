"""What one mistake of `mutation_check.py` is."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One mistake. `right` stands exactly once in `file`."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]
