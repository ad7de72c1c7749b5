"""Compare `prl.VectorEnv` with Gymnasium's `SyncVectorEnv`, bit for bit, over a thousand steps.

    python scripts/checks/vector_env_equality.py             # envs of every kind on every pool
    python scripts/checks/vector_env_equality.py --kinds cartpole --pools pipe-2 shared-2 --steps 100

Observations, rewards, flags, infos and generators are compared in all three autoreset modes, as the tests do
with fewer steps. Exit code 1 if something differs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# The root as well: tests/ has a folder "prl".
_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if something differs."""
    equality = importlib.import_module("adapter_equality")
    parser = argparse.ArgumentParser(description="prl.VectorEnv beside Gymnasium's SyncVectorEnv.")
    parser.add_argument("--kinds", nargs="+", choices=list(equality.KINDS), default=list(equality.KINDS))
    parser.add_argument("--pools", nargs="+", choices=list(equality.POOLS), default=list(equality.POOLS))
    parser.add_argument("--steps", type=int, default=1000, help="in each autoreset mode")
    options = parser.parse_args(arguments)
    differ = 0
    for kind in options.kinds:
        start, result = time.monotonic(), "equal on"
        try:
            equality.check_equal(kind, options.pools, options.steps)
        except AssertionError as error:  # its message begins with the pool
            differ, result = differ + 1, f"DIFFERS at {error} among"
        print(f"{kind}: {result} {', '.join(options.pools)} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(options.kinds) - differ} of {len(options.kinds)} kinds, {options.steps} steps in each mode")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
