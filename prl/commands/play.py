"""Play episodes with a trained policy, one after the other, to watch or to film them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory, build_policy, build_pool, evaluation_limit, reproducible
from prl.run.run_files import load_config, weights_of
from prl.run.torch_state import standard_torch
from prl.run.weights import load_weights
from prl.training.evaluate import Episode, iterate_episodes
from workers.env_copies import close_quietly
from workers.envs import AnyEnv, EnvFactory
from workers.errors import EnvError, WorkerEnvFailed, one_line
from workers.seeding import episode_seed
from workers.trial_env import process_kept


@dataclass(frozen=True)
class PlayConfig:
    """Play episodes with the weights of a run and print their returns.

    Attributes:
        run: folder of the run.
        best: play the best policy of the run's evaluations (eval_freq), not the last one.
        episodes: number of episodes.
        seed: seed of the episodes; one other than the training's gives episodes that it has not seen.
        deterministic: take the most likely action instead of drawing one.
        render: human opens a window.
        video: folder to write one video per episode to.
        max_episode_steps: truncate episodes after this number of steps; null keeps the training's limit.

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
    """Play the episodes of a config, one after the other: those of `evaluate_run` with the same seed.

    Raises:
        ConfigError: the folder is not that of a run, or has no best policy.
        EnvError: its env cannot be used or rendered here.
        WeightsError: its weights cannot be used.
        WorkerEnvFailed: the env failed.
        NonFiniteError: the policy's actions are not finite.
    """
    trained = _with_display(load_config(config.run), config)
    # An env may change the working directory.
    weights = weights_of(config.run, config.best).absolute()
    video = None if config.video is None else config.video.absolute()
    factory = build_factory(trained)
    if video is not None:
        factory = _Filmed(**vars(factory), folder=video)
    policy = build_policy(factory, trained)
    load_weights(policy, weights)
    seeds = [episode_seed(config.seed, 0, episode) for episode in range(config.episodes)]
    try:
        with (
            reproducible(trained.torch_threads, torch.device("cpu")),
            build_pool(dataclasses.replace(trained, num_workers=0), factory, 1) as pool,
        ):
            yield from iterate_episodes(
                policy,
                pool,
                seeds,
                deterministic=config.deterministic,
                max_episode_steps=evaluation_limit(trained, factory),
            )
    except WorkerEnvFailed as error:
        _require_extras(error)
        raise


def _with_display(trained: TrainConfig, config: PlayConfig) -> TrainConfig:
    """The training's settings, with the render mode and the limit of the play."""
    kwargs = dict(trained.env_kwargs)
    if config.render is not None or config.video is not None:
        kwargs["render_mode"] = config.render or "rgb_array"
        _require_render_mode(trained, kwargs["render_mode"])
    limit = config.max_episode_steps or trained.max_episode_steps
    return dataclasses.replace(trained, env_kwargs=kwargs, max_episode_steps=limit)


@process_kept()
@standard_torch()
def _require_render_mode(trained: TrainConfig, wanted: str) -> None:
    """Check that the env can be shown, before anything is written.

    Raises:
        EnvError: it has no such render mode.
    """
    env = build_factory(trained).build()
    modes = list(env.metadata.get("render_modes") or [])
    close_quietly(env)
    # Gymnasium opens a window for anything that can be rendered to an array.
    shown = {"rgb_array", "rgb_array_list", "human"} if wanted == "human" else {wanted}
    if not shown & set(modes):
        has = f"it has {', '.join(map(str, modes))}" if modes else "it has none"
        raise EnvError(f"{trained.env_id} has no render mode {wanted}; {has}")


@dataclass(frozen=True)
class _Filmed(EnvFactory):
    """Builds envs that write one video per episode.

    Attributes:
        folder: for the videos.
    """

    folder: Path = Path()

    def build(self, env_index: int = 0) -> AnyEnv:
        """See `EnvFactory.build`."""
        return gym.wrappers.RecordVideo(
            super().build(env_index), str(self.folder), episode_trigger=lambda _: True, disable_logger=True
        )


def _require_extras(failure: BaseException) -> None:
    """Name the extra to install if rendering failed for want of a package.

    Raises:
        EnvError: it did.
    """
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, gym.error.DependencyNotInstalled):
            message = f'rendering needs the extra "render": pip install "prl[render]" ({one_line(cause)})'
            raise EnvError(message) from failure
        cause = cause.__cause__


def _print_episodes(config: PlayConfig) -> None:
    returns = []
    for number, episode in enumerate(play(config)):
        returns.append(episode.episode_return)
        print(f"episode {number}: return {episode.episode_return:.2f}, {episode.length} steps", flush=True)
    print(f"mean return {sum(returns) / len(returns):.2f} over {len(returns)} episodes")


COMMAND = Command(PlayConfig, _print_episodes, positional="run")
