"""Where a worker process starts. Imports nothing heavy: the thread limits must be set before numpy loads."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from typing import Any

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def run(connection: Connection, *args: Any) -> None:
    """Limit the process to one thread of computation, then run `workers.child.main`."""
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
    from workers import child  # only now: it imports numpy, which reads the limits once

    child.main(connection, *args)
