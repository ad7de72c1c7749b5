"""When a failure ends the workers, and when it is the caller's mistake."""

from __future__ import annotations

from collections.abc import Callable

from workers.errors import WorkerError


class Closing:
    """Ends the workers after a failure, or an interruption in the middle of an answer.

    Otherwise the answer that is still to come would be taken for that of the next command.

    Args:
        close: ends them.
        harmless: exceptions that leave them as they are, unless they tell of a worker.
    """

    def __init__(self, close: Callable[[], None], harmless: tuple[type[Exception], ...]) -> None:
        self._close = close
        self._harmless = harmless

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and (isinstance(error, WorkerError) or not isinstance(error, self._harmless)):
            self._close()
