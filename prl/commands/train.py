"""`prl train`: train PPO on an environment."""

from __future__ import annotations

import sys

from prl.commands.command import Command
from prl.config.preset import find_preset
from prl.config.train_config import TrainConfig, unused_settings
from prl.run.train import train


def _train(config: TrainConfig) -> None:
    preset = find_preset(config.env_id, config.preset)
    effective = None if preset is None else preset.effective(config)
    from_preset = {} if effective is None else effective.settings
    messages = [str(effective)] if from_preset else []
    messages += [
        f"{name} has no effect without {needed}"
        for name, needed in unused_settings(config)
        if name not in from_preset  # the user did not set it, so it is no surprise
    ]
    summary = train(config, messages, log=lambda line: print(f"train: {line}", file=sys.stderr))
    mean = summary["mean_return"]
    print(
        f"{summary['env_id']}: {summary['timesteps']:,} steps in {summary['wall_seconds']:.1f} s "
        f"({summary['steps_per_second']:,.0f} steps/s), {summary['episodes']:,} episodes, "
        + ("none ended" if mean is None else f"mean return {mean:.1f}")
    )


COMMAND = Command(TrainConfig, _train)
