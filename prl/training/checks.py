"""What custom loops pass in, as arrays: checked before it reaches envs, buffers or networks.

NumPy converts in silence: 1.9 becomes the integer 1, NaN becomes -2**63, and one number is repeated for
three. Here, values are converted only if nothing is lost. Torch tensors are accepted on any device, with or
without a gradient.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from workers.arrays import Array, Flags, Floats, Ids
from workers.casts import cast_exactly
from workers.errors import one_line
from workers.slab import Field

_WITH_BOUNDS = (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary, gym.spaces.Box)


def as_array(name: str, value: Any) -> Array:
    """Numbers or bools, in whatever form, as an array of the same shape.

    Args:
        name: of the argument, for the message.
        value: an array, a torch tensor, or nested lists.

    Raises:
        ValueError: the value is ragged, or holds something else (objects, text, complex numbers).
    """
    try:
        if hasattr(value, "detach"):  # a torch tensor; np.asarray refuses those with a gradient or on a GPU
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value  # unknown to NumPy
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged, or tensors of other kinds
        raise ValueError(f"{name} must be an array: {one_line(error)}") from error
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} must not have masked elements: their values are unknown")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {type(value).__name__} of dtype {array.dtype}")
    return array


def as_flags(name: str, value: Any, count: int | None = None) -> Flags:
    """A mask, bool[count]; always a copy.

    Args:
        name: of the argument, for the message.
        value: bools, or numbers that are all 0 or 1.
        count: the required length; None accepts any.

    Raises:
        ValueError: another shape, or other numbers.
    """
    array = as_array(name, value)
    if array.ndim != 1 or count not in (None, len(array)):
        length = "one dimension" if count is None else f"shape ({count},)"
        raise ValueError(f"{name} must be flags in {length}, got shape {array.shape}")
    flags: Flags = array.astype(np.bool_)
    if array.dtype != np.bool_ and (flags != array).any():
        raise ValueError(f"{name} must be true or false, got {array[flags != array][0]}")
    return flags


def as_floats(name: str, value: Any, env_ids: Ids) -> Floats:
    """One finite number for each of G envs, f32[G].

    Args:
        name: of the argument, for the message.
        value: [G] or [G, 1].
        env_ids: i64[G].

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    array = require_rows(name, as_array(name, value), len(env_ids))
    if array.shape[1:] not in ((), (1,)):
        raise ValueError(f"{name} must have shape ({len(env_ids)},), got {array.shape}")
    with np.errstate(over="ignore"):
        floats: Floats = array.reshape(-1).astype(np.float32)
    require_finite(name, floats, env_ids)
    return floats


def require_rows(name: str, array: Array, count: int) -> Array:
    """Check that there is one row for each of `count` playing envs.

    Raises:
        ValueError: there are more or fewer.
    """
    if array.ndim == 0:
        raise ValueError(f"{name} must have {count} rows, one for each env that is playing, got one number")
    if len(array) != count:
        raise ValueError(f"{name} has {len(array)} rows, but {count} envs were playing")
    return array


def require_finite(name: str, rows: Array, env_ids: Ids | None = None) -> None:
    """Check that all numbers of rows [G, ...] are finite.

    Raises:
        ValueError: one is not; the message names its env, or its row if `env_ids` i64[G] is not given.
    """
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))
        where = f"row {bad[0]}" if env_ids is None else f"env {env_ids[bad[0]]}"
        raise ValueError(f"{name} of {where} must be finite, got {_shown(rows[bad[0]])}")


class ActionCheck:
    """Makes rows of an action space of what a loop sends, or says why that is impossible.

    Args:
        space: of one env's actions; not a Dict or Tuple.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        field = Field.of(space)
        self._space = space
        self._shape, self._dtype = field.shape, field.dtype
        self._low, self._high = _bounds(space, field)
        # A subclass may allow less than its bounds say, and another kind of space has none.
        self._contains = None if type(space) in _WITH_BOUNDS else space.contains

    def rows(self, actions: Any, env_ids: Ids) -> Array:
        """Actions [G, *A] in the dtype of the space.

        Args:
            actions: [G, *A], an array, tensor or nested lists.
            env_ids: i64[G], the envs that they are for.

        Raises:
            ValueError: another number of rows, another shape, or an action outside of the space.
        """
        array = as_array("actions", actions)
        self._check_shape(array, len(env_ids))
        if array.dtype == np.bool_ and not self._takes_bools():
            raise ValueError(f"actions must be of dtype {self._dtype} for {self}, got bool")
        rows = array if array.dtype == self._dtype else cast_exactly(array, self._dtype)
        if rows is None:
            raise self._outside(array, _castable(array, self._dtype), env_ids)
        valid = (rows >= self._low) & (rows <= self._high)  # NaN is neither
        if not valid.all():
            raise self._outside(array, valid, env_ids)
        if self._contains is not None:
            self._check_each(rows, env_ids)
        return rows

    def __str__(self) -> str:
        return _shown(self._space)

    def _takes_bools(self) -> bool:
        # For any other space they are most likely a mask that was passed by mistake.
        return self._dtype == np.bool_ or isinstance(self._space, gym.spaces.MultiBinary)

    def _check_shape(self, array: Array, count: int) -> None:
        if array.ndim and len(array) != count:
            raise ValueError(f"step got {len(array)} actions, but {count} envs are still playing")
        if array.shape != (count, *self._shape):
            raise ValueError(
                f"actions must have shape {(count, *self._shape)}, one row of {self} for each env that is "
                f"still playing, got shape {array.shape}"
            )

    def _outside(self, actions: Array, valid: Flags, env_ids: Ids) -> ValueError:
        row, *index = (int(number) for number in np.argwhere(~valid)[0])
        value = actions[(row, *index)]
        low, high = (np.broadcast_to(bound, self._shape)[tuple(index)] for bound in (self._low, self._high))
        component = f"[{', '.join(map(str, index))}]" if index else ""
        message = (
            f"action{component} of env {env_ids[row]} (row {row}) is {value!s}, but {self} allows only "
            f"{'finite numbers' if self._dtype.kind == 'f' else 'integers'} from {low!s} to {high!s}"
        )
        if isinstance(self._space, gym.spaces.Box) and (value < low or value > high):
            message += (
                "; scale actions to the bounds, or clip them with np.clip(actions, space.low, space.high)"
            )
        return ValueError(message)

    def _check_each(self, rows: Array, env_ids: Ids) -> None:
        for row, (env, action) in enumerate(zip(env_ids, rows, strict=True)):
            if self._contains is not None and not self._contains(action):
                raise ValueError(f"action of env {env} (row {row}) is not in {self}: {_shown(action)}")


def _castable(array: Array, dtype: np.dtype[Any]) -> Flags:
    """Which elements `cast_exactly` can cast; slow, for messages."""
    flags = [cast_exactly(element, dtype) is not None for element in array.reshape(-1, 1)]
    return np.array(flags, np.bool_).reshape(array.shape)


def _shown(value: Any) -> str:
    return " ".join(str(value).split())


def _bounds(space: gym.Space[Any], field: Field) -> tuple[Any, Any]:
    """The least and the largest valid number of each component, both valid."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.start), int(space.start) + int(space.n) - 1
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.start, space.start + (space.nvec - 1)
    if isinstance(space, gym.spaces.MultiBinary):
        return 0, 1
    if field.dtype.kind == "b":
        return False, True
    limits: Any = np.finfo(field.dtype) if field.dtype.kind == "f" else np.iinfo(field.dtype)
    if isinstance(space, gym.spaces.Box):  # no infinite numbers, even where there are no bounds
        return np.maximum(space.low, limits.min), np.minimum(space.high, limits.max)
    return limits.min, limits.max
