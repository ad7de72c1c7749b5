"""The rate of something that goes on without end: start, warm up, measure, end."""

from __future__ import annotations

import contextlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

_WARM_UP = 0.25  # of the measured seconds, and at least
_WARM_UP_PIECES = 20  # of work: prl watches the first 16 steps of each env for draws from global generators
_LONGEST_WARM_UP = 2.0  # seconds, after the first piece, which sets things up

Steps = Iterator[int]
"""Plays without end; each `next` is a piece of work and gives the number of env steps in it."""

Start = Callable[[], AbstractContextManager[Steps]]
"""Builds what plays, and ends it afterwards."""


def rate(start: Start, seconds: float) -> float:
    """Env steps per second of what `start` starts. Starting and ending are not measured.

    Args:
        start: see `Start`.
        seconds: to measure, at least.
    """
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            # Peers warn at their start: of float64 bounds of their own spaces, and of forking.
            warnings.simplefilter("ignore")
            steps = stack.enter_context(start())
            _warm_up(steps, seconds)
        return measure(steps, seconds)


def _warm_up(steps: Steps, seconds: float) -> None:
    next(steps)
    start = time.perf_counter()
    for pieces in itertools.count(1):
        elapsed = time.perf_counter() - start
        if elapsed >= _LONGEST_WARM_UP or (pieces >= _WARM_UP_PIECES and elapsed >= _WARM_UP * seconds):
            return
        next(steps)


def measure(steps: Steps, seconds: float) -> float:
    """Env steps per second, over at least `seconds`."""
    count = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += next(steps)
    return count / elapsed
