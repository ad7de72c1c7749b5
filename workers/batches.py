"""Batches of actions and observations, as Gymnasium's vector envs take and return them, in rows of a slab.

Letters in shapes: N envs, O observation shape, A action shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from workers.arrays import Array, Flags, Ids
from workers.casts import cast_exactly
from workers.errors import shown
from workers.rows import RowCodec, RowError
from workers.space_parts import is_composite, parts


class ActionWriter:
    """Writes a batch of actions into rows.

    Args:
        space: of one action.
        rows: [N, *A], or u8[N, B] for composite spaces.
    """

    def __init__(self, space: gym.Space[Any], rows: Array) -> None:
        self._space = space
        self._rows = rows
        self._codec = RowCodec(space)
        self._columns = self._codec.columns(rows)
        self._batched = gym.vector.utils.batch_space(space, len(rows))

    def write(self, actions: Any, ignored: Flags | None = None) -> None:
        """Write one action per env.

        Args:
            actions: an array [N, *A], a list of N actions, or for composite spaces what Gymnasium's
                `iterate` splits. They are converted to the space's dtype where nothing is lost but digits of
                floats; whether they lie within the bounds of a Box is up to the env.
            ignored: bool[N], envs whose actions nobody will look at.

        Raises:
            ValueError: another number or shape of actions, numbers that the dtype cannot hold or that are
                not finite, or choices that the space does not have. The message names env and action.
            TypeError: no batch.
        """
        if self._codec.plain is None:
            self._write_elements(actions)
        else:
            self._write_batch(actions)
        if not self._codec.is_valid(self._columns, slice(None)):  # for all rows: it costs as much as for one
            self._require_valid(ignored)

    def _write_elements(self, actions: Any) -> None:
        elements = list(self._split(actions))
        self._require(len(elements))
        for row, element in enumerate(elements):
            try:
                self._codec.write(element, self._columns, row)
            except RowError as error:
                what = str(error).replace("observation", "action", 1)
                raise ValueError(f"env {row}: {what}") from None

    def _split(self, actions: Any) -> Iterable[Any]:
        """The actions of a composite space, env by env."""
        single = Mapping if isinstance(self._batched, gym.spaces.Dict) else tuple
        if isinstance(actions, list) and all(isinstance(action, single) for action in actions):
            return actions
        return iter(gym.vector.utils.iterate(self._batched, actions))

    def _write_batch(self, actions: Any) -> None:
        rows = self._rows
        batch = actions if type(actions) is np.ndarray else np.asarray(actions)
        if batch.shape == () or batch.dtype.kind not in "biuf":
            raise TypeError(f"one action per env is needed, got {shown(actions)}")
        if batch.dtype != rows.dtype:
            batch = self._converted(batch)
        if batch.shape != rows.shape:
            self._require(len(batch))
            if batch.size != rows.size:
                raise ValueError(f"actions of shape {batch.shape}, expected {rows.shape}")
            batch = batch.reshape(rows.shape)
        rows[...] = batch

    def _converted(self, batch: Array) -> Array:
        dtype = self._rows.dtype
        exact = cast_exactly(batch, dtype)
        if exact is not None:
            return exact
        env, action = next(
            (env, action)
            for env, action in enumerate(batch)
            if cast_exactly(np.asarray(action), dtype) is None
        )
        raise ValueError(
            f"env {env}: the action {shown(action)} does not fit {self._name}, which has {dtype}"
        )

    def _require(self, count: int) -> None:
        if count != len(self._rows):
            raise ValueError(f"one action per env is needed: {len(self._rows)}, got {count}")

    def _require_valid(self, ignored: Flags | None) -> None:
        for env in range(len(self._rows)):
            if ignored is not None and ignored[env]:
                continue
            if not self._codec.is_valid(self._columns, slice(env, env + 1)):
                action = shown(self._codec.unpack(self._rows[env]))
                floats = [column[env] for column in self._columns if column.dtype.kind == "f"]
                if all(np.isfinite(values).all() for values in floats):
                    raise ValueError(f"env {env}: the action {action} is not in {self._name}")
                raise ValueError(f"env {env}: the action {action} is not finite")

    @property
    def _name(self) -> str:
        return f"the action space {' '.join(str(self._space).split())}"


class ObsReader:
    """Reads a batch of observations from rows, as Gymnasium's vector envs return it.

    Args:
        space: of one observation.
        rows: [N, *O], or u8[N, B] for composite spaces.
    """

    def __init__(self, space: gym.Space[Any], rows: Array) -> None:
        self._space = space
        self._rows = rows
        self._codec = RowCodec(space)
        self._columns = self._codec.columns(rows)
        self._is_plain = self._codec.plain is not None

    def read(self) -> Any:
        """A copy of all rows: an array, or dicts and tuples of arrays."""
        return self._rows.copy() if self._is_plain else _batched(self._space, iter(self._columns))

    def elements(self, env_ids: Ids) -> Iterable[Any]:
        """The observations of some envs, in the format of a single env."""
        return self._codec.read(self._rows[env_ids])


def _batched(space: gym.Space[Any], columns: Any) -> Any:
    if not is_composite(space):
        return next(columns).copy()
    inner = [(key, _batched(part, columns)) for key, part in parts(space)]
    return dict(inner) if isinstance(space, gym.spaces.Dict) else tuple(value for _, value in inner)
