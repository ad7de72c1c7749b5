"""How often workers may be started again, and how soon."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from workers.errors import WorkerError

_WINDOW = 600.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds


class Restarts:
    """A budget of restarts, with a pause that doubles from one failure in a row to the next.

    Args:
        limit: restarts in any ten minutes.
        clock, sleep: seconds, and what waits for some.

    Attributes:
        count: restarts so far.
    """

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.count = 0
        self._limit = limit
        self._clock, self._sleep = clock, sleep
        self._recent: deque[float] = deque()

    def spend(self, error: WorkerError, in_a_row: int) -> None:
        """One more restart, after a pause if it is not the first in a row.

        Args:
            error: why.
            in_a_row: restarts that have just failed.

        Raises:
            WorkerError: there were as many restarts as may be; of the type of `error`, whose cause it is.
        """
        now = self._clock()
        while self._recent and self._recent[0] <= now - _WINDOW:
            self._recent.popleft()
        if len(self._recent) >= self._limit:
            raise error.with_words(
                f"workers were restarted {len(self._recent)} times within ten minutes, and not more than "
                f"{self._limit} are allowed (max_restarts)"
            ) from error
        self._recent.append(now)
        self.count += 1
        if in_a_row:
            self._sleep(min(_FIRST_PAUSE * 2.0 ** (in_a_row - 1), _LONGEST_PAUSE))
