"""Metrics of a run that goes on from a checkpoint: what was written after it is dropped."""

from __future__ import annotations

import csv
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_RECORD = struct.Struct("<QI")  # length, and its checksum; the data and its checksum follow
_CHECKSUM = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of fields in Protocol Buffers
_STEP = 2  # the field of TensorBoard's Event


def rewind_csv(path: Path, column: str, timesteps: int) -> list[str]:
    """Cut the rows off a CSV file that were written after a number of steps, and half a row at its end.

    Args:
        path: of the file; it need not be there.
        column: holds steps, in ascending order and 8 digits.
        timesteps: of the last row that stays.

    Returns:
        The names of the columns; none if the file has to begin anew.

    Raises:
        OSError: the file cannot be read or cut.
    """
    if not path.exists():
        return []
    names: list[str] = []
    end, limit = 0, float(f"{timesteps:.8g}")
    with path.open("rb") as file:
        for line in file:
            cells = next(csv.reader([line.decode(errors="replace")]), [])
            if not names:
                if column not in cells or not line.endswith(b"\n"):
                    break
                names = cells
            else:
                steps = _steps(cells, names, column) if line.endswith(b"\n") else None
                if steps is None or steps > limit:
                    break
            end += len(line)
    os.truncate(path, end)
    return names


def _steps(cells: list[str], names: list[str], column: str) -> float | None:
    """None if it is no whole row."""
    try:
        return float(dict(zip(names, cells, strict=True))[column])
    except ValueError:
        return None


def rewind_events(folder: Path, timesteps: int) -> None:
    """Cut the events off TensorBoard's files that were written after a number of steps.

    Args:
        folder: of the files; it need not be there.
        timesteps: of the last event that stays.

    Raises:
        OSError: a file cannot be read or cut.
    """
    for path in sorted(folder.glob("*tfevents*")):
        end = 0
        with path.open("rb") as file:
            for data in _records(file.read()):
                if _step(data) > timesteps:
                    break
                end += _RECORD.size + len(data) + _CHECKSUM
        os.truncate(path, end)


def _records(content: bytes) -> Iterator[bytes]:
    """The whole records of a file of TensorFlow's format, in order."""
    start = 0
    while start + _RECORD.size <= len(content):
        length, _ = _RECORD.unpack_from(content, start)
        stop = start + _RECORD.size + length
        if stop + _CHECKSUM > len(content):
            return
        yield content[start + _RECORD.size : stop]
        start = stop + _CHECKSUM


def _step(event: bytes) -> int:
    """The step of an event; 0 if it has none, as the first of a file."""
    position = 0
    try:
        while position < len(event):
            key, position = _varint(event, position)
            kind = key & 7
            if kind == _VARINT:
                value, position = _varint(event, position)
                if key >> 3 == _STEP:
                    return value
            elif kind == _BYTES:
                length, position = _varint(event, position)
                position += length
            else:
                position += {_FIXED64: 8, _FIXED32: 4}[kind]
    except (IndexError, KeyError):  # not an event as they are written
        pass
    return 0


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and the position after it."""
    value = shift = 0
    while True:
        digit = data[position]
        value |= (digit & 127) << shift
        position, shift = position + 1, shift + 7
        if digit < 128:
            return value, position
