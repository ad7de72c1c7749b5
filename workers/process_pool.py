"""Envs in worker processes: each worker hosts a contiguous block of them behind one pipe."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Literal, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt

from workers.channel import Waiter
from workers.envs import EnvFactory
from workers.errors import ProtocolError
from workers.link import WorkerLink
from workers.protocol import (
    POOL_CLOSED,
    ROW_DTYPE,
    SEED_DTYPE,
    Kind,
    Seeds,
    StepBatch,
    pack_rows,
    read_batch,
    unpack_rows,
)
from workers.slab import Array, SlabLayout

Transport = Literal["shared", "pipe"]

_SPIN = 1e-3  # seconds
_CLOSE_TIMEOUT = 2.0  # seconds for all workers together, then they are killed


class _Share(NamedTuple):
    """What one worker does of a command: which part of the batch, which envs, and their rows as it counts."""

    link: WorkerLink
    part: slice
    env_ids: npt.NDArray[np.int64]
    rows: bytes


class _Ticket(NamedTuple):
    """One unanswered command."""

    env_ids: npt.NDArray[np.int64]
    shares: list[_Share]
    restarts: bool


class ProcessPool:
    """N envs in `num_workers` processes. Implements `workers.protocol.EnvPool`.

    Args:
        factory: builds each env.
        num_envs: N.
        num_workers: at most N are started; envs are spread evenly, in contiguous blocks.
        transport: "shared" puts the rows into nameless shared memory and only a small frame into the
            pipe; "pipe" sends the rows in the frame (for a small /dev/shm). Equal results, bit for bit.
        context: a spawn context, e.g. `torch.multiprocessing.get_context("spawn")`.
        step_timeout: seconds a worker may take to answer one command.
        start_timeout: seconds all workers together may take to import and construct their envs.
        pin_workers: with at least as many workers as usable cores, keep each on one core. Left to itself,
            Linux often wakes two of them on the core of the learner that wrote to them, to take turns there.

    Raises:
        WorkerError: a worker could not be started; none is left behind.
    """

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
        pin_workers: bool = True,
    ) -> None:
        if num_envs < 1 or num_workers < 1:
            raise ValueError(f"num_envs and num_workers must be at least 1, got {num_envs} and {num_workers}")
        context = context or multiprocessing.get_context("spawn")
        self.num_envs = num_envs
        self.num_workers = min(num_workers, num_envs)
        self.step_timeout = step_timeout
        self._layout = SlabLayout(
            factory.observation_space,
            factory.action_space,
            num_envs,
            context if transport == "shared" else None,
        )
        self._slab = self._layout.attach()
        self._command_arrays = self._layout.command_arrays(self._slab)
        self._answer_arrays = self._layout.answer_arrays(self._slab)
        self._answer_bytes = sum(array[0].nbytes for array in self._answer_arrays)
        self._restart_arrays = self._layout.restart_arrays(self._slab)
        self._tickets: deque[_Ticket] = deque()
        self._links: list[WorkerLink] = []
        self._starts = np.array([r.start for r in _blocks(num_envs, self.num_workers)], np.int64)
        # Before the first process exists: whatever happens from here on, all of them are ended. atexit runs
        # this ahead of multiprocessing's own exit handler, which would wait for the workers for ever.
        self._finalizer = weakref.finalize(self, _shut_down, self._links)
        self._finalizer.atexit = False
        atexit.register(self._finalizer)
        try:
            self._start(cloudpickle.dumps(factory), context, start_timeout)
            if pin_workers:
                _pin([link.pid for link in self._links])
        except BaseException:
            self.close()
            raise

    def _start(self, factory: bytes, context: BaseContext, timeout: float) -> None:
        for index, envs in enumerate(_blocks(self.num_envs, self.num_workers)):
            args = (factory, self._layout, (envs.start, envs.stop))
            self._links.append(WorkerLink(index, envs, context, args))
        self._waiter = Waiter(_SPIN)
        self._by_fd = {fd: link for link in self._links for fd in link.filenos()}
        for fd in self._by_fd:
            self._waiter.watch(fd)
        self._await_answers(self._links, timeout)
        for link in self._links:
            link.take_answer()
        self._everyone = self._split(np.arange(self.num_envs))

    @property
    def stale_frames(self) -> int:
        """Late or duplicated answers that were dropped."""
        return sum(link.stale_frames for link in self._links)

    @property
    def worker_pids(self) -> list[int | None]:
        """Process ids of the workers, by worker index."""
        return [link.pid for link in self._links]

    def reset(self, env_ids: npt.NDArray[np.int64], seeds: Seeds) -> None:
        """See `EnvPool.reset`."""
        all_seeds = np.asarray(seeds, SEED_DTYPE)
        self._command(Kind.RESET, env_ids, lambda part: all_seeds[part].tobytes())

    def send(self, env_ids: npt.NDArray[np.int64], actions: Array, next_seeds: Seeds | None = None) -> None:
        """See `EnvPool.send`."""
        self._slab.action[env_ids] = actions
        if next_seeds is None:
            self._command(Kind.STEP, env_ids, lambda part: pack_rows(self._command_arrays, env_ids[part]))
            return
        seeds = np.asarray(next_seeds, SEED_DTYPE)
        self._command(
            Kind.STEP_ON,
            env_ids,
            lambda part: seeds[part].tobytes() + pack_rows(self._command_arrays, env_ids[part]),
        )

    def _command(
        self, kind: Kind, env_ids: npt.NDArray[np.int64], arguments: Callable[[slice], bytes]
    ) -> None:
        """Give each worker its share: the rows, and the arguments of that slice of the batch."""
        if not self._links:
            raise RuntimeError(POOL_CLOSED)
        shares = self._everyone if len(env_ids) == self.num_envs else self._split(env_ids)
        for share in shares:
            share.link.command(kind, share.rows + arguments(share.part), self.step_timeout)
        self._tickets.append(_Ticket(env_ids, shares, restarts=kind is Kind.STEP_ON))

    def _split(self, env_ids: npt.NDArray[np.int64]) -> list[_Share]:
        bounds = [*np.searchsorted(env_ids, self._starts).tolist(), len(env_ids)]
        shares = []
        for link, start, stop in zip(self._links, bounds[:-1], bounds[1:], strict=True):
            if start < stop:
                ids = env_ids[start:stop]
                rows = (ids - link.envs.start).astype(ROW_DTYPE).tobytes()
                shares.append(_Share(link, slice(start, stop), ids, rows))
        return shares

    def recv(self, timeout: float | None = None) -> StepBatch:
        """See `EnvPool.recv`."""
        if not self._tickets:
            raise RuntimeError("recv without an open command: call reset or send first")
        ticket = self._tickets[0]
        self._await_answers(
            [share.link for share in ticket.shares], self.step_timeout if timeout is None else timeout
        )
        self._tickets.popleft()
        for share in ticket.shares:
            try:
                self._unpack(share.env_ids, share.link.take_answer().payload, ticket.restarts)
            except ProtocolError as error:
                raise share.link.nonsense(error) from error
        return read_batch(self._slab, ticket.env_ids, ticket.restarts)

    def _unpack(self, env_ids: npt.NDArray[np.int64], payload: bytes, restarts: bool) -> None:
        if not (restarts and self._restart_arrays):
            unpack_rows(self._answer_arrays, env_ids, payload)
            return
        size = len(env_ids) * self._answer_bytes
        unpack_rows(self._answer_arrays, env_ids, payload[:size])
        ended = env_ids[self._slab.flags[env_ids] != 0]
        unpack_rows(self._restart_arrays, ended, payload[size:])

    def _await_answers(self, links: Sequence[WorkerLink], timeout: float) -> None:
        """Wait until each of the links has an answer, watching the pipes and the lives of *all* workers."""
        deadline = time.monotonic() + timeout
        while any(not link.has_answer for link in links):
            remaining = deadline - time.monotonic()
            # Poll even when the time is up: after a suspend, the answers may have been there all along.
            events = self._waiter.wait(max(0.0, remaining))
            for fd, _ in events:
                self._by_fd[fd].on_readable(fd)
            if not events and remaining <= 0.0:
                raise next(link for link in links if not link.has_answer).timed_out(timeout)

    def close(self) -> None:
        """See `EnvPool.close`. Never takes more than about 2 s; what is not done by then is killed."""
        self._tickets.clear()
        self._finalizer()
        atexit.unregister(self._finalizer)

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _blocks(num_envs: int, num_workers: int) -> Iterator[range]:
    """Contiguous, as even as can be."""
    for worker in range(num_workers):
        yield range(worker * num_envs // num_workers, (worker + 1) * num_envs // num_workers)


def _pin(pids: Sequence[int | None]) -> None:
    """Give each process one core, if there are at least as many processes as cores."""
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(pids) < len(cores):
        return  # the choice of cores is better left to the system: other runs want some, too
    for index, pid in enumerate(pids):
        if pid is not None:
            with contextlib.suppress(OSError):  # not allowed in some sandboxes; it is only a matter of speed
                os.sched_setaffinity(pid, {cores[index % len(cores)]})


def _shut_down(links: list[WorkerLink]) -> None:
    """Two passes under one deadline: ask all, then wait for each and kill what is left."""
    deadline = time.monotonic() + _CLOSE_TIMEOUT
    for link in links:
        link.ask_to_close()
    for link in links:
        link.join(deadline)
    links.clear()
