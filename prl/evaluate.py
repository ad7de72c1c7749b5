"""Play episodes with a trained policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from learner.policy import ActorCritic
from learner.settings import ConfigError, Rule, check
from prl.arguments import parse
from prl.config import TrainConfig
from prl.weights import load_weights
from workers.envs import AnyEnv, EnvFactory, env_factory
from workers.errors import EnvError
from workers.seeding import episode_seed


@dataclass(frozen=True)
class PlayConfig:
    """Play episodes with the weights of a run and print their returns.

    Attributes:
        run: folder of the run.
        episodes: how many.
        seed: of the episodes; another one than the training's gives episodes it has not seen.
        deterministic: take the most likely action instead of drawing one.
        render: human opens a window.
        video: folder to write one video per episode to.
        max_episode_steps: cut episodes after so many steps; null keeps the training's limit.

    Raises:
        ConfigError: a value is out of range.
    """

    run: Path
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


@dataclass(frozen=True)
class Episode:
    """What one episode came to: `episode_return` is undiscounted, `length` in steps."""

    episode_return: float
    length: int


def play(config: PlayConfig) -> Iterator[Episode]:
    """Play the episodes of a config, one after the other.

    Raises:
        ConfigError: the folder is not that of a run.
        EnvError: its env cannot be used here, or not be rendered.
        WeightsError: its weights cannot be used.
    """
    factory, policy = load_run(config)
    env = factory.build()
    try:
        if config.video is not None:
            env = _recording(env, config.video)
        for episode in range(config.episodes):
            yield play_episode(env, policy, episode_seed(config.seed, 0, episode), config)
    except gym.error.DependencyNotInstalled as error:
        raise EnvError(f'rendering needs the extra "render": pip install "prl[render]" ({error})') from error
    finally:
        env.close()


def load_run(config: PlayConfig) -> tuple[EnvFactory, ActorCritic]:
    """The env and the trained policy of a run folder."""
    file = config.run / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{config.run} is not the folder of a run: it has no config.yaml")
    trained = parse(TrainConfig, ["--config", str(file)], prog="play.py")
    kwargs = dict(trained.env_kwargs)
    if config.render is not None or config.video is not None:
        kwargs["render_mode"] = config.render or "rgb_array"
    factory = env_factory(
        trained.env_id,
        env_kwargs=kwargs,
        max_episode_steps=config.max_episode_steps or trained.max_episode_steps,
    )
    policy = ActorCritic(factory.observation_space, factory.action_space, trained.hidden_sizes)
    load_weights(policy, config.run / "weights")
    return factory, policy


def play_episode(env: AnyEnv, policy: ActorCritic, seed: int, config: PlayConfig) -> Episode:
    """One episode from `reset(seed=seed)`; the seed also draws the actions."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended:
        rows = np.asarray(obs)[None]
        if config.deterministic:
            actions = policy.act_greedily(rows)
        else:
            actions = policy.act(rows, policy.head.draw_noise(rng, 1))
        obs, reward, terminated, truncated, _ = env.step(_plain(policy.head.to_env(actions)[0]))
        total += float(reward)
        length += 1
        ended = terminated or truncated
    return Episode(total, length)


def _plain(action: Any) -> Any:
    """Discrete actions as plain ints, as in training."""
    return int(action) if np.ndim(action) == 0 else action


def _recording(env: AnyEnv, folder: Path) -> AnyEnv:
    try:
        return gym.wrappers.RecordVideo(env, str(folder), episode_trigger=lambda _: True, disable_logger=True)
    except gym.error.DependencyNotInstalled as error:
        raise EnvError('videos need the extra "render": pip install "prl[render]"') from error
