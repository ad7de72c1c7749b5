"""What a worker may host beside its envs: code that plays in them at the learner's request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
