"""A state as JSON and named tensors: numbers and text, and nothing that could be executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"
_MAX_DEPTH = 64
_PLAIN = (str, int, float, bool, type(None))


def encode(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Take the tensors out of a state.

    Dicts, lists and values become JSON's. Beyond that, `{"$tensor": NAME}` stands for a tensor,
    `{"$tuple": [...]}` for a tuple, and `{"$items": [[KEY, VALUE], ...]}` for a dict with keys that are no
    text, such as Adam's.

    Returns:
        What `json.dumps` takes, and the tensors on the CPU by name.

    Raises:
        TypeError: the state holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _encoded(state, "", tensors), tensors


def _encoded(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        assert name not in tensors, f"two tensors are called {name}"
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        items = [(key, _encoded(item, _join(name, key), tensors)) for key, item in value.items()]
        is_plain = all(isinstance(key, str) and not key.startswith("$") for key, _ in items)
        return dict(items) if is_plain else {_ITEMS: [list(item) for item in items]}
    if isinstance(value, list | tuple):
        parts = [_encoded(item, _join(name, number), tensors) for number, item in enumerate(value)]
        return {_TUPLE: parts} if isinstance(value, tuple) else parts
    if type(value) not in _PLAIN:
        raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")
    return value


def _join(name: str, key: object) -> str:
    return f"{name}/{key}" if name else str(key)


def decode(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `encode`.

    Raises:
        ValueError: something in it means nothing, is missing, or is there twice.
    """
    left = dict(tensors)
    state = _decoded(tree, left, 0)
    if left:
        raise ValueError(f"it holds tensors that belong to nothing: {', '.join(sorted(left)[:3])}")
    return state


def _decoded(tree: Any, left: dict[str, torch.Tensor], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(tree, list):
        return [_decoded(item, left, depth + 1) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if not any(key.startswith("$") for key in tree):
        return {key: _decoded(item, left, depth + 1) for key, item in tree.items()}
    match tree:
        case {"$tensor": str(name)} if len(tree) == 1 and name in left:
            return left.pop(name)
        case {"$tuple": list(parts)} if len(tree) == 1:
            return tuple(_decoded(item, left, depth + 1) for item in parts)
        case {"$items": list(items)} if len(tree) == 1 and all(map(_is_item, items)):
            return {key: _decoded(item, left, depth + 1) for key, item in items}
    raise ValueError(f"{str(tree)[:80]} in it means nothing, or a tensor is missing or used twice")


def _is_item(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)
