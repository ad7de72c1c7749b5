"""Every command: the table, and how each error ends in one clear line."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from learner.errors import NoLegalAction, NonFiniteError
from learner.settings import ConfigError
from prl.commands.command import Command
from prl.config.command_line import parse
from prl.run.signals import Stopped
from prl.run.weights import WeightsError
from workers.errors import EnvError, WorkerError

COMMANDS = {
    "train": "train PPO on an environment",
    "play": "play episodes with a trained policy",
    "benchmark": "measure how fast an environment steps",
    "plot": "draw learning curves of runs",
}
"""Command names and what they do. Command `a-b` is `COMMAND` of the module `prl.commands.a_b`."""

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
        say("prl", f"unknown command {name!r}; {hint}")
        return _BAD_INPUT
    return run(name, rest, f"{prog} {name}")


def run(name: str, argv: Sequence[str], prog: str) -> int:
    """Run the command `name`. Returns the exit code.

    Bad input ends in one line and code 2; a later failure in one line, the env's traceback if there is one,
    and code 1.

    Args:
        name: one of `COMMANDS`.
        argv: its arguments.
        prog: what the user typed to get here.
    """
    command: Command[Any] = importlib.import_module(f"prl.commands.{name.replace('-', '_')}").COMMAND
    try:
        command.run(parse(command.config_class, argv, prog=prog, positional=command.positional))
    except (ConfigError, EnvError, WeightsError) as error:
        say(name, error, getattr(error, "traceback", ""))
        return _BAD_INPUT
    except (WorkerError, NonFiniteError, NoLegalAction) as error:
        say(name, error, getattr(error, "traceback", ""))
        return _FAILED
    except Stopped as stop:
        say(name, stop)
        return stop.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return _FAILED
    return 0


def say(name: str, line: object, traceback: str = "") -> None:
    """A line on stderr for the user of the command `name`, and a traceback below it."""
    print(f"{name}: {line}", file=sys.stderr)
    if traceback:
        print(traceback.rstrip(), file=sys.stderr)
