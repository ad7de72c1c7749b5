"""The infos of envs on their way from a worker, as columns.

Infos that have the same keys and types make up a group: their numbers travel as one array per key, which
costs a fraction of pickling each dict, and what they have in common travels once, as a *schema*. What is
neither a number nor an array of numbers travels as a pickle (see `workers.data_pickle`). Empty infos are not
sent at all. G is the number of infos in a group.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from workers import data_pickle
from workers.arrays import Array, Ids
from workers.errors import EnvFailure, ProtocolError, describe
from workers.global_random import GloballySeededEnv
from workers.returns import ReturnError

_GROUP = struct.Struct("<?HII")  # restarted, number of the schema, bytes of its definition, G
_SIZE = struct.Struct("<I")
_ROW = np.dtype(np.int32)
_MAX_SCHEMAS = 1 << 10  # an env may name its keys by a counter: then no schema is kept any longer
_PYTHON: dict[type, str] = {int: "int", float: "float", bool: "bool"}


class Leaf(NamedTuple):
    """One entry of an info.

    Attributes:
        path: its key, after those of the dicts around it.
        kind: "int", "float" or "bool" of Python; "number", a NumPy scalar; "array"; "object", anything else;
            "empty", a dict without keys.
        dtype, shape: of a number or array; "" and () of an object.
    """

    path: tuple[Any, ...]
    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()


Schema: TypeAlias = "tuple[Leaf, ...]"


@dataclass
class _Group:
    """The infos of one schema that wait to be sent."""

    number: int
    schema: Schema
    restarted: bool
    is_new: bool = True
    rows: list[int] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)


class InfoTap:
    """An env whose infos of steps are recorded.

    Args:
        env: the env.
        row: its row.
        recorder: takes the infos.
    """

    def __init__(self, env: GloballySeededEnv, row: int, recorder: InfoRecorder) -> None:
        self._env = env
        self._row = row
        self._record = recorder.record

    def step(self, action: Any) -> Any:
        """As the env's."""
        returned = self._env.step(action)
        if isinstance(returned, tuple | list) and len(returned) == 5 and returned[4]:
            self._record(self._row, returned[4])
        return returned


class InfoRecorder:
    """Gathers the infos of a block of envs until they are sent.

    Args:
        first_env: index of the env in row 0, for messages.
    """

    def __init__(self, first_env: int) -> None:
        self._first_env = first_env
        self._open: list[_Group] = []
        self._groups: dict[tuple[bool, Schema], _Group] = {}
        # By keys and types, of infos that hold nothing but numbers: the usual, found without a closer look.
        self._simple: tuple[dict[tuple[Any, ...], _Group], ...] = ({}, {})

    def record(self, row: int, info: Any, restarted: bool = False) -> None:
        """Keep an info; its values are taken now, since the env may change them later.

        Args:
            row: of the env.
            info: a mapping.
            restarted: whether it is that of a reset in the step that has ended the episode before.

        Raises:
            ReturnError: it is no mapping.
        """
        if type(info) is not dict:
            if not isinstance(info, Mapping):
                raise ReturnError(f"returned an info of type {type(info).__name__}, not a dict")
            info = dict(info)
        types = (*info, *map(type, info.values()))
        group = self._simple[restarted].get(types)
        if group is not None:
            values = tuple(info.values())
        else:
            pairs = list(_flattened(info, ()))
            schema, values = tuple(leaf for leaf, _ in pairs), tuple(value for _, value in pairs)
            group = self._group(schema, restarted)
            if all(len(leaf.path) == 1 and leaf.kind in _SCALARS for leaf in schema):
                self._simple[restarted][types] = group
        if not group.rows:
            self._open.append(group)
        group.rows.append(row)
        group.values.append(values)

    def _group(self, schema: Schema, restarted: bool) -> _Group:
        if (known := self._groups.get((restarted, schema))) is not None:
            return known
        number = len(self._groups)
        if number >= _MAX_SCHEMAS:
            self._groups.clear()  # numbers are given anew; each definition comes before its first use
            for groups in self._simple:
                groups.clear()
            number = 0
        group = _Group(number, schema, restarted)
        self._groups[restarted, schema] = group
        return group

    def take(self) -> bytes:
        """All that was recorded; b"" for nothing.

        Raises:
            EnvFailure: a value cannot be sent. The message names env and key.
        """
        if not self._open:
            return b""
        data = b"".join([part for group in self._open for part in self._encoded(group)])
        self._open.clear()
        return data

    def _encoded(self, group: _Group) -> Iterator[bytes]:
        definition = data_pickle.dump([tuple(leaf) for leaf in group.schema]) if group.is_new else b""
        group.is_new = False
        yield _GROUP.pack(group.restarted, group.number, len(definition), len(group.rows))
        yield definition
        yield np.array(group.rows, _ROW).tobytes()
        for leaf, column in zip(group.schema, zip(*group.values, strict=True), strict=True):
            if leaf.kind == "empty":
                continue
            try:
                yield from _column_bytes(leaf, column)
            except Exception as error:  # the user's `__reduce__`, or an int that no 64 bits hold
                env = self._first_env + group.rows[0]
                raise EnvFailure(
                    f"env {env}: {path_text(leaf.path)} cannot be sent: {describe(error)}"
                ) from error
        group.rows.clear()
        group.values.clear()


_SCALARS = {"int", "float", "bool", "number"}


def path_text(path: Sequence[Any]) -> str:
    """How messages name an entry: "info['episode']['r']"."""
    return "info" + "".join(f"[{key!r}]" for key in path)


def _flattened(info: dict[Any, Any], path: tuple[Any, ...]) -> Iterator[tuple[Leaf, Any]]:
    """The leaves of an info and their values, in order. Arrays are copied: envs use theirs again."""
    for key, value in info.items():
        here, kind = (*path, key), type(value)
        if kind in _PYTHON:
            yield Leaf(here, _PYTHON[kind], np.dtype(kind).str), value
        elif isinstance(value, np.number | np.bool_):
            yield Leaf(here, "number", value.dtype.str), value
        elif kind is np.ndarray and value.dtype.kind in "biufc":
            yield Leaf(here, "array", value.dtype.str, value.shape), value.copy()
        elif isinstance(value, dict) and value:
            yield from _flattened(value, here)
        else:
            yield Leaf(here, "empty" if isinstance(value, dict) else "object"), value


def _column_bytes(leaf: Leaf, column: Sequence[Any]) -> Iterator[bytes]:
    if leaf.kind == "object":
        data = data_pickle.dump(list(column))
        yield _SIZE.pack(len(data))
        yield data
    else:
        yield np.array(column, leaf.dtype).tobytes()


class InfoGroup(NamedTuple):
    """Infos of one schema.

    Attributes:
        env_ids: i64[G].
        schema: L leaves.
        columns: L of them: an array [G, *shape], or for objects a list of G.
        restarted: whether they are of resets in the steps that ended the episodes before.
    """

    env_ids: Ids
    schema: Schema
    columns: list[Array | list[Any]]
    restarted: bool


class InfoReader:
    """Reads what the `InfoRecorder` of one worker has sent.

    Args:
        first_env: index of the env in row 0.
        any_objects: see `workers.data_pickle.load`.
    """

    def __init__(self, first_env: int, any_objects: bool = False) -> None:
        self._first_env = first_env
        self._any_objects = any_objects
        self._schemas: dict[int, Schema] = {}

    def read(self, data: memoryview) -> list[InfoGroup]:
        """The groups, in the order in which the envs have begun them.

        Raises:
            ProtocolError: the bytes make no sense.
            NotData: an info holds something else than data; the message names the entry.
        """
        groups = []
        try:
            while data:
                group, data = self._next(data)
                groups.append(group)
        except data_pickle.NotData:
            raise
        except (ValueError, TypeError, KeyError, struct.error, pickle.UnpicklingError, EOFError) as error:
            raise ProtocolError(f"infos that make no sense: {describe(error)}") from error
        return groups

    def _next(self, data: memoryview) -> tuple[InfoGroup, memoryview]:
        restarted, number, size, count = _GROUP.unpack_from(data)
        data = data[_GROUP.size :]
        if size:
            definition = data_pickle.load(data[:size])
            self._schemas[number] = tuple(Leaf(*leaf) for leaf in definition)
        schema = self._schemas[number]
        data = data[size:]
        rows = np.frombuffer(data, _ROW, count).astype(np.int64) + self._first_env
        data = data[count * _ROW.itemsize :]
        columns: list[Array | list[Any]] = []
        for leaf in schema:
            column, data = self._column(leaf, count, data)
            columns.append(column)
        return InfoGroup(rows, schema, columns, restarted), data

    def _column(self, leaf: Leaf, count: int, data: memoryview) -> tuple[Array | list[Any], memoryview]:
        if leaf.kind == "empty":
            return [{}] * count, data
        if leaf.kind == "object":
            (size,) = _SIZE.unpack_from(data)
            return self._objects(leaf, data[_SIZE.size : _SIZE.size + size]), data[_SIZE.size + size :]
        dtype = np.dtype(leaf.dtype)
        numbers = count * int(np.prod(leaf.shape, dtype=np.int64))
        column = np.frombuffer(data, dtype, numbers).reshape(count, *leaf.shape)
        return column, data[numbers * dtype.itemsize :]

    def _objects(self, leaf: Leaf, data: memoryview) -> list[Any]:
        try:
            values: list[Any] = data_pickle.load(data, self._any_objects)
        except data_pickle.NotData as error:
            raise data_pickle.NotData(
                f"{path_text(leaf.path)} holds a {error}, which is not plain data: any_objects=True takes "
                "objects of every class, or a wrapper of the env can leave the key out"
            ) from None
        return values
