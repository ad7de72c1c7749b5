"""The learner's end of calls to the envs of a pool, which change them between two steps.

Calls are counted: envs get what they have not had yet of a list of calls, in its order. So whoever wants envs
to have had the first n calls of a run says just that, as often as he likes, and envs of a new process, which
have had none, get them all again. N is the number of envs.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import cloudpickle
import numpy as np

from workers.arrays import Ids
from workers.data_pickle import NotData
from workers.env_call import EnvCall, results_of
from workers.errors import EnvCallError, ProtocolError
from workers.infos import InfoGroup, InfoReader
from workers.requests import Verb

_PIECE = 256  # calls that are made within the time of one answer
_OTHER_CALLS = (
    "the envs of this pool were changed by calls that are not part of this run, or of a later state of it: "
    "make a new pool"
)


class CallablePool(Protocol):
    """What calls need of a pool: `ProcessPool`, or `InlinePool`, whose envs count as those of one worker."""

    num_envs: int

    @property
    def blocks(self) -> Sequence[range]:
        """The envs of each worker."""

    def incarnation(self, worker: int) -> int:
        """How often a worker was started before.

        Raises:
            RuntimeError: the pool is closed.
        """

    def request(self, worker: int, payload: bytes, name: str) -> None:
        """Ask something of a worker's envs; see `workers.requests`."""

    def take_results(self, workers: Sequence[int]) -> list[bytes]:
        """Wait for the answers to the oldest open request of each of some workers."""

    def blames(self, worker: int) -> AbstractContextManager[None]:
        """Turn a `ProtocolError` about what a worker has sent into a `WorkerError` that names it."""


class EnvCalls:
    """Implements `workers.env_call.ChangesEnvs`. After a `WorkerError`, the same can be asked again.

    Args:
        pool: of N envs.

    Attributes:
        calls: that envs have had, from the first on.
        done: i64[N], how many of them each env has had, in its present process.
    """

    def __init__(self, pool: CallablePool) -> None:
        self._pool = pool
        self.calls: Sequence[EnvCall] = ()
        self.done = np.zeros(pool.num_envs, np.int64)
        self._incarnations = [0] * len(pool.blocks)
        self._open: set[int] = set()  # workers whose answers were not taken

    def look_at_processes(self) -> None:
        """Envs of new processes have had no call."""
        for worker, block in enumerate(self._pool.blocks):
            incarnation = self._pool.incarnation(worker)
            if incarnation != self._incarnations[worker]:
                self._incarnations[worker] = incarnation
                self.done[block.start : block.stop] = 0
                self._open.discard(worker)

    def behind(self, env_ids: Ids, count: int) -> bool:
        """See `ChangesEnvs`."""
        self.look_at_processes()
        return bool((self.done[env_ids] < count).any())

    def check(self, calls: Sequence[EnvCall]) -> None:
        """See `ChangesEnvs`."""
        self.look_at_processes()
        count = int(self.done.max(initial=0))
        if count > len(calls) or list(calls[:count]) != list(self.calls[:count]):
            raise ValueError(_OTHER_CALLS)

    def carry_out(self, env_ids: Ids, calls: Sequence[EnvCall], results: bool = False) -> list[Any]:
        """See `ChangesEnvs`."""
        self._take_over(env_ids, calls)
        found: dict[int, Any] = {}
        while requests := self._missing(env_ids, calls, results):
            answers = self._exchange({worker: payload for worker, (_, _, payload) in requests.items()})
            errors = []
            for worker, (envs, count, _) in requests.items():
                try:
                    values = self._read(worker, answers[worker])
                except (NotData, EnvCallError) as error:  # the others have had the call all the same
                    errors.append(error)
                    continue
                self.done[envs] = count
                found |= dict(zip(envs.tolist(), values, strict=False))
            if errors:
                raise errors[0]
        return [found.get(env) for env in env_ids.tolist()]

    def _take_over(self, env_ids: Ids, calls: Sequence[EnvCall]) -> None:
        self.look_at_processes()
        if int(self.done[env_ids].max(initial=0)) > len(calls):
            raise ValueError(_OTHER_CALLS)
        if len(calls) > len(self.calls):
            self.calls = calls

    def _missing(
        self, env_ids: Ids, calls: Sequence[EnvCall], results: bool
    ) -> dict[int, tuple[Ids, int, bytes]]:
        """For each worker with envs that lack calls: which get some now, how many they have then, how."""
        requests = {}
        for worker, block in enumerate(self._pool.blocks):
            here = env_ids[(env_ids >= block.start) & (env_ids < block.stop)]
            here = here[self.done[here] < len(calls)]
            if len(here):
                first = int(self.done[here].min())
                last = min(first + _PIECE, len(calls))
                here = here[self.done[here] == first]
                wanted = results and last == len(calls)
                payload = change_request((here - block.start).tolist(), calls[first:last], wanted)
                requests[worker] = (here, last, payload)
        return requests

    def carried_out_alone(self, env: int, calls: Sequence[EnvCall]) -> Sequence[EnvCall]:
        """Note that somebody else makes the calls which an env of a new process has not had; these calls.

        Raises:
            ValueError: the env has had more calls.
        """
        self._take_over(np.array([env]), calls)
        missing = calls[self.done[env] :]
        self.done[env] = len(calls)
        return missing

    def made(self, env: int) -> Sequence[EnvCall]:
        """See `ChangesEnvs`."""
        return self.calls[: self.done[env]]

    def get(self, env_ids: Ids, name: str) -> list[Any]:
        """See `ChangesEnvs`."""
        return self._look_up(env_ids, EnvCall("attribute", name))

    def require(self, env_ids: Ids, name: str) -> None:
        """See `ChangesEnvs`."""
        self._look_up(env_ids, EnvCall("look_up", name))

    def _look_up(self, env_ids: Ids, call: EnvCall) -> list[Any]:
        """The results of a call that changes nothing."""
        found: list[Any] = []
        for worker, rows in self._rows(env_ids).items():
            answers = self._exchange({worker: change_request(rows, [call], results=True)})
            found += self._read(worker, answers[worker])
        return found

    def infos(self, env_ids: Ids) -> list[InfoGroup]:
        """See `ChangesEnvs`."""
        rows = self._rows(env_ids)
        answers = self._exchange(
            {
                worker: bytes([Verb.LAST_INFOS]) + np.array(own, np.int32).tobytes()
                for worker, own in rows.items()
            }
        )
        groups: list[InfoGroup] = []
        for worker, answer in answers.items():
            (infos,) = self._read(worker, answer)
            with self._pool.blames(worker):
                groups += InfoReader(self._pool.blocks[worker].start).read(memoryview(infos))
        return groups

    def _read(self, worker: int, answer: bytes) -> list[Any]:
        with self._pool.blames(worker):
            try:
                return results_of(answer)
            except pickle.UnpicklingError as error:
                raise ProtocolError(str(error)) from error

    def _rows(self, env_ids: Ids) -> dict[int, list[int]]:
        """The rows of some envs in the blocks of their workers."""
        self.look_at_processes()
        rows = {}
        for worker, block in enumerate(self._pool.blocks):
            here = env_ids[(env_ids >= block.start) & (env_ids < block.stop)]
            if len(here):
                rows[worker] = (here - block.start).tolist()
        return rows

    def _exchange(self, requests: Mapping[int, bytes]) -> dict[int, bytes]:
        """The answers of some workers. If that fails and is tried again, nobody is asked twice."""
        for worker, payload in requests.items():
            if worker not in self._open:
                self._pool.request(worker, payload, "call")
                self._open.add(worker)
        results = self._pool.take_results([*requests])
        self._open -= requests.keys()
        return dict(zip(requests, results, strict=True))


def change_request(rows: Sequence[int], calls: Sequence[EnvCall], results: bool = False) -> bytes:
    """A request for calls; see `workers.env_call.carry_out`."""
    payload: bytes = cloudpickle.dumps((rows, calls, results))
    return bytes([Verb.CHANGE]) + payload
