"""The process in which an env is tried out: whatever its constructor does, it does to nobody else.

The child builds the env, tells what it has found, closes the env and says so. Then it is killed, with all
that the env has started. Frames that it sends:

* PROGRESS: what it does next, as text;
* RESULT: the `Description` as JSON, or ERROR: the message, a zero byte, and the env's traceback;
* READY: the env is closed.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from workers import bootstrap, spawning
from workers.channel import Channel
from workers.errors import EnvError, ProtocolError, describe_exit
from workers.frames import Frame, Kind
from workers.processes import kill_group, kill_marked, new_mark
from workers.reaper import Reaper
from workers.trial_env import Description, Trial

_CLOSE_TIMEOUT = 2.0  # seconds that the env may take to close


def describe_in_process(trial: Trial, timeout: float) -> Description:
    """Try an env out in a process of its own.

    Args:
        trial: what to build.
        timeout: seconds that the process may take to start, and the env to be built, and to be reset.

    Raises:
        EnvError: the env cannot be used, was not there in time, or ended its process.
    """
    with contextlib.ExitStack() as stack:
        return _start(trial, stack).describe(timeout)


def _start(trial: Trial, stack: contextlib.ExitStack) -> _Running:
    """The trial in its process; the stack ends it."""
    context = multiprocessing.get_context("spawn")
    mark = new_mark()
    with spawning.signals_wait():  # until the stack knows everything
        reaper = Reaper()
        stack.callback(reaper.close)
        try:
            ours, theirs = context.Pipe(duplex=True)
            channel = Channel(ours)
            stack.callback(channel.close)
            launch = bootstrap.Launch("workers.trial_child", os.getpid(), mark)
            args = (theirs, bootstrap.LazyArguments((trial,)), launch)
            process = context.Process(target=bootstrap.run, args=args, name="prl-trial")
            try:
                spawning.start(process)
            finally:
                theirs.close()  # or the child's death would not close the pipe
        except OSError as error:
            raise EnvError(f"no process can be started to try {trial.name}: {error}") from error
        running = _Running(trial.name, channel, process, mark, reaper)
        stack.callback(running.end)
    return running


class _Running:
    """A trial that is under way.

    Args:
        name: of the env.
        channel: to the child.
        process: the child.
        mark: that the child wears.
        reaper: ends it if this process is killed.
    """

    def __init__(self, name: str, channel: Channel, process: SpawnProcess, mark: str, reaper: Reaper) -> None:
        self._name = name
        self._doing = f"the process that tries {name}"
        self._channel = channel
        self._process = process
        self._mark = mark
        self._reaper = reaper
        self._group = process.pid
        reaper.add(process.pid or 0, mark)

    def describe(self, timeout: float) -> Description:
        """Wait for what the child has found, then until the env is closed, for a moment at most.

        Args:
            timeout: see `describe_in_process`.

        Raises:
            EnvError: see `describe_in_process`.
        """
        while (frame := self._next_frame(timeout)) is not None and frame.kind is Kind.PROGRESS:
            self._doing = frame.payload.decode(errors="replace")
        if frame is None:
            raise EnvError(self._why_nothing_came(timeout))
        self._next_frame(_CLOSE_TIMEOUT)
        if frame.kind is Kind.ERROR:
            message, _, traceback = frame.payload.decode(errors="replace").partition("\0")
            raise EnvError(message, traceback=traceback)
        try:
            return Description.of_tree(json.loads(frame.payload))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise EnvError(f"the process that tried {self._name} sent no description of it") from error

    def _next_frame(self, timeout: float) -> Frame | None:
        """The next frame; None if none came in time, or the process has ended."""
        deadline = time.monotonic() + timeout
        pipe, sentinel = self._channel.fileno(), self._process.sentinel
        while (frame := self._received()) is None:
            ready = wait([pipe, sentinel], max(0.0, deadline - time.monotonic()))
            if pipe in ready:  # what it wrote before it ended comes first
                self._channel.fill()
            if pipe not in ready or self._channel.closed_by_peer:
                return self._received()
        return frame

    def _received(self) -> Frame | None:
        try:
            return self._channel.next_frame()
        except ProtocolError as error:
            raise EnvError(f"the process that tried {self._name} sent bytes that make no sense") from error

    def _why_nothing_came(self, timeout: float) -> str:
        if wait([self._process.sentinel], 1.0 if self._channel.closed_by_peer else 0.0):
            self.kill()
            return f"{self._doing} ended the process with {describe_exit(self._process.exitcode)}"
        return f"{self._doing} did not end within {timeout:g} s; if it is slow, raise start_timeout"

    def kill(self) -> None:
        """Kill the process and all that the env has started.

        Once, and before its exit code is collected: from then on its number can be given to others.
        """
        group, self._group = self._group, None
        if group is None:
            return
        kill_group(group)
        self._process.kill()  # if it leads no group yet
        kill_marked([self._mark])
        self._reaper.remove(group, self._mark)
        self._process.join(5.0)

    def end(self) -> None:
        """Kill what is left, and free everything."""
        with spawning.signals_wait():
            self.kill()
            self._process.close()
