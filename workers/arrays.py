"""Names for the arrays that pools and envs exchange. G is a number of envs."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""Any shape and dtype."""

Ids: TypeAlias = npt.NDArray[np.int64]
"""i64[G], indices of envs."""

Flags: TypeAlias = npt.NDArray[np.bool_]
"""bool[G]."""

Floats: TypeAlias = npt.NDArray[np.float32]
"""f32[G]."""


def detached(value: Any) -> Any:
    """A tensor of PyTorch without its gradient, with which it makes no array; other values as they are."""
    return value.detach() if hasattr(value, "detach") else value
