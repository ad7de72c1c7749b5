"""The episode in which an env has failed: what it takes to see it fail again."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.arrays import Array
from workers.env_call import EnvCall

BEFORE = -1
"""The place of a call that came before the episode."""
FORGOTTEN = -1
"""The steps of an episode that is too long to be remembered."""

_HEAD = struct.Struct("<3q")
_MAX_ACTION_BYTES = 1 << 26


@dataclass(frozen=True)
class FailedEpisode:
    """What is known of it. Whoever hands on the error of an env adds what only he knows.

    Attributes:
        env: its index.
        seed: of the episode; of the reset, if that failed. `NO_SEED` if it had none.
        steps: of the episode, with the one that failed; 0 if its reset failed, or the env's constructor;
            or `FORGOTTEN`.
        actions: [T, *A], the last T of its steps, as rows of a pool. None if nobody has told.
        calls: that the env has had (see `workers.env_call`). None if nobody has told.
        places: of each call, the steps of the episode before it, or `BEFORE`.
    """

    env: int
    seed: int
    steps: int
    actions: Array | None = None
    calls: Sequence[EnvCall] | None = None
    places: Sequence[int] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the actions of all steps are known."""
        return self.steps == (0 if self.actions is None else len(self.actions))

    def with_actions(self, given: Array) -> FailedEpisode:
        """With those of the episode.

        Args:
            given: [T, *A], to the env, in the order of time, up to the failure; steps of earlier episodes may
                be among them.
        """
        return replace(self, actions=given[max(0, len(given) - self.steps) :])

    def with_earlier(self, actions: Sequence[Array]) -> FailedEpisode:
        """With the steps T x [*A] before those that are known. What does not fit together changes nothing."""
        known = [] if self.actions is None else list(self.actions)
        rows = [*actions, *known][: self.steps]
        if len(rows) != self.steps or not rows:
            return self
        return replace(self, actions=np.stack(rows))

    def with_calls(self, calls: Sequence[EnvCall], places: Sequence[int] = ()) -> FailedEpisode:
        """With the calls that the env has had.

        Args:
            calls: from the first on.
            places: see `FailedEpisode`, of the last of them; the others came before the episode.
        """
        others = len(calls) - len(places)
        return replace(self, calls=tuple(calls), places=(*[BEFORE] * others, *places))


@dataclass(frozen=True)
class LostEpisode:
    """An episode that could not be brought back.

    Attributes:
        episode: its steps so far; the last may be the one that failed.
        reason: in one line.
        traceback: of the env's own exception, as text; "" if there was none.
    """

    episode: FailedEpisode
    reason: str
    traceback: str


def encode(failed: FailedEpisode | None) -> bytes:
    """As bytes, without the calls; none for None."""
    if failed is None:
        return b""
    file = io.BytesIO(_HEAD.pack(failed.env, failed.seed, failed.steps))
    file.seek(0, io.SEEK_END)
    if failed.actions is not None and failed.actions.nbytes <= _MAX_ACTION_BYTES:
        np.lib.format.write_array(file, np.ascontiguousarray(failed.actions), allow_pickle=False)
    return file.getvalue()


def decode(data: bytes) -> FailedEpisode | None:
    """The inverse of `encode`; None for other bytes too. Executes nothing that is in them."""
    if len(data) < _HEAD.size:
        return None
    env, seed, steps = _HEAD.unpack_from(data)
    failed = FailedEpisode(env, seed, steps)
    if len(data) == _HEAD.size:
        return failed
    try:
        actions: Array = np.lib.format.read_array(io.BytesIO(data[_HEAD.size :]), allow_pickle=False)
    except (ValueError, SyntaxError, MemoryError):
        return None
    return replace(failed, actions=actions)
