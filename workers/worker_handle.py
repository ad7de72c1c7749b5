"""The learner's end of one worker process: start it, speak to it, end it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext, SpawnProcess
from typing import cast

from workers import bootstrap, spawning
from workers.channel import Channel
from workers.child import Hosted
from workers.errors import (
    ProtocolError,
    WorkerDied,
    WorkerEnvFailed,
    WorkerError,
    WorkerTimeout,
    describe_exit,
)
from workers.failed_episode import decode
from workers.frames import Frame, Kind
from workers.output import Output
from workers.processes import kill_group, kill_marked, new_mark
from workers.reaper import Reaper

_COMMAND_NAMES = {
    Kind.RESET: "reset",
    Kind.STEP: "step",
    Kind.STEP_AUTORESET: "step",
    Kind.CALL: "play",
    Kind.REPLAY: "replay",
    Kind.REQUEST: "call",
}


class WorkerHandle:
    """One worker process and its pipe.

    Args:
        index: of the worker.
        envs: the range of env indices it hosts.
        context: a spawn context.
        hosted: what it hosts.
        reaper: ends the worker and what its envs have started if this process is killed.
        output: shows what its envs print.
        incarnation: how often this worker was started before.

    Attributes:
        mark: that all processes which its envs start wear.
        stale_frames: late or duplicated frames that were dropped.
        pid: process id; None if the process was not started.
        ended: whether its process is gone and everything freed.
        built: envs known to be constructed, before the answer to the start.
        progress_time: monotonic time of the start, of the last env that was constructed, or of the last sign
            of life in a call.
        news: that guests have told in calls, and nobody has taken yet.

    Raises:
        WorkerDied: the process cannot be started.
    """

    def __init__(
        self,
        index: int,
        envs: range,
        context: BaseContext,
        hosted: Hosted,
        reaper: Reaper,
        output: Output,
        incarnation: int = 0,
    ) -> None:
        self.index = index
        self.envs = envs
        self.incarnation = incarnation
        self.ended = False
        self.stale_frames = 0
        self._pending: deque[tuple[int, Kind]] = deque()
        self._answers: deque[Frame] = deque()
        self._pieces: list[bytes] = []
        self.news: deque[bytes] = deque()
        self._sequence = 0
        self._last_command = "start"
        self.built = 0
        self.progress_time = time.monotonic()
        self.mark = new_mark()
        self._reaper = reaper
        # PR_SET_PDEATHSIG fires when the *thread* that started the child ends.
        in_main_thread = threading.current_thread() is threading.main_thread()
        launch = bootstrap.Launch(
            parent_pid=os.getpid() if in_main_thread else None, mark=self.mark, output=output.for_child()
        )
        ours, theirs = context.Pipe(duplex=True)
        self._channel = Channel(ours)
        self._process: SpawnProcess = context.Process(  # type: ignore[attr-defined]
            target=bootstrap.run,
            args=(theirs, bootstrap.LazyArguments((hosted, (envs.start, envs.stop), incarnation)), launch),
            name=f"prl-worker-{index}",
        )
        try:
            spawning.start(self._process)
        except OSError as error:
            self._channel.close()
            raise self._error(WorkerDied, f"could not be started: {error}") from error
        finally:
            # Our copy of the child's end must go, or the child's death would not close the pipe.
            theirs.close()
        self.pid = self._group = self._process.pid
        reaper.add(self._process.pid or 0, self.mark)
        self._pending.append((0, Kind.READY))

    def filenos(self) -> tuple[int, int]:
        """The descriptors that become readable when the worker answers or dies."""
        return self._channel.fileno(), self._process.sentinel

    def command(self, kind: Kind, payload: bytes, timeout: float, name: str = "") -> None:
        """Send RESET, STEP, CALL or REQUEST.

        Args:
            kind, payload: of the frame.
            timeout: seconds.
            name: of a REQUEST, for messages.

        Raises:
            WorkerError: the worker is dead, or does not read within `timeout` seconds.
        """
        self._sequence += 1
        self._last_command = name or _COMMAND_NAMES[kind]
        frame = Frame(kind, self.incarnation, self._sequence, payload)
        try:
            self._channel.send(frame, timeout, while_blocked=self._channel.fill)
        except TimeoutError:
            raise self.timed_out(timeout) from None
        except ConnectionError:
            # What it wrote before it died comes first: it may have reported why.
            self.on_readable(self._channel.fileno())
            raise self.death() from None
        if not self._pending:
            self.progress_time = time.monotonic()
        self._pending.append((self._sequence, kind))

    def on_readable(self, fd: int) -> None:
        """Read what has arrived: answers are kept, stale frames dropped and counted.

        Args:
            fd: the one of `filenos()` that is readable.

        Raises:
            WorkerError: the worker reported a failure, died, or sent what is no frame.
        """
        try:
            self._channel.fill()
            while (frame := self._channel.next_frame()) is not None:
                self._accept(frame)
        except ProtocolError as error:
            raise self.protocol_violation(error) from error
        # What it wrote before it died has been read by now: its own report comes first.
        if self._channel.closed_by_peer or fd == self._process.sentinel:
            raise self.death()

    def _accept(self, frame: Frame) -> None:
        if frame.incarnation != self.incarnation or not self._pending:
            self.stale_frames += 1
            return
        if frame.kind is Kind.ERROR:
            raise self._failure(frame.payload)
        if frame.kind is Kind.PROGRESS:
            self.built += 1
            self.progress_time = time.monotonic()
            return
        if frame.sequence != self._pending[0][0]:
            self.stale_frames += 1
            return
        if frame.kind in (Kind.NEWS, Kind.PART):
            self.progress_time = time.monotonic()
            if frame.kind is Kind.PART:
                self._pieces.append(frame.payload)
            elif frame.payload:
                self.news.append(frame.payload)
            return
        self.progress_time = time.monotonic()
        self._pending.popleft()
        if frame.kind is Kind.RESULT and self._pieces:
            frame = frame._replace(payload=b"".join([*self._pieces, frame.payload]))
            self._pieces.clear()
        self._answers.append(frame)

    def await_start(self, timeout: float) -> None:
        """Wait until it has constructed its envs, as long as it makes progress; for later incarnations.

        Raises:
            WorkerError: it died, reported a failure, or made no progress for `timeout` seconds.
        """
        self._await_answer(lambda: self.progress_time + timeout, lambda: self.start_timed_out(timeout))
        self.take_answer()

    def ask(self, kind: Kind, payload: bytes, timeout: float) -> bytes:
        """Send a command and wait for its answer, with no other one open.

        Raises:
            WorkerError: it died, reported a failure, or did not answer within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        self.command(kind, payload, timeout)
        self._await_answer(lambda: deadline, lambda: self.timed_out(timeout))
        return self.take_answer().payload

    def _await_answer(self, deadline: Callable[[], float], too_late: Callable[[], WorkerError]) -> None:
        while not self.has_answer:
            remaining = deadline() - time.monotonic()
            ready = wait(self.filenos(), max(0.0, remaining))
            for fd in ready:
                self.on_readable(cast(int, fd))
            if not ready and remaining <= 0.0:
                raise too_late()

    @property
    def is_busy(self) -> bool:
        """Whether something that it was asked has no answer yet."""
        return bool(self._pending)

    @property
    def has_answer(self) -> bool:
        """Whether `take_answer` has something to return."""
        return bool(self._answers)

    def take_answer(self) -> Frame:
        """The answer to the oldest command; the caller knows that there is one."""
        return self._answers.popleft()

    def protocol_violation(self, error: ProtocolError) -> WorkerError:
        """The error of a worker that sent what is no answer."""
        return self._error(WorkerDied, f"sent bytes that make no sense: {error}")

    def death(self) -> WorkerError:
        """The error that describes a worker that has ended or is about to."""
        if wait([self._process.sentinel], 1.0):
            self._kill_group()
            kill_marked([self.mark])
            self._process.join(1.0)
        how = describe_exit(self._process.exitcode)
        return self._error(WorkerDied, f"died with {how} during {self._last_command!r}")

    def timed_out(self, timeout: float) -> WorkerError:
        """Kill the worker; the error that says that it hung, and what can be done."""
        self.kill()
        kill_marked([self.mark])
        reason = f"did not answer {self._last_command!r} within {timeout:g} s and was killed"
        if len(self.envs) > 1:
            advice = (
                f"its {len(self.envs)} envs take turns in this time: raise step_timeout, or use more workers"
            )
        else:
            advice = "if its env is slow, raise step_timeout"
        return self._error(WorkerTimeout, f"{reason}; {advice}")

    def start_timed_out(self, timeout: float) -> WorkerError:
        """Kill the worker; the error that says which env was not constructed in time."""
        self.kill()
        kill_marked([self.mark])
        env = self.envs[min(self.built, len(self.envs) - 1)]
        return self._error(
            WorkerTimeout,
            f"did not construct env {env} within {timeout:g} s and was killed; if its constructor is slow, "
            "raise start_timeout",
        )

    def not_closed(self, timeout: float) -> WorkerError:
        """The error, or rather the words, of a worker that has not ended when it was asked to."""
        return self._error(
            WorkerTimeout,
            f"did not close within {timeout:g} s and was killed; if closing its envs takes long, raise "
            "close_timeout",
        )

    def _failure(self, payload: bytes) -> WorkerError:
        """The error that an ERROR frame tells of."""
        summary, text, episode = (*payload.split(b"\0", 2), b"", b"")[:3]
        what = f"failed: {summary.decode(errors='replace')}"
        error = self._error(WorkerEnvFailed, what, text.decode(errors="replace"))
        error.episode = decode(episode)
        return error

    def _error(self, kind: type[WorkerError], reason: str, text: str = "") -> WorkerError:
        return kind(
            reason,
            worker=self.index,
            env_ids=self.envs,
            exitcode=None if self.ended else self._process.exitcode,
            last_command=self._last_command,
            traceback=text,
        )

    def ask_to_close(self) -> None:
        """First pass of a shutdown: do not wait."""
        if self.ended:
            return
        with contextlib.suppress(OSError):
            self._channel.send(Frame(Kind.CLOSE, self.incarnation, self._sequence + 1), timeout=0.0)

    def join(self, deadline: float) -> bool:
        """Second pass of a shutdown: wait until `deadline` (monotonic), then kill and free everything.

        Returns:
            Whether it had ended by itself.
        """
        in_time = self.ended or bool(wait([self._process.sentinel], max(0.0, deadline - time.monotonic())))
        self.end()
        return in_time

    def end(self) -> None:
        """Kill it and free everything. Idempotent."""
        if self.ended:
            return
        self.kill()
        self.ended = True
        self._channel.close()
        self._process.close()

    def kill(self) -> None:
        """SIGKILL to the worker and to the processes of its group; others of its envs' wear its mark."""
        self._kill_group()
        self._process.kill()  # a worker that is still starting leads no group yet
        self._process.join(5.0)

    def _kill_group(self) -> None:
        """Kill the worker's process group, even if the worker itself has ended: its children may live.

        Once, and before the worker's exit code is collected: from then on its id can be given to others.
        """
        group, self._group = self._group, None
        if group is not None:
            kill_group(group)
            self._reaper.remove(group, self.mark)
