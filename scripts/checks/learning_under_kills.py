"""Train an env that cannot be replayed while its workers are killed, and see whether it learns all the same.

    python scripts/checks/learning_under_kills.py --env-id BipedalWalker-v3 --total-timesteps 600000

Two runs with the env's preset: one undisturbed, one in which a worker is killed every two seconds or so. For
each, the mean return of training after each quarter of the steps, restarts, and episodes lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fault_matrix import Killer

from prl.config.train_config import TrainConfig
from prl.run.sinks import Sink
from prl.run.train import train

_QUARTERS = 4


class Quarters:
    """A sink that keeps the mean return at the end of each quarter.

    Attributes:
        returns: so far.
    """

    def __init__(self, total_timesteps: int) -> None:
        self.returns: list[float] = []
        self._each = total_timesteps / _QUARTERS

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `prl.run.sinks.Sink`."""
        while timesteps >= self._each * (len(self.returns) + 1):
            self.returns.append(metrics["rollout/ep_rew_mean"])

    def close(self) -> None:
        """See `prl.run.sinks.Sink`."""


def outcome(arguments: argparse.Namespace, folder: Path, killer: Killer | None) -> str:
    """A row of the table."""
    quarters = Quarters(arguments.total_timesteps)
    config = TrainConfig(
        env_id=arguments.env_id,
        total_timesteps=arguments.total_timesteps,
        seed=arguments.seed,
        num_workers=2,
        max_restarts=1_000_000,
        run_folder=folder,
    )
    sinks: list[Sink] = [quarters] if killer is None else [quarters, killer]
    try:
        summary: dict[str, Any] = train(config, sinks=sinks)
    finally:
        if killer is not None:
            killer.close()
    name = "undisturbed" if killer is None else "under kills"
    returns = " | ".join(f"{value:.1f}" for value in quarters.returns)
    lost = f"{summary['lost_episodes']} of {summary['episodes']:,}"
    return f"| {name} | {returns} | {summary['worker_restarts']} | {lost} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env-id", default="BipedalWalker-v3")
    parser.add_argument("--total-timesteps", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    print("| run | return after 1/4 | 2/4 | 3/4 | 4/4 | restarts | episodes lost |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, killer in (("whole", None), ("killed", Killer(anytime=True))):
            print(outcome(arguments, Path(folder) / name, killer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
