"""The processes of a pool: started together, waited for together, ended together."""

from __future__ import annotations

import atexit
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext

from workers.channel import Waiter
from workers.child import Hosted
from workers.cores import pin
from workers.errors import WorkerDied
from workers.output import Output
from workers.processes import kill_marked
from workers.reaper import Reaper
from workers.spawning import signals_wait
from workers.worker_handle import WorkerHandle

_SPIN = 1e-3  # seconds


@dataclass(frozen=True)
class Lifetimes:
    """How workers start and end.

    Attributes:
        start_timeout: seconds a worker may take to start and construct its first env, and then each of its
            other envs.
        close_timeout: seconds all of them together may take to close their envs; who has not ended by then
            is killed, and a warning names it.
        pin_workers: with at least as many workers as usable cores, keep each on one core. Left to itself,
            Linux often wakes two of them on the core of the learner that wrote to them, to take turns there.
        spare_starts: processes that may take the place of one that dies before its envs are built, when the
            pool starts.
    """

    start_timeout: float = 120.0
    close_timeout: float = 2.0
    pin_workers: bool = True
    spare_starts: int = 0


class WorkerSet:
    """Worker processes, by index.

    Whatever happens after it is made, all processes are ended: by `close`, when it is collected, at the exit
    of this process, or by a reaper if this process is killed.

    Args:
        hosted: what each of them hosts.
        blocks: the envs of each.
        context: a spawn context.
        lifetimes: how they start and end.
        on_output: called, in a thread, with each line that envs print (see `workers.output`).

    Attributes:
        handles: of the workers; none once they are closed.
        cores: that workers are bound to; none if they are not.
    """

    def __init__(
        self,
        hosted: Sequence[Hosted],
        blocks: Sequence[range],
        context: BaseContext,
        lifetimes: Lifetimes,
        on_output: Callable[[str], None],
    ) -> None:
        self.handles: list[WorkerHandle] = []
        self.cores: list[int] = []
        self._hosted, self._blocks, self._context = hosted, blocks, context
        self._lifetimes = lifetimes
        self._stale_frames = 0  # of workers that were replaced
        self._waiter = Waiter(_SPIN)
        self._by_fd: dict[int, WorkerHandle] = {}
        self._reaper = Reaper()
        self._output = Output(on_output)
        # atexit runs this ahead of multiprocessing's own exit handler, which would wait for the workers for
        # ever.
        self._finalizer = weakref.finalize(
            self, _shut_down, self.handles, self._reaper, self._output, lifetimes.close_timeout
        )
        self._finalizer.atexit = False
        atexit.register(self._finalizer)

    def start(self) -> None:
        """Start all, and wait until they have constructed their envs.

        Raises:
            WorkerError: one could not be started; `close` ends the others.
        """
        for index in range(len(self._blocks)):
            with signals_wait():  # until `close` knows of it
                self.handles.append(self._new(index))
        for handle in self.handles:
            self._watch(handle)
        self._await_start(self._lifetimes.start_timeout)
        for handle in self.handles:
            handle.take_answer()
        self._output.started()
        self._pin()

    def _start_again(self, error: WorkerDied) -> None:
        """Start another process in the place of one that has died before its envs were built.

        Raises:
            WorkerDied: too many have died there.
        """
        old = self.handles[error.worker]
        if old.incarnation >= self._lifetimes.spare_starts:
            raise error
        self._replace(old)

    def _new(self, worker: int, incarnation: int = 0) -> WorkerHandle:
        hosted, envs = self._hosted[worker], self._blocks[worker]
        return WorkerHandle(worker, envs, self._context, hosted, self._reaper, self._output, incarnation)

    def _watch(self, handle: WorkerHandle) -> None:
        for fd in handle.filenos():
            self._by_fd[fd] = handle
            self._waiter.watch(fd)

    def _pin(self) -> None:
        if self._lifetimes.pin_workers:
            self.cores = pin([handle.pid for handle in self.handles])

    def restart(self, worker: int) -> None:
        """End a worker and start another process in its place; nothing is awaited from the old one any more.

        Raises:
            WorkerError: the new process could not be started, or not build its envs. `restart` can be tried
                again.
        """
        self._replace(self.handles[worker]).await_start(self._lifetimes.start_timeout)
        self._pin()

    def _replace(self, old: WorkerHandle) -> WorkerHandle:
        """End a worker, and start another process in its place."""
        if not old.ended:
            for fd in old.filenos():
                del self._by_fd[fd]
                self._waiter.forget(fd)
            old.end()
            kill_marked([old.mark])
        with signals_wait():  # until `close` knows of it
            new = self._new(old.index, old.incarnation + 1)
            self.handles[old.index] = new
        self._stale_frames += old.stale_frames
        self._watch(new)
        return new

    @property
    def stale_frames(self) -> int:
        """Late or duplicated answers that were dropped."""
        return self._stale_frames + sum(handle.stale_frames for handle in self.handles)

    def read(self, timeout: float, spins: bool = True) -> bool:
        """Wait at most `timeout` seconds for something to read from any worker, and read it.

        Args:
            timeout: see above.
            spins: see `workers.channel.Waiter.wait`.

        Returns:
            Whether there was something.

        Raises:
            WorkerError: a worker died or reported a failure.
        """
        events = self._waiter.wait(max(0.0, timeout), spins)
        for fd, _ in events:
            self._by_fd[fd].on_readable(fd)
        return bool(events)

    def await_answers(self, handles: Sequence[WorkerHandle], timeout: float) -> None:
        """Wait until each of the handles has an answer, watching the pipes and the lives of *all* workers.

        Raises:
            WorkerError: a worker died or reported a failure, or one of the handles has no answer after
                `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while any(not handle.has_answer for handle in handles):
            remaining = deadline - time.monotonic()
            # Poll even when the time is up: after a suspend, the answers may have been there all along.
            if not self.read(remaining) and remaining <= 0.0:
                raise next(handle for handle in handles if not handle.has_answer).timed_out(timeout)

    def await_sign_of_life(self, handles: Sequence[WorkerHandle], timeout: float) -> None:
        """Wait for news or an answer of any of the handles, each of which says something from time to time.

        Raises:
            WorkerError: a worker died or reported a failure, or one of the handles has said nothing for
                `timeout` seconds.
        """
        slowest = min(handles, key=lambda handle: handle.progress_time)
        remaining = slowest.progress_time + timeout - time.monotonic()
        # Their own work takes long, and each of them may be on the core that this process would spin on.
        if not self.read(remaining, spins=False) and remaining <= 0.0:
            raise slowest.timed_out(timeout)

    def _await_start(self, timeout: float) -> None:
        """Wait until all workers have constructed their envs, as long as each of them makes progress."""
        while starting := [handle for handle in self.handles if not handle.has_answer]:
            slowest = min(starting, key=lambda handle: handle.progress_time)
            remaining = slowest.progress_time + timeout - time.monotonic()
            try:
                is_late = not self.read(remaining) and remaining <= 0.0
            except WorkerDied as error:
                self._start_again(error)
                continue
            if is_late:
                raise slowest.start_timed_out(timeout)

    def close(self) -> None:
        """End all, in bounded time. Idempotent."""
        killed = self._finalizer() or ()
        atexit.unregister(self._finalizer)
        for words in killed:
            warnings.warn(words, stacklevel=4)


def _shut_down(handles: list[WorkerHandle], reaper: Reaper, output: Output, timeout: float) -> Sequence[str]:
    """Two passes under one deadline: ask all, then wait for each and kill what is left.

    Returns:
        Words on those that were killed though nothing else was asked of them.
    """
    with signals_wait():  # what is not ended here, multiprocessing would wait for
        deadline = time.monotonic() + timeout
        for handle in handles:
            handle.ask_to_close()
        killed = [
            str(handle.not_closed(timeout))
            for handle in handles
            if not (handle.join(deadline) or handle.is_busy)
        ]
        kill_marked([handle.mark for handle in handles])
        handles.clear()
        reaper.close()
        output.close()
    return killed
