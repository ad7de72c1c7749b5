"""The configuration of a run: one frozen dataclass, checked once, saved and loaded as YAML."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from learner.ppo_config import PPOConfig
from learner.settings import ConfigError, Rule, check
from prl.config.checkpoint_every import AUTO, checkpoint_every
from prl.config.yaml_format import Unwritten, dump, writable

__all__ = ["ConfigError", "TrainConfig", "described", "to_yaml", "unused_settings", "unwritable_settings"]

_GROUP_SIZE = 16  # see docs/performance.md


def default_groups(num_envs: int) -> int:
    """The number of groups, unless it is chosen: as few as make groups of at most 16 envs."""
    return -(-num_envs // _GROUP_SIZE)


@dataclass(frozen=True)
class TrainConfig(PPOConfig):
    """Train PPO on a Gymnasium environment with many environment processes.

    Attributes:
        env_id: anything gymnasium.make takes; module:EnvId imports module first.
        env_kwargs: keyword arguments of the env, as key=value. Values are read as YAML: 3, 1e-3, true, no,
            null, [1, 2]; quotes make text of them, as in 'key="no"'.
        env_index_kwarg: keyword argument under which the env's constructor gets the number of its copy, from
            0 on, for what each copy needs for itself, such as a port. Copies for evaluations have further
            numbers.
        wrappers: wrappers of the env, from the inside out, each as module:Class or
            "module:Class(key=value, ...)".
        preset: auto takes the settings that ship with prl for the env id, if any; none ignores presets; the
            id of another env takes the settings of that env. Flags and config file win over them.
        max_episode_steps: truncate episodes after this number of steps; null keeps the env's own limit.
        ends_by_itself: the env ends every episode itself, although it is registered without a time limit.
            Evaluations still cut episodes after 27,000 steps.
        action_masks: never choose an action that the env's action_mask rules out; false ignores masks.
        num_envs: number of environments; part of what a seed means. auto measures a few numbers for some
            seconds before the run, and takes the fewest envs that train nearly as fast as any.
        num_workers: worker processes that host them; null takes one per usable core, 0 steps all envs in
            the learner's own process, where the first failure of an env ends the run, auto measures like
            num_envs. What was measured to be best is written to config.yaml in place of auto, together with
            who acts. `prl tune-speed` shows the figures.
        num_groups: envs act and step in this number of groups; part of what a seed means. null takes as many
            as make groups of at most 16 envs.
        acting: learner exchanges actions and observations with the workers in every step; worker lets the
            workers act beside their envs, without a message per step, which only small networks can; auto
            takes the faster way that is possible. The results are the same.
        overlap: play each batch while the update from the one before is computed, with the weights before it;
            faster, with results of its own.
        transport: how workers pass rows on: in shared memory, or through their pipes.
        step_timeout: seconds a worker may take for one command before it is killed.
        start_timeout: seconds a worker may take to start and build its first env, and then each further one;
            and the process in which an env is tried before.
        close_timeout: seconds all workers together may take to close their envs before they are killed.
        on_worker_failure: of a worker that dies, hangs or fails: recover starts it again and repeats its
            episodes, so that nothing changes; fail ends the run.
        max_restarts: of workers, in any ten minutes; more end the run.
        replay_limit: steps after which an episode cannot be repeated any more, and would be lost; bounds
            memory.
        pin_workers: with at least as many workers as cores, keep each on one core.
        total_timesteps: the run ends with the first update at or beyond this number of env steps.
        rollout: a round is one whole episode of every env, or num_steps steps of every env.
        num_steps: steps per env and round, with rollout steps.
        batch_size: an update waits for at least this number of steps, in as many rounds as that takes.
        seed: seed of everything random in the run.
        hidden_sizes: sizes of the hidden layers, in the actor's and in the critic's network.
        activation: activation function between the layers.
        log_std_init: initial log standard deviation of continuous actions.
        encoder: a custom torch module, as module:Class; called with the observation space, it turns
            observations into features for actor and critic.
        normalize_obs: normalise numbers in observations by running mean and standard deviation; up to 2048
            steps of the untrained policy give the first statistics.
        device: cpu, cuda, cuda:1, ... or auto for a GPU if there is one.
        torch_threads: threads that the learner computes with; part of what a seed means, since sums
            depend on it. auto measures whether all cores that workers leave idle are at least 10 % faster
            than one; the number is written to config.yaml.
        run_folder: folder for the run; null makes a new one below runs/.
        checkpoint_every: write a checkpoint, from which --resume goes on exactly, after this number of
            updates, or seconds as in 60s; the end of a run, however it comes, writes one, too. auto does
            after 10 s or more, so that it takes at most 0.5 % of the time. 0 writes none at all.
        keep_checkpoints: the newest checkpoints that are kept, besides that of the best evaluation.
        rnd: reward states that are new to the learner (Random Network Distillation).
        rnd_coef: weight of the advantages of that reward beside those of the env's.
        rnd_gamma: discount of that reward.
        rnd_lr: Adam's step size for the networks of that reward.
        eval_freq: evaluate once per this number of env steps, on separate envs; 0 never does.
        eval_episodes: episodes per evaluation.
        log_info: keys of the env's infos, e.g. x_position reward_ctrl: the mean of the numbers that the last
            infos of episodes have there joins the metrics, as rollout/info/KEY and eval/info/KEY. Whether
            an episode was a success (is_success or success) is always told.
        track: experiment trackers that get settings, metrics and the summary: wandb, mlflow, trackio,
            swanlab, or names of entry points of the group prl.sinks. The tools' own settings say where they
            write, e.g. WANDB_MODE=offline.
        track_project: what they call the project.

    Raises:
        ConfigError: a value is out of range.
    """

    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    env_index_kwarg: str | None = None
    wrappers: Sequence[str] = ()
    preset: str = "auto"
    max_episode_steps: int | None = None
    ends_by_itself: bool = False
    action_masks: bool = True
    num_envs: int | Literal["auto"] = 32
    num_workers: int | Literal["auto"] | None = None
    num_groups: int | None = None
    acting: Literal["auto", "learner", "worker"] = "auto"
    overlap: bool = False
    transport: Literal["shared", "pipe"] = "shared"
    step_timeout: float = 60.0
    start_timeout: float = 120.0
    close_timeout: float = 2.0
    on_worker_failure: Literal["recover", "fail"] = "recover"
    max_restarts: int = 100
    replay_limit: int = 100_000
    pin_workers: bool = True
    total_timesteps: int = 100_000
    rollout: Literal["episodes", "steps"] = "episodes"
    num_steps: int = 128
    batch_size: int = 1024
    seed: int = 0
    hidden_sizes: Sequence[int] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    log_std_init: float = 0.0
    encoder: str | None = None
    normalize_obs: bool = False
    device: str = "auto"
    torch_threads: int | Literal["auto"] = 1
    run_folder: Path | None = None
    checkpoint_every: int | str = AUTO
    keep_checkpoints: int = 2
    rnd: bool = False
    rnd_coef: float = 0.5
    rnd_gamma: float = 0.99
    rnd_lr: float = 1e-3
    eval_freq: int = 0
    eval_episodes: int = 10
    log_info: Sequence[str] = ()
    track: Sequence[str] = ()
    track_project: str = "prl"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("wrappers", "hidden_sizes", "log_info", "track"):
            if isinstance(getattr(self, name), list):  # as it comes from flags and files
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.run_folder is not None:
            object.__setattr__(self, "run_folder", folder_path(self.run_folder))
        if not self.env_id:
            raise ConfigError("env_id is required, e.g. CartPole-v1")
        check(self, _RULES)
        checkpoint_every(self.checkpoint_every)
        if self.num_groups is not None and self.num_envs != "auto" and self.num_groups > self.num_envs:
            raise ConfigError(f"num_groups must be at most num_envs ({self.num_envs}), got {self.num_groups}")

    @property
    def envs(self) -> int:
        """The number of envs, which has been settled if it was "auto"."""
        assert self.num_envs != "auto", "still to be measured"
        return self.num_envs

    @property
    def workers(self) -> int | None:
        """The number of workers, which has been settled if it was "auto"; None is one per usable core."""
        assert self.num_workers != "auto", "still to be measured"
        return self.num_workers

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.num_groups or default_groups(self.envs)


def folder_path(run_folder: str | os.PathLike[str]) -> Path:
    """A run's folder as a path, in which "~" is the user's home.

    Raises:
        ConfigError: it is empty (which would be the current directory), or there is no such home.
    """
    if not isinstance(run_folder, str | os.PathLike) or "\0" in (text := os.fspath(run_folder)) or not text:
        raise ConfigError(f"run_folder must be the path of a folder, got {run_folder!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"run_folder {text}: {error}") from None


_RULES: tuple[Rule, ...] = (
    (
        "max_episode_steps num_groups num_steps total_timesteps batch_size keep_checkpoints",
        lambda v: v >= 1,
        "at least 1",
    ),
    ("num_envs torch_threads", lambda v: v == "auto" or v >= 1, "at least 1"),
    ("num_workers", lambda v: v == "auto" or v >= 0, "0 (no worker processes) or more"),
    ("seed", lambda v: 0 <= v < 2**63, "0 or more, below 2**63"),
    (
        "step_timeout start_timeout close_timeout",
        lambda v: 0.0 < v <= 86_400.0,
        "a positive number of seconds, at most 86400",
    ),
    ("max_restarts replay_limit", lambda v: v >= 0, "0 or more"),
    ("eval_freq", lambda v: v >= 0, "0 (never) or more"),
    ("eval_episodes", lambda v: v >= 1, "at least 1"),
    ("rnd_coef", lambda v: 0.0 <= v < math.inf, "0 or a positive number"),
    ("rnd_gamma", lambda v: 0.0 <= v <= 1.0, "between 0 and 1"),
    ("rnd_lr", lambda v: 0.0 < v < math.inf, "a positive number"),
    ("log_std_init", lambda v: -20.0 <= v <= 2.0, "between -20 and 2"),
    ("log_info", lambda v: all(v) and len({*v}) == len(v), "a list of keys of infos, each once"),
    ("track", all, "a list of names"),
    ("track_project", bool, "a name"),
    ("hidden_sizes", lambda v: all(size >= 1 for size in v), "sizes of at least 1"),
)


def unused_settings(config: TrainConfig) -> list[tuple[str, str]]:
    """Settings that were changed but have no effect, each with the option that would activate it."""
    cases = (
        ("num_steps", config.rollout == "steps", "rollout steps"),
        ("rnd_coef rnd_gamma rnd_lr", config.rnd, "rnd"),
        ("eval_episodes", config.eval_freq > 0, "eval_freq"),
        ("track_project", bool(config.track), "track"),
    )
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    return [
        (name, needed)
        for names, in_use, needed in cases
        for name in names.split()
        if not in_use and getattr(config, name) != defaults[name]
    ]


def to_yaml(config: TrainConfig) -> str:
    """All settings as YAML that `train.py --config` takes.

    Arguments of the env that YAML cannot hold (functions, arrays, ...) are marked, and reading the file
    then asks for them; see `unwritable_settings`.
    """
    return dump({name: writable(value) for name, value in _as_written(config).items()})


def described(config: TrainConfig) -> dict[str, str]:
    """Every setting as text, to be compared."""
    return {name: repr(value) for name, value in _as_written(config).items()}


def unwritable_settings(config: TrainConfig) -> dict[str, str]:
    """Settings that `to_yaml` cannot write: name, e.g. "env_kwargs.bonus", and description of the value."""
    kwargs = _as_written(config)["env_kwargs"]
    return {
        f"env_kwargs.{name}": value.description
        for name, value in kwargs.items()
        if isinstance(value, Unwritten)
    }


def _as_written(config: TrainConfig) -> dict[str, Any]:
    values = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    values["env_kwargs"] = {name: writable(value) for name, value in config.env_kwargs.items()}
    values |= {name: list(values[name]) for name in ("wrappers", "hidden_sizes", "log_info", "track")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
