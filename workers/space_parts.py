"""The parts of Gymnasium's spaces: which are composite, which hold numbers.

A path names a part of an element as Python would: `['goal'][1]`; "" is the element itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Tuple


def is_composite(space: gym.Space[Any]) -> bool:
    """Whether elements of the space consist of elements of other spaces, in a fixed number and order."""
    return isinstance(space, Dict | Tuple)


def is_numeric(space: gym.Space[Any]) -> bool:
    """Whether elements of the space are arrays of a fixed shape that hold numbers or bools."""
    return space.shape is not None and space.dtype is not None and np.dtype(space.dtype).kind in "biuf"


def parts(space: gym.Space[Any]) -> list[tuple[Any, gym.Space[Any]]]:
    """Keys and spaces of the direct parts of a composite space; none of any other."""
    if isinstance(space, Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces)) if isinstance(space, Tuple) else []


def leaves(space: gym.Space[Any], path: str = "") -> Iterator[tuple[str, gym.Space[Any]]]:
    """Paths and spaces of all leaves, depth first; of a space that is not composite: itself."""
    if not is_composite(space):
        yield path, space
    for key, part in parts(space):
        yield from leaves(part, f"{path}[{key!r}]")


def has_numbers(space: gym.Space[Any]) -> bool:
    """Whether anything is left of the space in `numeric_part`."""
    if is_composite(space):
        inner = parts(space)
        return not inner or any(has_numbers(part) for _, part in inner)
    return is_numeric(space)


def numeric_part(space: gym.Space[Any]) -> gym.Space[Any]:
    """A space that has numbers without the leaves that are not numeric; itself, if it has none of them."""
    if all(is_numeric(leaf) for _, leaf in leaves(space)):
        return space
    kept = [(key, numeric_part(part)) for key, part in parts(space) if has_numbers(part)]
    # Pairs, because the keys of a mapping would be sorted.
    return Dict(kept) if isinstance(space, Dict) else Tuple([part for _, part in kept])


def select_numeric(space: gym.Space[Any], value: Any) -> Any:
    """The element of `numeric_part(space)` in an element of the space.

    What is no element of the space is left as it is, for `workers.rows.RowCodec` to complain of.
    """
    if isinstance(space, Dict) and isinstance(value, Mapping):
        known = space.spaces
        return {
            key: select_numeric(known[key], part) if key in known else part
            for key, part in value.items()
            if key not in known or has_numbers(known[key])
        }
    if isinstance(space, Tuple) and isinstance(value, tuple | list) and len(value) == len(space.spaces):
        pairs = zip(space.spaces, value, strict=True)
        return tuple(select_numeric(part, inner) for part, inner in pairs if has_numbers(part))
    return value
