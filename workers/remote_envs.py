"""The learner's end of the requests of adapters: N envs in workers, one request for each worker.

Letters in shapes: N envs, O observation shape.
"""

from __future__ import annotations

import builtins
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import cloudpickle
import numpy as np

from workers import data_pickle
from workers.arrays import Array, Flags, Ids
from workers.batches import ActionWriter, ObsReader
from workers.block import Options
from workers.cores import usable_cores
from workers.env_call import RAISED
from workers.env_lists import EnvListFactory
from workers.errors import EnvCallError, ProtocolError, RemoteTraceback, WorkerDied
from workers.frames import unpack_rows
from workers.infos import InfoGroup, InfoReader
from workers.local_requests import LocalRequests
from workers.pool import IS_TERMINATED, IS_TRUNCATED
from workers.process_pool import ProcessPool
from workers.requests import Verb
from workers.slab import Slab

_STEP, _STEP_AUTORESET = bytes([Verb.STEP]), bytes([Verb.STEP_AUTORESET])
_STEP_OR_RESET = bytes([Verb.STEP_OR_RESET])


class RequestPool(Protocol):
    """What takes requests: `ProcessPool`, or `LocalRequests` for envs in this process."""

    @property
    def num_workers(self) -> int:
        """Processes; 0 for envs in this process, which count as one worker below."""

    @property
    def blocks(self) -> Sequence[range]:
        """The envs of each worker."""

    @property
    def slab(self) -> Slab:
        """The rows of all envs."""

    def request(self, worker: int, payload: bytes, name: str) -> None:
        """Ask something of a worker's envs; see `workers.requests`."""

    def take_results(self, workers: Sequence[int]) -> list[bytes]:
        """Wait for the answers to the oldest open request of each of some workers."""

    def await_results(self, workers: Sequence[int], timeout: float) -> bool:
        """Wait at most `timeout` seconds; whether `take_results` would find all of its answers."""

    def close(self) -> None:
        """End all envs and workers, in bounded time. Idempotent."""


class Answers(NamedTuple):
    """What N envs answered to a step or reset.

    Attributes:
        obs: the batched observation of Gymnasium's vector envs: an array [N, *O], or dicts and tuples of
            arrays; the first one of the next episode where a step has reset an env.
        reward: [N], in the dtype of the pool's rewards.
        terminated, truncated: bool[N].
        final: env id and final observation, in the format of a single env, of envs that the step has reset.
        infos: in env order.
    """

    obs: Any
    reward: Array
    terminated: Flags
    truncated: Flags
    final: dict[int, Any]
    infos: list[InfoGroup]


class RemoteEnvs:
    """N envs, in workers or in this process, behind the verbs that adapters need.

    Steps and resets are split in two, `step` or `reset`, then `take`; one of them may be open at a time.

    Args:
        factory: builds each env.
        num_workers: processes; None is one per usable core, 0 keeps the envs in this process.
        transport, step_timeout, start_timeout, close_timeout, pin_workers, reward_dtype: see `ProcessPool`.
        infos: whether answers hold infos.
        any_objects: whether infos and results may hold objects of any class (`data_pickle.load`).

    Raises:
        WorkerError: a worker could not be started, or an env not be built.
    """

    def __init__(
        self,
        factory: EnvListFactory,
        *,
        num_workers: int | None = None,
        infos: bool = True,
        any_objects: bool = False,
        reward_dtype: type[np.floating[Any]] = np.float64,
        **settings: Any,
    ) -> None:
        self.num_envs = len(factory.payloads)
        workers = usable_cores() if num_workers is None else num_workers
        self.pool: RequestPool = (
            ProcessPool(factory, self.num_envs, workers, reward_dtype=reward_dtype, **settings)
            if workers
            else LocalRequests(factory, self.num_envs, reward_dtype)
        )
        self._shared = settings.get("transport", "shared") == "shared" or not workers
        self._any_objects = any_objects
        self._slab = self.pool.slab
        self._blocks = self.pool.blocks
        self._workers = range(len(self._blocks))
        self._readers = [InfoReader(block.start, any_objects) for block in self._blocks]
        self._actions = ActionWriter(factory.action_space, self._slab.action)
        self._obs = ObsReader(factory.observation_space, self._slab.obs)
        self._answer_arrays = (
            (self._slab.flags,) if self._shared else (self._slab.flags, self._slab.reward, self._slab.obs)
        )
        self._answer_bytes = [
            sum(array[: len(block)].nbytes for array in self._answer_arrays) for block in self._blocks
        ]
        self._open: Callable[[list[bytes]], Answers] | None = None
        self._asked: Sequence[int] = ()
        if infos:
            for worker in self._workers:
                self.pool.request(worker, bytes([Verb.RECORD_INFOS]), "start")
            self.pool.take_results(self._workers)

    @property
    def ended(self) -> Flags:
        """bool[N], the envs whose episode has ended and that were not reset since."""
        ended: Flags = self._slab.flags != 0
        return ended

    def put_actions(self, actions: Any, ignored: Flags | None = None) -> None:
        """Lay down the actions of the next step. Nothing is sent yet, whatever goes wrong here.

        Args:
            actions: one per env.
            ignored: bool[N], envs that will not step.

        Raises:
            ValueError, TypeError: the actions do not fit; see `ActionWriter`.
        """
        self._actions.write(actions, ignored)

    def step(self, *, resets: Flags | None = None, autoreset: bool = False) -> None:
        """Begin a step of all envs with the actions that were put.

        Args:
            resets: bool[N], envs that are reset without a seed instead; their actions are ignored.
            autoreset: whether envs whose episode ends are reset at once.

        Raises:
            WorkerError: a worker is dead, or does not read.
        """
        verb = _STEP_AUTORESET if autoreset else _STEP
        for worker, block in enumerate(self._blocks):
            here = slice(block.start, block.stop)
            payload = verb
            if resets is not None and resets[here].any():
                payload = _STEP_OR_RESET + resets[here].tobytes()
            if not self._shared:
                payload += self._slab.action[here].tobytes()
            self.pool.request(worker, payload, "step")
        self._asked = self._workers
        self._open = functools.partial(self._read_step, autoreset)

    def reset(self, env_ids: Ids, seeds: Sequence[int], options: Sequence[Options] | None) -> None:
        """Begin a reset of some envs.

        Args:
            env_ids: i64[G], ascending.
            seeds: G of them; `NO_SEED` for none.
            options: of Gymnasium's `reset`, G of them; None for none at all.
        """
        splits = [
            (worker, np.flatnonzero((env_ids >= block.start) & (env_ids < block.stop)))
            for worker, block in enumerate(self._blocks)
        ]
        asked = [(worker, index) for worker, index in splits if len(index)]
        for worker, index in asked:
            rows = (env_ids[index] - self._blocks[worker].start).tolist()
            own = None if options is None else [options[i] for i in index.tolist()]
            arguments = rows, [seeds[i] for i in index.tolist()], own
            self.pool.request(worker, bytes([Verb.RESET]) + cloudpickle.dumps(arguments), "reset")
        self._asked = [worker for worker, _ in asked]
        self._open = functools.partial(self._read_reset, [env_ids[index] for _, index in asked])

    def is_done(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; whether `take` would return at once."""
        return self.pool.await_results(self._asked, timeout)

    def take(self) -> Answers:
        """The answers to the step or reset that was begun.

        Raises:
            WorkerError: a worker died, hung or reported a failed env.
        """
        assert self._open is not None, "step or reset comes first"
        results = self.pool.take_results(self._asked)
        read, self._open = self._open, None
        return read(results)

    def _read_step(self, autoreset: bool, results: list[bytes]) -> Answers:
        infos: list[InfoGroup] = []
        slab = self._slab
        for worker, result in enumerate(results):
            block, size = self._blocks[worker], self._answer_bytes[worker]
            if self._shared:
                slab.flags[block.start : block.stop] = np.frombuffer(result, np.uint8, len(block))
                rest = memoryview(result)[size:]
            else:
                rest = self._unpack_step(worker, memoryview(result), autoreset)
            if rest:
                infos += self._read_infos(worker, rest)
        final = self._restart() if autoreset else {}
        flags = slab.flags
        answers = Answers(
            self._obs.read(),
            slab.reward.copy(),
            IS_TERMINATED.take(flags),
            IS_TRUNCATED.take(flags),
            final,
            infos,
        )
        if autoreset:
            flags[:] = 0
        return answers

    def _unpack_step(self, worker: int, result: memoryview, autoreset: bool) -> memoryview:
        """Read what one worker has sent instead of sharing it; what follows."""
        rows, size = np.array(self._blocks[worker]), self._answer_bytes[worker]
        with self._blaming(worker):
            unpack_rows(self._answer_arrays, rows, result[:size])
            if autoreset:
                ended = rows[self._slab.flags[rows] != 0]
                end = size + len(ended) * self._slab.next_obs[0].nbytes
                unpack_rows((self._slab.next_obs,), ended, result[size:end])
                size = end
        return result[size:]

    def _restart(self) -> dict[int, Any]:
        """Go on with the first observations of envs that were reset; their final ones."""
        ended = np.flatnonzero(self._slab.flags)
        if not len(ended):
            return {}
        final = dict(zip(ended.tolist(), self._obs.elements(ended), strict=True))
        self._slab.obs[ended] = self._slab.next_obs[ended]
        return final

    def _read_reset(self, env_ids: list[Ids], results: list[bytes]) -> Answers:
        infos: list[InfoGroup] = []
        for worker, ids, result in zip(self._asked, env_ids, results, strict=True):
            size = 0 if self._shared else len(ids) * self._slab.obs[0].nbytes
            if not self._shared:
                with self._blaming(worker):
                    unpack_rows((self._slab.obs,), ids, memoryview(result)[:size])
            infos += self._read_infos(worker, memoryview(result)[size:])
            self._slab.flags[ids] = 0
            self._slab.reward[ids] = 0.0
        nothing = np.zeros(self.num_envs, np.bool_)
        return Answers(self._obs.read(), self._slab.reward.copy(), nothing, nothing.copy(), {}, infos)

    def _read_infos(self, worker: int, data: memoryview) -> list[InfoGroup]:
        with self._blaming(worker):
            return self._readers[worker].read(data)

    def begin_call(self, verb: str, env_ids: Sequence[int] | None, *arguments: Any) -> None:
        """Begin a call; see `workers.requests` for the verbs and their arguments.

        An argument of type `PerEnv` is split among the workers.

        Args:
            verb: "call", "get", ...
            env_ids: of the envs, in the order of the results; None for all.
            arguments: of the verb.
        """
        ids = range(self.num_envs) if env_ids is None else env_ids
        self._order: list[int] = []
        asked = []
        for worker, block in enumerate(self._blocks):
            places = [place for place, env in enumerate(ids) if env in block]
            if not places:
                continue
            rows = [ids[place] - block.start for place in places]
            own = [
                [value[ids[place]] for place in places] if isinstance(value, PerEnv) else value
                for value in arguments
            ]
            request = bytes([Verb.CALL]) + cloudpickle.dumps((verb, rows, tuple(own)))
            self.pool.request(worker, request, "call")
            asked.append(worker)
            self._order += places
        self._asked = asked

    def take_call(self) -> list[Any]:
        """The results of the call that was begun, in the order of its envs.

        Raises:
            NotData: a result is an object of a class that is not data, and `any_objects` is false.
            EnvCallError: an env raised; exceptions of Python's own are raised as they are.
            WorkerError: a worker died or hung.
        """
        results = self.pool.take_results(self._asked)
        values: list[Any] = []
        for worker, result in zip(self._asked, results, strict=True):
            with self._blaming(worker):
                values += self._values(result)
        ordered = [value for _, value in sorted(zip(self._order, values, strict=False), key=_place)]
        return ordered

    def _values(self, result: bytes) -> list[Any]:
        content = memoryview(result)[1:]
        if result[:1] == RAISED:
            kind, message, text = data_pickle.load(content)
            known = getattr(builtins, kind, None)
            if not (isinstance(known, type) and issubclass(known, Exception)):
                known, message = EnvCallError, f"{kind}: {message}"
            raise known(message) from RemoteTraceback(text)
        try:
            values: list[Any] = data_pickle.load(content, self._any_objects)
        except data_pickle.NotData as error:
            raise data_pickle.NotData(
                f"the result is or holds a {error}, which is not plain data: any_objects=True takes objects "
                "of every class"
            ) from None
        return values

    def _blaming(self, worker: int) -> _Blaming:
        return _Blaming(worker, self._blocks[worker])

    def close(self) -> None:
        """End all envs and workers, in bounded time. Idempotent."""
        self.pool.close()


def _place(pair: tuple[int, Any]) -> int:
    return pair[0]


class PerEnv(list[Any]):
    """N values of which each env gets its own."""


class _Blaming:
    """Turns errors about bytes that make no sense into the `WorkerDied` of whoever sent them."""

    def __init__(self, worker: int, envs: range) -> None:
        self._worker = worker
        self._envs = envs

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ProtocolError | pickle.UnpicklingError):
            raise WorkerDied(
                f"sent bytes that make no sense: {error}", worker=self._worker, env_ids=self._envs
            ) from error
