"""The threads of the libraries that NumPy computes with: sums have other last bits with another number."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def blas_threads(number: int) -> Iterator[None]:
    """Limit NumPy's matrix products to a number of threads."""
    with _libraries().limit(limits=number, user_api="blas"):
        yield


@functools.cache
def _libraries() -> ThreadpoolController:
    """To look for them takes longer than a step of all envs."""
    return ThreadpoolController()
