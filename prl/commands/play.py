"""Play episodes with a trained policy, one after the other, to watch, to film or to judge them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.run.playing import Play, play_episodes
from prl.training.evaluate import Episode, success_rate


@dataclass(frozen=True)
class PlayConfig:
    """Play episodes with the weights of a run and print their returns.

    Attributes:
        run: folder of the run, or one that prl share wrote.
        best: play the best policy of the run's evaluations (eval_freq), not the last one.
        episodes: number of episodes.
        seed: seed of the episodes; one other than the training's gives episodes that it has not seen.
        deterministic: take the most likely action instead of drawing one.
        render: human opens a window.
        video: folder to write one video per episode to; those of before are replaced.
        max_episode_steps: truncate episodes after this number of steps; null keeps the training's limit.
        env_id: play in another env with the same spaces, or in that of the training under an id that is
            known here; null takes the id of the training.

    Raises:
        ConfigError: a value is out of range.
    """

    run: Path
    best: bool = False
    episodes: int = 10
    seed: int = 1_000_000
    deterministic: bool = True
    render: str | None = None
    video: Path | None = None
    max_episode_steps: int | None = None
    env_id: str | None = None

    def __post_init__(self) -> None:
        check(self, _RULES)
        if self.render is not None and self.video is not None:
            raise ConfigError("render and video exclude each other")


_RULES: tuple[Rule, ...] = (
    ("episodes max_episode_steps", lambda v: v >= 1, "at least 1"),
    ("seed", lambda v: v >= 0, "0 or more"),
    ("render", lambda v: v == "human", "human"),
)


def play(config: PlayConfig) -> Iterator[Episode]:
    """Play the episodes of a config; see `play_episodes`."""
    values = dict(vars(config))
    return play_episodes(Play(render_mode=values.pop("render"), **values))


def _print_episodes(config: PlayConfig) -> None:
    episodes = []
    video = None if config.video is None else config.video.absolute()  # an env may change the directory
    for number, episode in enumerate(play(config)):
        episodes.append(episode)
        success = "" if episode.success is None else ", success" if episode.success else ", no success"
        returned = f"return {episode.episode_return:.2f}, {episode.length} steps{success}"
        print(f"episode {number}: {returned}", flush=True)
    print(summary_of(episodes))
    if video is not None:
        print(f"videos in {video}")


def summary_of(episodes: list[Episode]) -> str:
    """Mean, spread and extremes of the returns, and the success rate if the env tells, in one line."""
    returns = np.array([episode.episode_return for episode in episodes])
    rate = success_rate(episodes)
    success = "" if rate is None else f"; success rate {100.0 * rate:.0f} %"
    if len(returns) == 1:
        return f"mean return {returns[0]:.2f} over 1 episode{success}"
    return (
        f"mean return {returns.mean():.2f} over {len(returns)} episodes, from {returns.min():.2f} to "
        f"{returns.max():.2f}, standard deviation {returns.std():.2f}{success}"
    )


COMMAND = Command(PlayConfig, _print_episodes, positional="run")
