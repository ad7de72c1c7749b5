"""Pickling what a worker process needs, and naming what cannot be pickled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cloudpickle

from workers.errors import EnvError, one_line


def dumps(name: str, value: object, transparent: tuple[type, ...] = ()) -> bytes:
    """Pickle by cloudpickle.

    Args:
        name: of the env, for the message.
        value: what a worker needs.
        transparent: classes whose attributes are named in messages without the class's own labels.

    Raises:
        EnvError: it cannot be pickled; the message names the attribute, argument or variable.
    """
    try:
        payload: bytes = cloudpickle.dumps(value)
    except Exception as error:  # anything may be raised by a user's __reduce__
        culprit = _unpicklable_part(value, transparent)
        raise EnvError(f"{name} cannot be sent to a worker process: {culprit}{one_line(error)}") from error
    return payload


def _unpicklable_part(value: object, transparent: tuple[type, ...]) -> str:
    """Name the attribute, argument or variable that cannot be pickled, as far as one can be found."""
    path: list[str] = []
    culprit: tuple[str, object] | None = ("", value)
    while culprit is not None and len(path) < 8:
        label, value = culprit
        path += [label] if label else []
        culprit = next((part for part in parts(value, transparent) if not _picklable(part[1])), None)
    return f"{'.'.join(path)}: " if path else ""


def parts(value: object, transparent: tuple[type, ...] = ()) -> Iterator[tuple[str, object]]:
    """What a value drags along when it is pickled: attributes, closure and global variables, by name.

    Args:
        value: e.g. a function.
        transparent: classes whose attributes get the name "".
    """
    if isinstance(value, dict):  # keyword arguments
        yield from ((str(label), part) for label, part in value.items())
    for label, part in getattr(value, "__dict__", {}).items():
        yield "" if isinstance(value, transparent) else label, part
    code = getattr(value, "__code__", None)
    if code is not None:
        cells = getattr(value, "__closure__", None) or ()
        for label, cell in zip(code.co_freevars, cells, strict=True):
            with contextlib.suppress(ValueError):  # a variable that is not assigned yet
                yield label, cell.cell_contents
        names = getattr(value, "__globals__", {})
        yield from ((label, names[label]) for label in code.co_names if label in names)


def _picklable(value: object) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True
