"""Playing whole episodes with the policy of a run, one after the other, to watch, to film or to judge it."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from prl.config.train_config import TrainConfig
from prl.run.build import build_factory, build_pool, evaluation_limit, reproducible
from prl.run.out_path import check_folder_path
from prl.run.policy_spaces import policy_for, read_spaces
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
class Play:
    """What to play, and how.

    Attributes:
        run: folder of a run, or a shared one.
        best: the best policy of the run's evaluations, not the last one.
        episodes: how many.
        seed: episode k has `episode_seed(seed, 0, k)`, on which alone its outcome depends.
        deterministic: take the most likely actions instead of drawing them.
        render_mode: of the env; None shows nothing.
        video: folder to write one video per episode to, with the render mode rgb_array.
        max_episode_steps: truncates episodes; None keeps the training's limit.
        env_id: of another env with the same spaces; None takes that of the training.
    """

    run: str | os.PathLike[str]
    best: bool = False
    episodes: int = 10
    seed: int = 1_000_000
    deterministic: bool = True
    render_mode: str | None = None
    video: Path | None = None
    max_episode_steps: int | None = None
    env_id: str | None = None


def play_episodes(play: Play) -> Iterator[Episode]:
    """The episodes, as soon as they have been played: those of `evaluate_run` with the same seed.

    Raises:
        ConfigError: the folder is not that of a run, or has no best policy; `video` cannot be written.
        EnvError: its env cannot be used or rendered here.
        WeightsError: its weights cannot be used.
        WorkerEnvFailed: the env failed.
        NonFiniteError: the policy's actions are not finite.
    """
    trained = _with_display(_named_env(play), play)
    if play.video is not None:
        check_folder_path(play.video, "video")
    # An env may change the working directory.
    run, weights = Path(play.run).absolute(), weights_of(play.run, play.best).absolute()
    factory = _Filmed(**vars(build_factory(trained)), video=play.video and play.video.absolute())
    policy = policy_for(run, trained, factory)
    load_weights(policy, weights)
    seeds = [episode_seed(play.seed, 0, episode) for episode in range(play.episodes)]
    try:
        with (
            reproducible(trained.torch_threads, torch.device("cpu")),
            build_pool(dataclasses.replace(trained, num_workers=0), factory, 1) as pool,
        ):
            yield from iterate_episodes(
                policy,
                pool,
                seeds,
                deterministic=play.deterministic,
                max_episode_steps=evaluation_limit(trained, factory),
            )
    except WorkerEnvFailed as error:
        _require_extras(error)
        raise


def _named_env(play: Play) -> TrainConfig:
    """The training's settings, with an env that has a name here.

    Raises:
        EnvError: the run's env has none.
    """
    trained = load_config(play.run)
    if play.env_id is not None:
        return dataclasses.replace(trained, env_id=play.env_id)
    spaces = read_spaces(play.run)
    if spaces is not None and not spaces.has_env_id:
        raise EnvError(
            f"{play.run} was trained on {trained.env_id}, which has no id that another process knows: "
            "register it with Gymnasium and name it with --env-id module:EnvId (env_id=)"
        )
    return trained


def _with_display(trained: TrainConfig, play: Play) -> TrainConfig:
    """The training's settings, with the render mode and the limit of the play."""
    kwargs = dict(trained.env_kwargs)
    mode = "rgb_array" if play.video is not None else play.render_mode
    if mode is not None:
        kwargs["render_mode"] = mode
        _require_render_mode(trained, mode, kwargs)
    limit = play.max_episode_steps or trained.max_episode_steps
    return dataclasses.replace(trained, env_kwargs=kwargs, max_episode_steps=limit)


@process_kept()
@standard_torch()
def _require_render_mode(trained: TrainConfig, wanted: str, kwargs: Mapping[str, Any]) -> None:
    """Check that the env can be shown, before anything is written.

    Raises:
        EnvError: it has no such render mode.
    """
    env = build_factory(trained).build()
    modes, has_speed = list(env.metadata.get("render_modes") or []), "render_fps" in env.metadata
    close_quietly(env)
    # Gymnasium opens a window for anything that can be rendered to an array.
    shown = {"rgb_array", "rgb_array_list", "human"} if wanted == "human" else {wanted}
    if not shown & set(modes):
        has = f"it has {', '.join(map(str, modes))}" if modes else "it has none"
        raise EnvError(f"{trained.env_id} has no render mode {wanted}; {has}")
    if wanted == "human" and wanted not in modes and not has_speed:
        raise EnvError(f"{trained.env_id} has no render_fps in its metadata, which a window needs")


@dataclass(frozen=True)
class _Filmed(EnvFactory):
    """Builds one env, in this process.

    Attributes:
        video: folder for one video per episode; None films nothing.
    """

    video: Path | None = None

    def build(self, env_index: int = 0) -> AnyEnv:
        """See `EnvFactory.build`."""
        env = super().build(env_index)
        if self.video is None:
            return env
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # videos of before are replaced, as the guide says
            return gym.wrappers.RecordVideo(
                env, str(self.video), episode_trigger=lambda _: True, disable_logger=True
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
