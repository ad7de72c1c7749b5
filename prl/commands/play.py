"""Play episodes with a trained policy, one after the other, to look at or to film."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory, build_policy, check_trainable, reproducible
from prl.run.saved_run import load_config, weights_of
from prl.run.weights import load_weights
from prl.training.evaluate import Episode, EpisodeActor
from workers.envs import AnyEnv, EnvFactory
from workers.errors import USER_ERRORS, EnvError
from workers.rows import RowCodec, RowError
from workers.seeding import episode_seed

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PlayConfig:
    """Play episodes with the weights of a run and print their returns.

    Attributes:
        run: folder of the run.
        best: play the best policy of the run's evaluations (eval_freq), not the last.
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
        EnvError: its env cannot be used here, not be rendered, or failed.
        WeightsError: its weights cannot be used.
        NonFiniteError: the policy's actions are not finite.
    """
    trained = _with_display(load_config(config.run), config)
    factory = build_factory(trained)
    check_trainable(factory)
    policy = build_policy(factory, trained)
    load_weights(policy, weights_of(config.run, config.best))
    policy.eval()  # layers that a user's encoder may have, like dropout
    with reproducible(trained.torch_threads, torch.device("cpu")), _PlayedEnv(factory, config.video) as stage:
        for number in range(config.episodes):
            seed = episode_seed(config.seed, 0, number)
            yield _play_episode(stage, EpisodeActor(policy, [seed], config.deterministic, number), seed)


def _with_display(trained: TrainConfig, config: PlayConfig) -> TrainConfig:
    """The training's settings with what the play asks for in their place."""
    kwargs = dict(trained.env_kwargs)
    if config.render is not None or config.video is not None:
        kwargs["render_mode"] = config.render or "rgb_array"
        _require_render_mode(trained, kwargs["render_mode"])
    limit = config.max_episode_steps or trained.max_episode_steps
    return dataclasses.replace(trained, env_kwargs=kwargs, max_episode_steps=limit)


def _require_render_mode(trained: TrainConfig, wanted: str) -> None:
    """See that the env can be shown, before anything is written.

    Raises:
        EnvError: it has no such render mode.
    """
    env = build_factory(trained).build()
    modes = list(env.metadata.get("render_modes") or [])
    env.close()
    # Gymnasium opens a window for whatever comes as an array.
    shown = {"rgb_array", "rgb_array_list", "human"} if wanted == "human" else {wanted}
    if not shown & set(modes):
        has = f"it has {', '.join(map(str, modes))}" if modes else "it has none"
        raise EnvError(f"{trained.env_id} has no render mode {wanted}; {has}")


def _play_episode(stage: _PlayedEnv, actor: EpisodeActor, seed: int) -> Episode:
    total, length, ended = 0.0, 0, False
    row = stage.reset(seed)
    while not ended:
        row, reward, ended = stage.step(actor.act(np.zeros(1, np.int64), row[None])[0])
        total += reward
        length += 1
    return Episode(total, length)


class _PlayedEnv:
    """One env that speaks in rows, and whose failures are told in one line. A context manager.

    Args:
        factory: builds the env.
        video: folder for one video per episode; None films nothing.
    """

    def __init__(self, factory: EnvFactory, video: Path | None) -> None:
        self._name = factory.name
        self._obs = RowCodec(factory.observation_space)
        self._actions = RowCodec(factory.action_space)
        with self._error_context("the constructor"):
            self._env = factory.build()
            if video is not None:
                self._env = _recording(self._env, video)

    def reset(self, seed: int) -> Array:
        """Start an episode; the row [*O] of its first observation."""
        with self._error_context(f"reset(seed={seed})"):
            obs, _ = self._env.reset(seed=seed)
            return self._obs.pack(obs)

    def step(self, row: Array) -> tuple[Array, float, bool]:
        """Take the action of a row [*A]; next observation's row, reward, whether the episode has ended."""
        action = self._actions.unpack(row)
        with self._error_context(f"step({action!r})"):
            obs, reward, terminated, truncated, _ = self._env.step(action)
            return self._obs.pack(obs), float(reward), bool(terminated or truncated)

    def __enter__(self) -> _PlayedEnv:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._error_context("close()"):
            self._env.close()

    @contextlib.contextmanager
    def _error_context(self, what: str) -> Iterator[None]:
        """Errors of the env, which is the user's code, as EnvError."""
        try:
            yield
        except RowError as error:
            raise EnvError(f"{what} of {self._name} returned {error}") from error
        except gym.error.DependencyNotInstalled as error:
            message = f'rendering needs the extra "render": pip install "prl[render]" ({error})'
            raise EnvError(message) from error
        except USER_ERRORS as error:
            raise EnvError.of(f"{what} of {self._name}", error) from error


def _recording(env: AnyEnv, folder: Path) -> AnyEnv:
    return gym.wrappers.RecordVideo(env, str(folder), episode_trigger=lambda _: True, disable_logger=True)


def _print_episodes(config: PlayConfig) -> None:
    returns = []
    for number, episode in enumerate(play(config)):
        returns.append(episode.episode_return)
        print(f"episode {number}: return {episode.episode_return:.2f}, {episode.length} steps", flush=True)
    print(f"mean return {sum(returns) / len(returns):.2f} over {len(returns)} episodes")


COMMAND = Command(PlayConfig, _print_episodes, positional="run")
