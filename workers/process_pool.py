"""Envs in worker processes: each worker hosts a contiguous block of them behind one pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal, NamedTuple

import cloudpickle
import numpy as np

from workers.arrays import Array, Ids
from workers.child import Hosted
from workers.env_alone import EnvAlone, RowExchange
from workers.env_calls import EnvCalls
from workers.envs import EnvFactory
from workers.errors import ProtocolError, WorkerError
from workers.final_infos import InfoColumn
from workers.frames import ROW_DTYPE, SEED_DTYPE, Kind
from workers.guest import Invitation
from workers.limits import check_room
from workers.output import to_stderr
from workers.pool import POOL_CLOSED, Seeds, StepBatch, read_batch
from workers.shared_memory import SharedBytes, shared_or_none
from workers.slab import Slab, SlabLayout
from workers.worker_handle import WorkerHandle
from workers.worker_set import Lifetimes, WorkerSet

Transport = Literal["shared", "pipe"]

_SPIN = 1e-3  # seconds
_DAEMONIC = (
    "worker processes cannot be started inside a daemonic process, like those of multiprocessing.Pool: use "
    "num_workers=0, or start this process by concurrent.futures.ProcessPoolExecutor"
)


class _WorkerPart(NamedTuple):
    """One worker's part of a command: its index, slice of the batch, env ids, row numbers within it."""

    worker: int
    part: slice
    env_ids: Ids
    rows: bytes


class _PendingCommand(NamedTuple):
    """One unanswered command.

    Attributes:
        env_ids: it is about.
        parts: of the workers.
        restarts: whether envs whose episode ends start the next one.
        settled: workers whose answers lie in the slab.
    """

    env_ids: Ids
    parts: list[_WorkerPart]
    restarts: bool
    settled: set[int]


class ProcessPool:
    """N envs in `num_workers` processes. Implements `workers.pool.EnvPool`.

    Args:
        factory: builds each env.
        num_envs: N.
        num_workers: at most N are started; envs are spread evenly, in contiguous blocks.
        transport: "shared" puts the rows into nameless shared memory and only a small frame into the
            pipe; "pipe" sends the rows in the frame (for a small /dev/shm). Equal results, bit for bit.
        context: a spawn context, e.g. `torch.multiprocessing.get_context("spawn")`.
        step_timeout: seconds a worker may take to answer one command, with all envs that it hosts.
        start_timeout, close_timeout, pin_workers, spare_starts: see `workers.worker_set.Lifetimes`.
        blocks: the envs of each worker, contiguous and in order; None spreads them evenly.
        invitation: brings a guest into every worker, for `call`.
        reward_dtype, info_columns: see `SlabLayout`.
        on_output: called, in a thread, with each line that envs print (see `workers.output`).

    Raises:
        RuntimeError: this process is daemonic, and must not have children.
        LimitError: the system does not allow so many workers.
        WorkerError: a worker could not be started; none is left behind.
    """

    restarts = 0
    """Of workers; `workers.recovering_pool` counts them."""

    def __init__(
        self,
        factory: EnvFactory,
        num_envs: int,
        num_workers: int,
        *,
        transport: Transport = "shared",
        context: BaseContext | None = None,
        step_timeout: float = 60.0,
        start_timeout: float = 120.0,
        close_timeout: float = 2.0,
        pin_workers: bool = True,
        spare_starts: int = 0,
        blocks: Sequence[range] | None = None,
        invitation: Invitation | None = None,
        reward_dtype: type[np.floating[Any]] = np.float32,
        info_columns: Sequence[InfoColumn] = (),
        on_output: Callable[[str], None] = to_stderr,
    ) -> None:
        if num_envs < 1 or num_workers < 1:
            raise ValueError(f"num_envs and num_workers must be at least 1, got {num_envs} and {num_workers}")
        if multiprocessing.current_process().daemon:
            raise RuntimeError(_DAEMONIC)
        context = context or multiprocessing.get_context("spawn")
        self.num_envs, self.factory = num_envs, factory
        spread = even_blocks(num_envs, min(num_workers, num_envs))
        self.blocks: Sequence[range] = list(spread if blocks is None else blocks)
        self.num_workers = len(self.blocks)
        check_room(self.num_workers)
        lifetimes = Lifetimes(start_timeout, close_timeout, pin_workers, spare_starts)
        self.step_timeout = step_timeout
        self._layout = SlabLayout(
            factory.observation_space,
            factory.action_space,
            num_envs,
            context if transport == "shared" else None,
            reward_dtype,
            info_columns,
        )
        self.info_columns = self._layout.info_columns
        self._rows = RowExchange(self._layout)
        self._pending: deque[_PendingCommand] = deque()
        self._failures: deque[WorkerError] = deque()  # noticed by `send`, raised by `recv`
        self._starts = np.array([block.start for block in self.blocks], np.int64)
        memory = None
        if invitation is not None and self._layout.shared:
            memory = shared_or_none(invitation.shared_bytes, context)
        self.guest_memory = None if memory is None else memory.attach()
        self._open_calls: deque[int] = deque()
        self.env_calls = EnvCalls(self)
        self._workers = WorkerSet(
            self._hosted_by_each(factory, invitation, memory), self.blocks, context, lifetimes, on_output
        )
        try:
            self._workers.start()
            self._full_split = self._split(np.arange(self.num_envs))
        except BaseException:
            self.close()
            raise

    def _hosted_by_each(
        self, factory: EnvFactory, invitation: Invitation | None, memory: SharedBytes | None
    ) -> list[Hosted]:
        guest = None if invitation is None else cloudpickle.dumps(invitation.guest)
        factories = [cloudpickle.dumps(factory.for_envs(envs)) for envs in self.blocks]
        return [Hosted(pickled, self._layout, guest, memory) for pickled in factories]

    def restart(self, worker: int) -> None:
        """End a worker and start another process in its place; its envs are new.

        Nothing is awaited any more from the old one: its calls are forgotten, its parts of open commands stay
        unanswered until `settle`.

        Raises:
            WorkerError: the new process could not be started, or not build its envs. `restart` can be tried
                again.
        """
        self._open_calls = deque(other for other in self._open_calls if other != worker)
        self._failures = deque(error for error in self._failures if error.worker != worker)
        self._workers.restart(worker)

    @property
    def cores(self) -> list[int]:
        """Cores that workers are bound to; none if they are not."""
        return self._workers.cores

    def settle(self, worker: int) -> None:
        """The rows of the slab are the answers of a worker to its parts of all open commands."""
        for command in self._pending:
            command.settled.add(worker)

    def incarnation(self, worker: int) -> int:
        """How often a worker was started before. `RuntimeError` if the pool is closed."""
        return self._handle(worker).incarnation

    def _handle(self, worker: int) -> WorkerHandle:
        if not self._workers.handles:
            raise RuntimeError(POOL_CLOSED)
        return self._workers.handles[worker]

    @property
    def stale_frames(self) -> int:
        """Late or duplicated answers that were dropped."""
        return self._workers.stale_frames

    @property
    def worker_pids(self) -> list[int | None]:
        """Process ids of the workers, by worker index."""
        return [handle.pid for handle in self._workers.handles]

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        all_seeds = np.asarray(seeds, SEED_DTYPE)
        self._command(Kind.RESET, env_ids, lambda part: all_seeds[part].tobytes())

    def send(
        self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None, aside: Collection[int] = ()
    ) -> None:
        """See `EnvPool.send`. Workers `aside` get nothing: somebody else writes their answers."""
        self._rows.slab.action[env_ids] = actions
        if next_seeds is None:
            self._command(Kind.STEP, env_ids, lambda part: self._rows.pack_actions(env_ids[part]), aside)
            return
        seeds = np.asarray(next_seeds, SEED_DTYPE)
        self._command(
            Kind.STEP_AUTORESET,
            env_ids,
            lambda part: seeds[part].tobytes() + self._rows.pack_actions(env_ids[part]),
            aside,
        )

    def _command(
        self, kind: Kind, env_ids: Ids, arguments: Callable[[slice], bytes], aside: Collection[int] = ()
    ) -> None:
        """Give each worker its part: the rows, and the arguments of that slice of the batch."""
        if not self._workers.handles:
            raise RuntimeError(POOL_CLOSED)
        parts = self._full_split if len(env_ids) == self.num_envs else self._split(env_ids)
        for part in parts:
            if part.worker in aside:
                continue
            try:
                payload = part.rows + arguments(part.part)
                self._workers.handles[part.worker].command(kind, payload, self.step_timeout)
            except WorkerError as error:  # the other workers get their parts all the same
                self._failures.append(error)
        self._pending.append(_PendingCommand(env_ids, parts, kind is Kind.STEP_AUTORESET, set(aside)))

    def _split(self, env_ids: Ids) -> list[_WorkerPart]:
        bounds = [*np.searchsorted(env_ids, self._starts).tolist(), len(env_ids)]
        parts = []
        for handle, start, stop in zip(self._workers.handles, bounds[:-1], bounds[1:], strict=True):
            if start < stop:
                ids = env_ids[start:stop]
                rows = (ids - handle.envs.start).astype(ROW_DTYPE).tobytes()
                parts.append(_WorkerPart(handle.index, slice(start, stop), ids, rows))
        return parts

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`."""
        if not self._pending:
            raise RuntimeError("recv without an open command: call reset or send first")
        if self._failures:
            raise self._failures.popleft()
        command = self._pending[0]
        self._take_parts(command, command.parts, self.step_timeout if timeout is None else timeout)
        self._pending.popleft()
        return read_batch(self._rows.slab, command.env_ids, command.restarts)

    def _take_parts(self, command: _PendingCommand, parts: Sequence[_WorkerPart], timeout: float) -> None:
        """Wait for the answers to parts of a command, and write them into their rows."""
        parts = [part for part in parts if part.worker not in command.settled]
        handles = [self._workers.handles[part.worker] for part in parts]
        self._workers.await_answers(handles, timeout)
        for part, handle in zip(parts, handles, strict=True):
            with self.blames(part.worker):
                self._rows.unpack(part.env_ids, handle.take_answer().payload, command.restarts)
            command.settled.add(part.worker)

    def drain(self, worker: int) -> None:
        """Wait for a worker's answers to all open commands, so that it has none open."""
        for command in self._pending:
            own = [part for part in command.parts if part.worker == worker]
            self._take_parts(command, own, self.step_timeout)

    @property
    def slab(self) -> Slab:
        """The rows of all envs; private memory unless `transport` is "shared"."""
        return self._rows.slab

    def envs_of(self, worker: int) -> range:
        """The envs that a worker hosts."""
        return self.blocks[worker]

    def env_alone(self, env: int) -> EnvAlone:
        """Commands to one env of a worker that has no command open; for those that were restarted."""
        handle = self._workers.handles[self.worker_of(env)]
        return EnvAlone(env, handle, self._rows, self.step_timeout)

    def worker_of(self, env: int) -> int:
        """The index of the worker that hosts an env."""
        return int(np.searchsorted(self._starts, env, side="right")) - 1

    def request(self, worker: int, payload: bytes, name: str) -> None:
        """Ask something of a worker's envs (see `workers.requests`).

        Args:
            worker: its index.
            payload: the request.
            name: for messages, e.g. "step".

        Raises:
            RuntimeError: the pool is closed.
            WorkerError: the worker is dead, or does not read.
        """
        self._handle(worker).command(Kind.REQUEST, payload, self.step_timeout, name)

    def take_results(self, workers: Sequence[int]) -> list[bytes]:
        """Wait for the answers to the oldest open request of each of some workers.

        Raises:
            WorkerError: a worker died, hung or reported a failed env.
        """
        handles = [self._workers.handles[worker] for worker in workers]
        self._workers.await_answers(handles, self.step_timeout)
        return [handle.take_answer().payload for handle in handles]

    def await_results(self, workers: Sequence[int], timeout: float) -> bool:
        """Wait at most `timeout` seconds; whether `take_results` would find all of its answers.

        Raises:
            WorkerError: a worker died or reported a failed env.
        """
        handles = [self._workers.handles[worker] for worker in workers]
        deadline = time.monotonic() + timeout
        while not (done := all(handle.has_answer for handle in handles)):
            remaining = deadline - time.monotonic()
            if not self._workers.read(remaining) and remaining <= 0.0:
                break
        return done

    def call(self, worker: int, request: bytes) -> None:
        """Call the guest of a worker; while calls are open, the pool takes no other command.

        Args:
            worker: its index.
            request: see `workers.guest.Guest.call`. Calls of one worker are answered in their order.

        Raises:
            RuntimeError: the pool is closed.
            WorkerError: the worker is dead, or does not read.
        """
        self._handle(worker).command(Kind.CALL, request, self.step_timeout)
        self._open_calls.append(worker)

    def take_answer(self, on_news: Callable[[int, bytes], None]) -> tuple[int, bytes]:
        """Wait for the answer to any open call.

        Args:
            on_news: gets the worker and what its guest tells; raises `ProtocolError` if that is nonsense.

        Returns:
            The worker, and its guest's answer to the oldest of its calls.

        Raises:
            WorkerError: a worker died, reported a failed env, or gave no sign of life within `step_timeout`.
        """
        if not self._open_calls:
            raise RuntimeError("take_answer without an open call")
        while True:
            for worker in self._open_calls:
                handle = self._workers.handles[worker]
                while handle.news:
                    with self.blames(worker):
                        on_news(worker, handle.news.popleft())
                if handle.has_answer:
                    self._open_calls.remove(worker)
                    return worker, handle.take_answer().payload
            playing = [self._workers.handles[worker] for worker in self._open_calls]
            self._workers.await_sign_of_life(playing, self.step_timeout)

    @contextlib.contextmanager
    def blames(self, worker: int) -> Iterator[None]:
        """Turn the `ProtocolError` of whoever reads what a worker sent into that worker's `WorkerDied`."""
        try:
            yield
        except ProtocolError as error:
            raise self._workers.handles[worker].protocol_violation(error) from error

    def close(self) -> None:
        """See `EnvPool.close`. What has not ended after `close_timeout` is killed; a warning names it."""
        self._pending.clear()
        self._failures.clear()
        self._open_calls.clear()
        self._workers.close()

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def even_blocks(num_envs: int, num_workers: int) -> Iterator[range]:
    """Contiguous blocks of nearly equal size."""
    for worker in range(num_workers):
        yield range(worker * num_envs // num_workers, (worker + 1) * num_envs // num_workers)
