"""The infos of a batch as other libraries want them: a dict of arrays, or a list of dicts.

N is the number of envs, G that of the infos in a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from workers.arrays import Array, Ids
from workers.infos import InfoGroup, Leaf

Infos: TypeAlias = "dict[Any, Any]"
Column: TypeAlias = "Array | list[Any]"


class _Piece(NamedTuple):
    """A group, or those of its envs whose episodes have ended, or the others."""

    env_ids: Ids
    group: InfoGroup
    rows: Ids | None
    is_final: bool


def as_vector(groups: Sequence[InfoGroup], final: dict[int, Any], num_envs: int) -> Infos:
    """The infos as Gymnasium's vector envs return them: an array [N] for each key, and a mask "_key".

    Args:
        groups: of infos.
        final: final observations by env id, of envs that were reset in the step that ended their episode.
            Their infos of the step are in "final_info".
        num_envs: N.
    """
    infos: Infos = {}
    if final:
        ended = np.array(list(final), np.int64)
        observations = np.full(num_envs, None, object)
        for env, obs in final.items():
            observations[env] = obs
        infos["final_obs"], infos["_final_obs"] = observations, _mask(ended, num_envs)
        infos["final_info"], infos["_final_info"] = {}, _mask(ended, num_envs)
    # A column gets its dtype from the first env that has the key.
    for piece in sorted((piece for group in groups for piece in _pieces(group, final)), key=_first_env):
        target = infos["final_info"] if piece.is_final else infos
        for leaf, column in zip(piece.group.schema, piece.group.columns, strict=True):
            _put(target, piece.env_ids, leaf, _selected(column, piece.rows), num_envs)
    return infos


def _first_env(piece: _Piece) -> int:
    return int(piece.env_ids[0])


def _pieces(group: InfoGroup, final: dict[int, Any]) -> list[_Piece]:
    if not final or group.restarted:
        return [_Piece(group.env_ids, group, None, is_final=False)]
    is_final = np.array([env in final for env in group.env_ids.tolist()])
    pieces = []
    for ended in (False, True):
        index = np.flatnonzero(is_final == ended)
        if len(index):
            pieces.append(_Piece(group.env_ids[index], group, index, is_final=ended))
    return pieces


def _selected(column: Column, index: Ids | None) -> Column:
    if index is None:
        return column
    return [column[i] for i in index.tolist()] if isinstance(column, list) else column[index]


def _mask(env_ids: Ids, num_envs: int) -> Array:
    mask = np.zeros(num_envs, np.bool_)
    mask[env_ids] = True
    return mask


def _put(infos: Infos, env_ids: Ids, leaf: Leaf, column: Column, num_envs: int) -> None:
    """Add one entry of G infos."""
    *around, key = leaf.path
    for outer in around:
        _mark(infos, outer, env_ids, num_envs)
        infos = infos.setdefault(outer, {})
    _mark(infos, key, env_ids, num_envs)
    if leaf.kind == "empty":
        infos.setdefault(key, {})
        return
    if key not in infos:
        infos[key] = _new_column(key, leaf, num_envs)
    array = infos[key]
    fits = isinstance(column, np.ndarray) and array.shape[1:] == column.shape[1:]
    if fits and array.dtype != object:
        array[env_ids] = column
        return
    for env, value in zip(env_ids.tolist(), values_of(leaf, column), strict=True):
        array[env] = value


def _mark(infos: Infos, key: Any, env_ids: Ids, num_envs: int) -> None:
    name = f"_{key}"
    if name in infos:
        infos[name][env_ids] = True
    else:
        infos[name] = _mask(env_ids, num_envs)


def _new_column(key: Any, leaf: Leaf, num_envs: int) -> Array:
    # As Gymnasium has it: final observations stay as they are, and NumPy's bools are objects.
    if leaf.kind == "object" or key == "final_obs" or (leaf.kind == "number" and leaf.dtype == "|b1"):
        return np.full(num_envs, None, object)
    return np.zeros((num_envs, *leaf.shape), leaf.dtype)


def values_of(leaf: Leaf, column: Column) -> list[Any]:
    """The G values of a column, in the types in which the envs gave them."""
    if leaf.kind == "empty":
        return [{} for _ in column]
    if isinstance(column, list):
        return column
    if leaf.kind == "array":
        return [np.array(value) for value in column]
    return list(column) if leaf.kind == "number" else list(column.tolist())


def as_list(groups: Sequence[InfoGroup], num_envs: int, restarted: bool = False) -> list[dict[Any, Any]]:
    """A new dict for each env.

    Args:
        groups: of infos.
        num_envs: N.
        restarted: which infos: those of the step or reset itself, or those of the resets that followed at
            once the end of an episode.
    """
    infos: list[dict[Any, Any]] = [{} for _ in range(num_envs)]
    for group in groups:
        if group.restarted is not restarted:
            continue
        columns = [values_of(leaf, column) for leaf, column in zip(group.schema, group.columns, strict=True)]
        for env, values in zip(group.env_ids.tolist(), zip(*columns, strict=True), strict=True):
            info = infos[env]
            for leaf, value in zip(group.schema, values, strict=True):
                _set(info, leaf.path, value)
    return infos


def _set(info: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        info = info.setdefault(key, {})
    info[path[-1]] = value
