"""Calls to envs whose workers may die: a new process gets all of them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from workers.arrays import Ids
from workers.env_alone import EnvAlone
from workers.env_call import EnvCall
from workers.env_calls import EnvCalls
from workers.episode_record import Episode, EpisodeCalls, EpisodeRecord
from workers.errors import WorkerError
from workers.infos import InfoGroup

_MAX_FAILURES = 3
"""Failures of one worker, while something is asked of its envs, after which the run ends."""

_T = TypeVar("_T")


class RecoveredCalls:
    """Implements `workers.env_calls.ChangesEnvs`.

    Args:
        calls: to the envs of a pool.
        record: of its episodes; gets to know at which of their steps calls were made.
        recover: starts a worker again and brings its envs back to where they were.

    Attributes:
        had: i64[N], calls that each env has had, and gets again in a new process.
    """

    def __init__(
        self, calls: EnvCalls, record: EpisodeRecord, recover: Callable[[WorkerError], None]
    ) -> None:
        self._calls = calls
        self._record = record
        self._recover = recover
        self.had = np.zeros(len(calls.done), np.int64)

    def carry_out(self, env_ids: Ids, calls: Sequence[EnvCall], results: bool = False) -> list[Any]:
        """See `ChangesEnvs`."""
        found: dict[int, Any] = {}

        def attempt() -> None:
            values = self._calls.carry_out(env_ids, calls, results)
            found.update((e, v) for e, v in zip(env_ids.tolist(), values, strict=True) if v is not None)

        self._until_done(attempt)
        # Not before: an env whose worker has broken on the way was brought back to where it was before.
        self._record.called(env_ids, len(calls) - self.had[env_ids])
        self.had[env_ids] = len(calls)
        return [found.get(env) for env in env_ids.tolist()]

    def behind(self, env_ids: Ids, count: int) -> bool:
        """See `ChangesEnvs`."""
        return self._calls.behind(env_ids, count)

    def check(self, calls: Sequence[EnvCall]) -> None:
        """See `ChangesEnvs`."""
        self._calls.check(calls)

    def made(self, env: int) -> Sequence[EnvCall]:
        """See `ChangesEnvs`."""
        return self._calls.calls[: self.had[env]]

    def get(self, env_ids: Ids, name: str) -> list[Any]:
        """See `ChangesEnvs`."""
        return self._until_done(lambda: self._calls.get(env_ids, name))

    def require(self, env_ids: Ids, name: str) -> None:
        """See `ChangesEnvs`."""
        self._until_done(lambda: self._calls.require(env_ids, name))

    def infos(self, env_ids: Ids) -> list[InfoGroup]:
        """See `ChangesEnvs`. If a worker has just died, envs whose episode is over have none."""
        return self._until_done(lambda: self._calls.infos(env_ids))

    def _until_done(self, attempt: Callable[[], _T]) -> _T:
        failures: Counter[int] = Counter()
        while True:
            try:
                return attempt()
            except WorkerError as error:
                failures[error.worker] += 1
                if failures[error.worker] > _MAX_FAILURES:
                    raise
                self._recover(error)

    def load(self, env: int, calls: EpisodeCalls) -> None:
        """The running episode of an env of a new process has had these calls."""
        self.had[env] = calls.before + len(calls.at)

    def catch_up(self, env: int, alone: EnvAlone) -> None:
        """Make all calls in an env of a new process."""
        alone.change(self._calls.carried_out_alone(env, self._calls.calls[: self.had[env]]))

    def before(self, env: int, episode: Episode, alone: EnvAlone) -> Sequence[EnvCall]:
        """Make those calls in an env of a new process which came before its episode; those within it."""
        calls = self._calls.calls[: self.had[env]]
        first = len(calls) - len(episode.calls)
        alone.change(self._calls.carried_out_alone(env, calls[:first]))
        return self._calls.carried_out_alone(env, calls)
