"""The table of commands, and the one clear line that each error ends in."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from learner.errors import NoLegalAction, NonFiniteError
from learner.settings import ConfigError
from prl.commands.command import Command
from prl.config.command_line import parse
from prl.run.files import WriteError
from prl.run.signals import Interrupted, Stopped, exit_at_once
from prl.run.weights import WeightsError
from workers.errors import EnvError, LimitError, WorkerError

COMMANDS = {
    "train": "train PPO on an environment",
    "play": "play episodes with a trained policy",
    "export": "write a trained policy as an ONNX file",
    "share": "write a folder with a trained policy to give away",
    "doctor": "look at an environment and this machine before training",
    "benchmark": "measure speed, beside other libraries",
    "tune": "search settings with which an environment is learnt better",
    "tune-speed": "measure which number of workers and envs trains fastest",
    "plot": "draw learning curves of runs",
    "report": "write what runs came to as one HTML file",
    "replay": "repeat an episode in which an environment failed",
}
"""Command names and what they do. Command `a-b` is `COMMAND` of the module `prl.commands.a_b`."""

_PACKAGES = {Path(__file__).parents[1], Path(__file__).parents[2] / "workers"}
_BAD_INPUT = 2
_FAILED = 1


def dispatch(argv: Sequence[str], prog: str) -> int:
    """Run the command that the first argument names. Returns the exit code.

    Args:
        argv: the command's name, then its arguments.
        prog: what the user typed to get here.
    """
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:{width}}  {what}" for command, what in COMMANDS.items()]
        print(f"usage: {prog} COMMAND [flags]\n\ncommands:", *lines, sep="\n")
        print(f"\n{prog} COMMAND --help lists the flags of a command.")
        return 0 if argv else _BAD_INPUT
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        log("prl", f"unknown command {name!r}; {hint}")
        return _BAD_INPUT
    return run(name, rest, f"{prog} {name}")


def run(name: str, argv: Sequence[str], prog: str) -> int:
    """Run the command `name`. Returns the exit code.

    Invalid input prints one line and gives code 2. A later failure prints one line and, if the env failed,
    its traceback, and gives code 1.

    Args:
        name: one of `COMMANDS`.
        argv: its arguments.
        prog: what the user typed to get here.
    """
    with exit_at_once(name):  # it imports torch
        command: Command[Any] = importlib.import_module(f"prl.commands.{name.replace('-', '_')}").COMMAND
    try:
        with _warnings_in_one_line(name):
            code = command.run(parse(command.config_class, argv, prog=prog, positional=command.positional))
    except (ConfigError, EnvError, LimitError, WeightsError) as error:
        log(name, error, getattr(error, "traceback", ""))
        return _BAD_INPUT
    except (WorkerError, NonFiniteError, NoLegalAction, WriteError) as error:
        log(name, error, getattr(error, "traceback", ""))
        return _FAILED
    except Stopped as stop:
        log(name, stop)
        return stop.exit_code
    except KeyboardInterrupt:  # raised by an env, or where no signals are handled
        interrupted = Interrupted(signal.SIGINT)
        log(name, interrupted)
        return interrupted.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return _FAILED
    return code or 0


def log(name: str, message: object, traceback: str = "") -> None:
    """Print a message for the user of the command `name` to stderr, and below it a traceback, if any."""
    print(f"{name}: {message}", file=sys.stderr)
    if traceback:
        print(traceback.rstrip(), file=sys.stderr)


@contextlib.contextmanager
def _warnings_in_one_line(name: str) -> Iterator[None]:
    """Print prl's own warnings like all messages of a command: without the line of code that warns."""
    original = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is UserWarning and _PACKAGES & set(Path(filename).parents):
            return f"{name}: {message}\n"
        return original(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = original
