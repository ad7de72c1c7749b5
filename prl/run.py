"""A whole run: pool, learner, trainer, and what is written about them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.multiprocessing

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.settings import ConfigError
from prl.config import TrainConfig, to_yaml, usable_cores
from prl.metrics import CsvSink, Guarded, ProgressBar, Sink, TensorBoardSink
from prl.run_folder import RunFolder, default_run_folder
from prl.stopping import Stopped, stop_on_signals
from prl.trainer import Report, Trainer
from prl.weights import weights_sha256
from workers.envs import EnvFactory, env_factory
from workers.errors import EnvError
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool, Transport


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as the config says and write the run folder.

    Returns:
        The summary, which is also written to `summary.json`.

    Raises:
        ConfigError, EnvError: the config cannot be carried out.
        WorkerError: a worker died, hung or reported a failed env.
        Stopped: a signal ended the run; folder and weights are complete up to the last update.
    """
    factory = env_factory(
        config.env_id, env_kwargs=config.env_kwargs, max_episode_steps=config.max_episode_steps
    )
    check_trainable(factory)
    device = pick_device(config.device)
    try:
        policy = ActorCritic(
            factory.observation_space, factory.action_space, config.hidden_sizes, config.seed
        ).to(device)
    except ValueError as error:
        raise EnvError(f"{config.env_id}: {error}") from error
    folder = RunFolder(config.run_folder or default_run_folder(config.env_id, config.seed))
    # The folder's name is left out: the saved config does the run again, somewhere else.
    folder.write_config(to_yaml(dataclasses.replace(config, run_folder=None)))
    with reproducible(config.torch_threads, device), stop_on_signals():
        with make_pool(
            factory,
            config.num_envs,
            config.num_workers,
            config.transport,
            config.step_timeout,
            config.pin_workers,
        ) as pool:
            trainer = Trainer(
                pool,
                PPOLearner(policy, config),
                batch_size=config.batch_size,
                total_timesteps=config.total_timesteps,
                seed=config.seed,
                num_groups=config.num_groups,
            )
            return record(trainer, config.total_timesteps, folder, config.env_id)


def check_trainable(factory: EnvFactory) -> None:
    """Whole episodes need an end.

    Raises:
        EnvError: nothing says that the env's episodes end.
    """
    if not factory.has_time_limit:
        raise EnvError(
            f"{factory.name} has no time limit, so an episode might never end; "
            "set one with --max-episode-steps (max_episode_steps=)"
        )


def pick_device(name: str) -> torch.device:
    """The device behind a name; "auto" is the GPU if there is one.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not there; this machine has {torch.cuda.device_count()} GPUs")
    return device


def make_pool(
    factory: EnvFactory,
    num_envs: int,
    num_workers: int | None,
    transport: Transport = "shared",
    step_timeout: float = 60.0,
    pin_workers: bool = True,
) -> InlinePool | ProcessPool:
    """The pool for a number of workers: None is one per usable core, 0 none at all (inline)."""
    if num_workers is None:
        num_workers = usable_cores()
    if num_workers == 0:
        return InlinePool(factory, num_envs)
    return ProcessPool(
        factory,
        num_envs,
        num_workers,
        transport=transport,
        context=torch.multiprocessing.get_context("spawn"),
        step_timeout=step_timeout,
        pin_workers=pin_workers,
    )


@contextlib.contextmanager
def reproducible(torch_threads: int, device: torch.device) -> Iterator[None]:
    """Fix what bits depend on, for the time of a run: the number of threads, and CUDA's choice of kernels."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(torch_threads)
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def record(trainer: Trainer, total_timesteps: int, folder: RunFolder | None, name: str) -> dict[str, Any]:
    """Drive a trainer to its total, showing progress and writing the folder.

    However it ends, the folder holds a summary and the weights of the last finished update.

    Args:
        trainer: at its beginning.
        total_timesteps: when to stop.
        folder: where to write; None writes nothing.
        name: of the env, for the summary.

    Returns:
        The summary.
    """
    start = time.perf_counter()
    sinks = _sinks(total_timesteps, folder)
    last: Report | None = None
    policy = trainer.learner.policy
    weights = _snapshot(policy)
    status = "failed"
    try:
        for report in trainer.iterations():
            last, weights = report, _snapshot(policy)
            for sink in sinks:
                sink.write(report)
            if report.timesteps >= total_timesteps:
                break
        status = "finished"
    except (Stopped, KeyboardInterrupt):
        status = "stopped"
        raise
    finally:
        policy.load_state_dict(weights)  # an update may have been cut short
        for sink in sinks:
            sink.close()
        summary = _summary(trainer, last, status, name, time.perf_counter() - start)
        if folder is not None:
            folder.save_weights(policy)
            folder.write_summary(summary)
    return summary


def _snapshot(policy: ActorCritic) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def _sinks(total_timesteps: int, folder: RunFolder | None) -> list[Sink]:
    sinks: list[Sink] = [Guarded(ProgressBar(total_timesteps))]
    if folder is not None:
        sinks.append(Guarded(CsvSink(folder.path / "progress.csv")))
        if TensorBoardSink.available():
            sinks.append(Guarded(TensorBoardSink(folder.path / "tensorboard")))
    return sinks


def _summary(
    trainer: Trainer, report: Report | None, status: str, name: str, seconds: float
) -> dict[str, Any]:
    timesteps = report.timesteps if report else 0
    return {
        "status": status,
        "env_id": name,
        "seed": trainer.seed,
        "timesteps": timesteps,
        "iterations": report.iteration if report else 0,
        "episodes": report.episodes if report else 0,
        "mean_return": round(report.mean_return, 4) if report else None,
        "steps_per_second": round(timesteps / seconds, 1),
        "wall_seconds": round(seconds, 3),
        "num_workers": trainer.pool.num_workers,
        "num_envs": trainer.pool.num_envs,
        "worker_restarts": 0,
        "lost_episodes": report.lost_episodes if report else 0,
        "weights_sha256": weights_sha256(trainer.learner.policy),
    }
