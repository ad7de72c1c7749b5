"""Seeing a failure again: the env of a crash file, its episode's seed and actions, in this process."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import numpy as np

from learner.settings import ConfigError
from prl.run.crash_file import Crash
from workers.block import EnvBlock
from workers.env_call import results_of
from workers.env_calls import change_request
from workers.envs import EnvFactory
from workers.errors import EnvCallError, EnvFailure, one_line
from workers.failed_episode import BEFORE
from workers.requests import RequestServer
from workers.slab import SlabLayout

_STDERR = 2
_GRACE = 2.0  # seconds, after a step has been interrupted in vain


@dataclass(frozen=True)
class Replayed:
    """What came of it.

    Attributes:
        steps: that the env took without failing.
        failure: its `__cause__` is the env's own exception, if there is one. None if nothing failed.
        ended: whether the episode was over after these steps.
    """

    steps: int
    failure: EnvFailure | None
    ended: bool


class Replay:
    """One env in this process, as a worker would host it: with the same checks and seeds.

    A context manager, at whose end the env is closed.

    Args:
        crash: has the seed and the actions.
        factory: of the env.
        step_timeout: seconds that the constructor, the reset and each step may take. A call that hangs in
            Python gets a `TimeoutError`. One that hangs elsewhere ends the process with exit code 1, and the
            stacks of all threads on stderr.

    Raises:
        ConfigError: the crash has no actions, or none that fit the env; by `run`, a call cannot be repeated.
    """

    def __init__(self, crash: Crash, factory: EnvFactory, step_timeout: float = 60.0) -> None:
        self._slab = SlabLayout(factory.observation_space, factory.action_space, 1).attach()
        if crash.actions is None:
            raise ConfigError("the episode cannot be replayed: its actions were too many to be kept")
        self._actions, want = crash.actions, self._slab.action
        is_cast = np.can_cast(self._actions.dtype, want.dtype, "same_kind")  # as the rows of a pool are
        fits = self._actions.shape[1:] == want.shape[1:] and is_cast
        if len(self._actions) and not fits:
            found = f"{self._actions.dtype} of shape {self._actions.shape[1:]}"
            raise ConfigError(
                f"the actions do not fit {factory.name}: they are {found}, its own are {want.dtype} of shape "
                f"{want.shape[1:]}"
            )
        self._crash, self._factory, self._timeout = crash, factory, step_timeout
        self._block: EnvBlock | None = None

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._block is not None:
            self._block.close()

    def run(self, before_last: Callable[[], None] = lambda: None) -> Replayed:
        """Build the env, reset it with the seed, and repeat the actions until it fails or its episode ends.

        Args:
            before_last: called before the call that failed in the run.
        """
        steps = 0
        try:
            with _deadline(self._timeout):
                self._block = EnvBlock(self._factory, self._crash.env, self._slab)
            self._make_calls(self._block, BEFORE)
            if not len(self._actions):
                before_last()
            with _deadline(self._timeout):
                self._block.reset([0], [self._crash.seed])
            for steps, action in enumerate(self._actions):
                self._make_calls(self._block, steps)
                if steps + 1 == len(self._actions):
                    before_last()
                self._slab.action[0] = action
                with _deadline(self._timeout):
                    self._block.step([0])
                if self._slab.flags[0]:
                    return Replayed(steps + 1, None, ended=True)
        except EnvFailure as failure:
            return Replayed(steps, failure, ended=False)
        return Replayed(len(self._actions), None, ended=False)

    def _make_calls(self, block: EnvBlock, place: int) -> None:
        """Make the calls that the env had at this place.

        Raises:
            ConfigError: one raises.
        """
        calls = [call for at, call in self._crash.calls if at == place]
        if not calls:
            return
        try:
            with _deadline(self._timeout):
                results_of(RequestServer(block, self._slab, shared=True).answer(change_request([0], calls)))
        except EnvCallError as error:
            raise ConfigError(f"the calls of the run cannot be repeated: {one_line(error)}") from error


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Interrupt the block by a `TimeoutError`; if it does not take it, end the process with all stacks.

    In another thread than the main one, where Python does not allow handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # A signal's handler has to wait for Python to run again; this does not.
    faulthandler.dump_traceback_later(seconds + _GRACE, exit=True, file=sys.__stderr__ or _STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
