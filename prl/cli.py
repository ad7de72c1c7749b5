"""Where the commands start. Imports nothing heavy: Ctrl-C may come while torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def train_main(argv: Sequence[str] | None = None) -> int:
    """`prl-train`, `scripts/train.py`. Returns the exit code."""
    return _run("train", argv)


def play_main(argv: Sequence[str] | None = None) -> int:
    """`prl-play`, `scripts/play.py`. Returns the exit code."""
    return _run("play", argv)


def benchmark_main(argv: Sequence[str] | None = None) -> int:
    """`prl-benchmark`, `scripts/benchmark.py`. Returns the exit code."""
    return _run("benchmark", argv)


def _run(name: str, argv: Sequence[str] | None) -> int:
    try:
        from prl import commands  # only now: it takes seconds

        return commands.run(name, sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print(f"{name}: stopped by SIGINT", file=sys.stderr)
        return _INTERRUPTED
