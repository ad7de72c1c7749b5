"""Types of NumPy arrays in signatures; docstrings give their shapes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""Of any dtype."""

Floats: TypeAlias = npt.NDArray[np.float64]
Ids: TypeAlias = npt.NDArray[np.int64]
"""Env ids or rows."""

Flags: TypeAlias = npt.NDArray[np.bool_]
