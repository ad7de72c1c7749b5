"""Casts of numbers to another dtype that change no value, and numbers that are not there."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.arrays import Array


def has_masked_elements(value: Any) -> bool:
    """Whether elements of a masked array are masked: their values are unknown."""
    # Looks before it names `np.ma`, whose import takes 5 ms: a twentieth of a worker's start.
    return hasattr(value, "_mask") and bool(np.ma.is_masked(value))


def cast_exactly(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """An array of numbers or bools in another dtype; None if that would change a value.

    From float to float, rounding is allowed, but not overflow.
    """
    source, target = array.dtype.kind, dtype.kind
    if source == target == "f":
        return _rounded(array, dtype)
    if source == "f":
        is_exact = _are_integers_within(array, dtype)
    elif target == "f":  # a "safe" cast to NumPy, from int64 to float64 too, which rounds beyond 2**53
        is_exact = source == "b" or _are_exact_as(array, dtype)
    else:  # a wider integer is fine as long as its values fit: envs often return int64 for int8
        is_exact = bool((array == array.astype(dtype)).all())
    return array.astype(dtype) if is_exact else None


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array | None:
    try:
        with np.errstate(over="raise", under="ignore"):
            return array.astype(dtype)
    except FloatingPointError:
        return None


def _are_integers_within(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether floats are integers that an integer or bool dtype can hold."""
    if dtype.kind == "b":
        return bool(((array == 0) | (array == 1)).all())
    limits = np.iinfo(dtype)
    values = array.astype(np.float64) if array.dtype.itemsize < 8 else array
    # The largest int64 is no float, but one more is. NaN fails every comparison.
    fits = (values >= float(limits.min)) & (values < float(limits.max + 1)) & (values == np.floor(values))
    return bool(fits.all())


def _are_exact_as(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a float dtype can hold each of the integers."""
    limit = 2 ** (np.finfo(dtype).nmant + 1)  # up to here every integer can be held, beyond only some
    if bool(((array >= -limit) & (array <= limit)).all()):
        return True
    with np.errstate(over="ignore"):
        floats = array.astype(dtype)
    # As Python numbers, since NumPy would round the integers before it compares them.
    return bool(np.isfinite(floats).all()) and floats.ravel().tolist() == array.ravel().tolist()
