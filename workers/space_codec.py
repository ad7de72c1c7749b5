"""Spaces as plain data: what comes from the process of a trial env is read without running anything.

A space becomes a tree of dicts, lists, numbers and text that JSON can carry. Arrays are given by dtype, shape
and bytes (base64), or by one number where all of their elements are equal. A subclass of one of Gymnasium's
spaces counts as that space, and any other array of numbers as an `OtherSpace`: the class itself may be code
that only the env's process should load. The state of a space's random generator is not kept.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from workers.arrays import Array
from workers.errors import EnvError

Tree: TypeAlias = "dict[str, Any]"


class OtherSpace(gym.Space[Any]):
    """A space of a class that Gymnasium does not have: arrays of numbers, of which no more is known.

    Args:
        shape, dtype: of its elements.
        text: what the space itself is shown as.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], text: str) -> None:
        super().__init__(shape, dtype.type)
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OtherSpace) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def encode(space: gym.Space[Any]) -> Tree:
    """The tree of a space.

    Args:
        space: holds numbers, or a Dict or Tuple of such.

    Raises:
        EnvError: a key of a Dict is neither text nor a whole number.
    """
    if isinstance(space, Dict):
        for key in space.spaces:
            if type(key) not in (str, int):
                raise EnvError(f"keys of a Dict space must be text, got {key!r}")
        return {"kind": "Dict", "parts": [[key, encode(part)] for key, part in space.spaces.items()]}
    if isinstance(space, Tuple):
        return {"kind": "Tuple", "parts": [encode(part) for part in space.spaces]}
    return _encode_leaf(space)


def _encode_leaf(space: gym.Space[Any]) -> Tree:
    if isinstance(space, Box):
        bounds = {name: _encode_array(getattr(space, name)) for name in _BOUNDS}
        return {"kind": "Box", "dtype": np.dtype(space.dtype).str, "shape": list(space.shape), **bounds}
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": _dtype(space)}
    if isinstance(space, MultiDiscrete):
        arrays = {"nvec": _encode_array(space.nvec), "start": _encode_array(space.start)}
        return {"kind": "MultiDiscrete", "dtype": _dtype(space), **arrays}
    if isinstance(space, MultiBinary):
        return {"kind": "MultiBinary", "n": _plain(space.n)}
    shape = [int(length) for length in space.shape or ()]
    return {"kind": "other", "shape": shape, "dtype": _dtype(space), "text": " ".join(repr(space).split())}


_BOUNDS = ("low", "high", "bounded_below", "bounded_above")


def _dtype(space: gym.Space[Any]) -> str:
    return np.dtype(space.dtype).str


def _plain(value: Any) -> Any:
    """The `n` of a MultiBinary: a number, or a shape."""
    return [int(length) for length in value] if np.ndim(value) else int(value)


def decode(tree: Mapping[str, Any]) -> gym.Space[Any]:
    """The space of a tree; equal to the one that was encoded, if that is of one of Gymnasium's classes.

    Raises:
        ValueError, KeyError, TypeError: the tree describes no space.
    """
    kind = tree["kind"]
    if kind == "Dict":  # pairs, because the keys of a mapping would be sorted
        return Dict([(key, decode(part)) for key, part in tree["parts"]])
    if kind == "Tuple":
        return Tuple([decode(part) for part in tree["parts"]])
    return _decode_leaf(kind, tree)


def _decode_leaf(kind: str, tree: Mapping[str, Any]) -> gym.Space[Any]:
    if kind == "MultiBinary":
        return MultiBinary(tree["n"])
    dtype = np.dtype(tree["dtype"])
    if kind == "Box":
        return _decode_box(tree, dtype)
    if kind == "Discrete":
        return Discrete(tree["n"], start=tree["start"], dtype=dtype.type)
    if kind == "MultiDiscrete":
        nvec, start = (_decode_array(tree[name]) for name in ("nvec", "start"))
        return MultiDiscrete(nvec, dtype=dtype.type, start=start)
    if kind == "other":
        return OtherSpace(tuple(tree["shape"]), dtype, str(tree["text"]))
    raise ValueError(f"no space is called {kind!r}")


def _decode_box(tree: Mapping[str, Any], dtype: np.dtype[Any]) -> Box:
    low, high, below, above = (_decode_array(tree[name]) for name in _BOUNDS)
    space = Box(low, high, tuple(tree["shape"]), dtype.type)
    # In a space of integers, bounds that were infinite are the ends of the dtype by now.
    space.bounded_below, space.bounded_above = below, above
    return space


def _encode_array(array: Any) -> Tree:
    values = np.ascontiguousarray(array)
    data = values.tobytes()
    size = values.dtype.itemsize
    same = values.size > 1 and data == data[:size] * values.size
    text = base64.b64encode(data[:size] if same else data).decode("ascii")
    return {"dtype": values.dtype.str, "shape": list(np.shape(array)), "same": same, "data": text}


def _decode_array(tree: Mapping[str, Any]) -> Array:
    dtype, shape = np.dtype(tree["dtype"]), tuple(tree["shape"])
    if dtype.hasobject:
        raise ValueError("an array of objects is no plain data")
    data = base64.b64decode(tree["data"], validate=True)
    values: Array = np.frombuffer(data * (math.prod(shape) if tree["same"] else 1), dtype)
    return values.reshape(shape).copy()
