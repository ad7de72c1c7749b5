"""A whole run: pool, learner, trainer, and what is written about them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from learner.policy import ActorCritic
from prl.config.train_config import TrainConfig, to_yaml
from prl.pools import make_pool
from prl.run.build import (
    build_factory,
    build_learner,
    build_policy,
    check_trainable,
    pick_device,
    reproducible,
)
from prl.run.periodic_evaluation import NO_EVALUATION, BestSink, PeriodicEvaluation
from prl.run.run_folder import RunFolder, default_run_folder
from prl.run.signals import Signals, Stopped, stop_on_signals
from prl.run.sinks import CsvSink, FaultTolerantSink, ProgressBar, Sink, TensorBoardSink
from prl.run.weights import weights_sha256
from prl.training.trainer import Report, Trainer
from workers.envs import EnvFactory
from workers.pool import EnvPool


def train(
    config: TrainConfig, notes: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Train as the config says and write the run folder.

    Args:
        config: what to do.
        notes: for `say`, once it is sure that the run begins.
        say: gets a line about whatever the user should know.

    Returns:
        The summary, which is also written to `summary.json`.

    Raises:
        ConfigError, EnvError: the config cannot be carried out.
        WorkerError: a worker died, hung or reported a failed env.
        Stopped: a signal ended the run; folder and weights are complete up to the last update.
    """
    factory = build_factory(config)
    if config.rollout == "episodes" or config.eval_freq > 0:
        check_trainable(factory)
    device = pick_device(config.device)
    policy = build_policy(factory, config).to(device)
    folder = RunFolder(config.run_folder or default_run_folder(config.env_id, config.seed))
    # The folder's name is left out: the saved config does the run again, somewhere else.
    folder.write_config(to_yaml(dataclasses.replace(config, run_folder=None)))
    for note in notes:
        say(note)
    if factory.ignored_observations:
        say(f"left out, since it holds no numbers: {', '.join(factory.ignored_observations)}")
    with (
        reproducible(config.torch_threads, device),
        stop_on_signals() as signals,
        contextlib.ExitStack() as discard_on_failure,
        contextlib.ExitStack() as stack,
    ):
        discard_on_failure.callback(folder.discard)
        # For what a user's encoder may draw (dropout); prl itself has generators of its own.
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(config.seed)
        pool = stack.enter_context(_pool(factory, config, config.num_envs))
        trainer = Trainer(
            pool,
            build_learner(policy, config),
            batch_size=config.batch_size,
            total_timesteps=config.total_timesteps,
            seed=config.seed,
            num_groups=config.num_groups,
            num_steps=config.num_steps if config.rollout == "steps" else None,
        )
        evaluation = None
        if config.eval_freq > 0:
            own = stack.enter_context(_pool(factory, config, min(config.num_envs, config.eval_episodes)))
            evaluation = _evaluation(policy, own, config)
        discard_on_failure.pop_all()  # from here on the folder tells how the run ended
        return run_training(trainer, config.total_timesteps, folder, config.env_id, evaluation, signals)


def _evaluation(policy: ActorCritic, pool: EnvPool, config: TrainConfig) -> PeriodicEvaluation:
    return PeriodicEvaluation(
        policy,
        pool,
        freq=config.eval_freq,
        episodes=config.eval_episodes,
        total_timesteps=config.total_timesteps,
        seed=config.seed,
    )


def _pool(factory: EnvFactory, config: TrainConfig, num_envs: int) -> EnvPool:
    return make_pool(
        factory,
        num_envs,
        config.num_workers,
        config.transport,
        config.step_timeout,
        config.pin_workers,
    )


def run_training(
    trainer: Trainer,
    total_timesteps: int,
    folder: RunFolder | None,
    name: str,
    evaluation: PeriodicEvaluation | None = None,
    signals: Signals | None = None,
) -> dict[str, Any]:
    """Drive a trainer to its total, showing progress and writing the folder.

    However it ends, the folder holds a summary and the weights of the last finished update.

    Args:
        trainer: at its beginning.
        total_timesteps: when to stop.
        folder: where to write; None writes nothing.
        name: of the env, for the summary.
        evaluation: of the trainer's policy; gets its reports, and its failure is the run's.
        signals: what may end the run; they wait while something is written.

    Returns:
        The summary.
    """
    signals = signals or Signals()
    start = time.perf_counter()
    policy = trainer.learner.policy
    sinks = _sinks(total_timesteps, folder, policy, evaluation, signals)
    last: Report | None = None
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
        with signals.held():
            seconds = time.perf_counter() - start
            policy.load_state_dict(weights)  # an update may have been cut short
            if folder is not None:
                folder.save_weights(policy)  # before all else: they are what the run was for
            for sink in sinks:
                sink.close()
            summary = _summary(trainer, last, status, name, seconds)
            summary |= evaluation.summary() if evaluation else NO_EVALUATION
            if folder is not None:
                folder.write_summary(summary)
    return summary


def _snapshot(policy: ActorCritic) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def _sinks(
    total_timesteps: int,
    folder: RunFolder | None,
    policy: ActorCritic,
    evaluation: PeriodicEvaluation | None,
    signals: Signals,
) -> list[Sink]:
    def guarded(sink: Sink) -> Sink:
        return FaultTolerantSink(sink, signals.held)

    sinks: list[Sink] = [guarded(ProgressBar(total_timesteps))]
    if folder is not None:
        # One writer for both: TensorBoard reads only the newest file of a folder.
        board: list[Sink] = []
        if TensorBoardSink.available():
            board.append(guarded(TensorBoardSink(folder.path / "tensorboard")))
        sinks += [guarded(CsvSink(folder.path / "progress.csv")), *board]
        if evaluation is not None:
            evaluation.sinks += [guarded(CsvSink(folder.path / "evaluations.csv")), *board]
            evaluation.best_sinks.append(guarded(BestSink(folder, policy)))
    if evaluation is not None:
        sinks.append(evaluation)
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
        "mean_return": round(report.mean_return, 4)
        if report and report.mean_return == report.mean_return
        else None,
        "steps_per_second": round(timesteps / seconds, 1),
        "wall_seconds": round(seconds, 3),
        "num_workers": trainer.pool.num_workers,
        "num_envs": trainer.pool.num_envs,
        "worker_restarts": 0,
        "lost_episodes": report.lost_episodes if report else 0,
        "weights_sha256": weights_sha256(trainer.learner.policy),
    }
