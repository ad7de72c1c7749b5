"""Where the commands start. Imports nothing heavy: signals may come while torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prl.run.signals import Stopped, exit_at_once, stop_on_signals


def main(name: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        name: of the command, e.g. "train"; None takes it from the first argument, as in `prl train ...`.
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    label = name or "prl"
    try:
        with stop_on_signals(until_exit=True):
            with exit_at_once(label):
                from prl.commands import main as commands  # only now: it takes seconds

            if name is None:
                return commands.dispatch(arguments, _called_as())
            return commands.run(name, arguments, _called_as(name))
    except Stopped as stop:
        print(f"{label}: {stop}", file=sys.stderr)
        return stop.exit_code


def _called_as(name: str | None = None) -> str:
    """What the user typed: "train.py", "prl-train", "prl" or "python -m prl"."""
    program = Path(sys.argv[0]).name
    if name is None:
        return "python -m prl" if program == "__main__.py" else "prl"
    return program if program in (f"{name}.py", f"prl-{name}") else f"prl {name}"


# `prl-NAME` and `scripts/NAME.py` of the first commands; later ones are `prl NAME` alone.
train_main = partial(main, "train")
play_main = partial(main, "play")
benchmark_main = partial(main, "benchmark")
plot_main = partial(main, "plot")
