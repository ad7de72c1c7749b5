"""What a worker may host beside its envs: code that plays in them at the learner's request."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workers.pool import EnvPool

Bytes = npt.NDArray[np.uint8]


class Guest(Protocol):
    """Answers calls in a worker process. Must be free of torch."""

    def call(self, request: bytes, pool: EnvPool, tell: Callable[[bytes], None]) -> bytes:
        """Answer a request.

        Args:
            request: what `ProcessPool.call` was given.
            pool: the worker's envs, under their indices of the whole pool; with no command open.
            tell: sends news to the learner while the call goes on.
        """


@dataclass(frozen=True)
class Invitation:
    """Brings a guest into every worker.

    Attributes:
        guest: makes it; called in each worker with the shared memory, or None if nothing is shared.
        shared_bytes: of memory that the learner writes and guests read.
    """

    guest: Callable[[Bytes | None], Guest]
    shared_bytes: int


class GuestMemory:
    """Nameless memory that learner and guests share; can be sent to a child while that is started.

    Args:
        size: in bytes.
        context: allocates it.
    """

    def __init__(self, size: int, context: BaseContext) -> None:
        # ctypes.c_double keeps it aligned for any dtype.
        self._memory: Any = context.RawArray(ctypes.c_double, max(1, -(-size // 8)))

    def attach(self) -> Bytes:
        """All of it, u8[size], rounded up to whole words."""
        return np.frombuffer(self._memory, np.uint8)
