"""Typed errors of the environment side. Each carries what a person needs to find the culprit."""

from __future__ import annotations

import os
import reprlib
import signal
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.failed_episode import FailedEpisode

USER_ERRORS = (Exception, SystemExit)
"""What an env may raise. `sys.exit()` in an env is a failure of the env, not an order to the learner."""

_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = _REPR.maxlong = 120


class EnvError(ValueError):
    """The environment that was asked for cannot be used: unknown id, missing extra, no time limit, ...

    Attributes:
        traceback: of the env's own exception as text, "" if there was none.
    """

    def __init__(self, message: str, *, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)

    @classmethod
    def of(cls, what: str, error: BaseException) -> EnvError:
        """The error for an exception of the user's code, with its traceback as text.

        Args:
            what: raised it, e.g. "the constructor of CartPole-v1".
            error: what was raised.
        """
        text = "".join(traceback.format_exception(error))
        return cls(f"{what} raised {describe(error)}", traceback=text)


def place_of(error: BaseException) -> str:
    """Where a module lies that was not found, if that is the current directory; "" otherwise.

    The command `prl` does not look there for modules, as little as other installed commands do.
    """
    name = (getattr(error, "name", None) or "").partition(".")[0]
    found = name and any(os.path.isfile(path) for path in (f"{name}.py", f"{name}/__init__.py"))
    if not (found and isinstance(error, ModuleNotFoundError)):
        return ""
    return f"; {name} is in the current directory, where `python -m prl` looks, in place of `prl`"


class EnvCallError(RuntimeError):
    """A method or attribute of an env raised when it was called or set from outside.

    Attributes:
        traceback: of the env's own exception as text, "" if there was none.
    """

    def __init__(self, message: str, *, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)


class RemoteTraceback(Exception):
    """The traceback of an exception in a worker; the cause of the one that is raised in the learner."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n{text}")


class EnvFailure(Exception):
    """One env broke its contract inside a worker: it raised, or returned something that is not valid.

    The message names env, seed of the episode and step; `__cause__` is the env's own exception, if it raised
    one.

    Attributes:
        episode: in which it happened; None if that is not known.
    """

    episode: FailedEpisode | None = None

    @property
    def traceback(self) -> str:
        """The traceback of the env's own exception as text, "" if the env raised none."""
        cause = self.__cause__
        return "" if cause is None else "".join(traceback.format_exception(cause))


class LimitError(RuntimeError):
    """The system does not allow so many workers. The message has the numbers."""


class ProtocolError(RuntimeError):
    """A peer sent bytes that are not a frame of this protocol."""


class WorkerError(RuntimeError):
    """A worker process can no longer serve its envs.

    Attributes:
        reason: what happened, without the worker's name.
        worker: index of the worker.
        env_ids: indices of the envs it hosts.
        exitcode: exit code of the process; negative is the signal that ended it; None if unknown.
        last_command: the last command sent to it ("start", "reset", "step", "close").
        traceback: the child's traceback as text, "" if it left none.
        episode: in which an env failed; None if nobody knows which.
    """

    episode: FailedEpisode | None = None

    def __init__(
        self,
        reason: str,
        *,
        worker: int,
        env_ids: Sequence[int],
        exitcode: int | None = None,
        last_command: str = "",
        traceback: str = "",
    ) -> None:
        self.reason = reason
        self.worker = worker
        self.env_ids = tuple(env_ids)
        self.exitcode = exitcode
        self.last_command = last_command
        self.traceback = traceback
        super().__init__(f"worker {worker} (envs {_span(self.env_ids)}) {reason}")

    def with_words(self, words: str) -> WorkerError:
        """An error of the same type whose message goes on with these words."""
        error = type(self)(
            f"{self.reason}; {words}",
            worker=self.worker,
            env_ids=self.env_ids,
            exitcode=self.exitcode,
            last_command=self.last_command,
            traceback=self.traceback,
        )
        error.episode = self.episode
        return error


class WorkerDied(WorkerError):
    """The process ended without being asked to."""


class WorkerTimeout(WorkerError):
    """The process did not answer before its deadline and was killed."""


class WorkerEnvFailed(WorkerError):
    """One of the worker's envs raised or returned something invalid; `traceback` says where."""


def one_line(error: BaseException) -> str:
    """The message of an exception in one line; its type if there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def describe(error: BaseException) -> str:
    """Type and message of an exception in one line: "ValueError: no such file"."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(value: object) -> str:
    """The repr of any value in one line of bounded length."""
    return " ".join(_REPR.repr(value).split())


def describe_exit(exitcode: int | None) -> str:
    """Words for an exit code: 3 -> "exit code 3", -9 -> "signal SIGKILL"."""
    if exitcode is None:
        return "unknown exit code"
    if exitcode < 0:
        try:
            return f"signal {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"signal {-exitcode}"
    return f"exit code {exitcode}"


def _span(env_ids: Sequence[int]) -> str:
    if not env_ids:
        return "none"
    return str(env_ids[0]) if len(env_ids) == 1 else f"{env_ids[0]}..{env_ids[-1]}"
