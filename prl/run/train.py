"""A whole run: pool, learner, trainer, and what is written about them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from learner.observation_notes import observation_notes
from learner.policy import ActorCritic
from learner.settings import ConfigError, require_instance
from prl.config.checkpoint_every import checkpoint_every
from prl.config.train_config import TrainConfig, folder_path, to_yaml, unwritable_settings
from prl.run.build import (
    build_factory,
    build_learner,
    build_players,
    build_policy,
    build_pool,
    check_trainable,
    evaluation_limit,
    pick_device,
    players_of,
    reproducible,
)
from prl.run.checkpointing import Checkpointer, Checkpointing, NoCheckpoints
from prl.run.checkpoints import Checkpoints
from prl.run.crash_file import FOLDER as CRASHES
from prl.run.crash_file import CrashFolder
from prl.run.periodic_evaluation import EvaluationSchedule
from prl.run.policy_spaces import PolicySpaces
from prl.run.recorder import Recorder
from prl.run.resume import AT_THE_BEGINNING, Begun, Resumption, about_run
from prl.run.run_files import load_config
from prl.run.run_folder import CHECKPOINTS, ResumedFolder, RunFolder, make_run_folder
from prl.run.signals import Signals, Stopped, stop_on_signals
from prl.run.sinks import Sink, distinct_sinks
from prl.run.threads import settle_threads
from prl.run.trackers import Tracker, find_trackers
from prl.run.tune_choice import settled
from prl.training.arguments import require_callable
from prl.training.players import Players
from prl.training.trainer import Report, Trainer
from workers.envs import EnvFactory
from workers.errors import WorkerError
from workers.recovering_pool import RecoveringPool

OnUpdate = Callable[[Trainer, Report], None]
"""Called after every update."""


def do_nothing(trainer: Trainer, report: Report) -> None:
    """`OnUpdate` of a run that nobody intervenes in."""


def train(
    config: TrainConfig | None = None,
    messages: Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
    sinks: Sequence[Sink] = (),
    resume: str | os.PathLike[str] | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_update: OnUpdate = do_nothing,
) -> dict[str, Any]:
    """Train as the config says and write the run folder.

    The same config gives the same weights, bit for bit, on any number of workers and over either transport,
    and however often the run was interrupted and went on. That takes an env that is a function of its seed
    and its actions, the same versions of prl, PyTorch and NumPy, and the same kind of CPU. `versions.json` in
    the run folder names the versions, and the `fingerprint` in it differs between CPUs that compute different
    last bits.

    Args:
        config: what to do; None goes on with the settings of the run to resume.
        messages: passed to `log` once the run has started.
        log: called with each message for the user.
        sinks: get the metrics of every update and evaluation, and are closed when the run ends. One that
            raises is left out from then on, with a warning.
        resume: the folder of a run, which goes on from its newest whole checkpoint. A run that has done all
            of its steps only writes its summary again. Settings that differ from the run's are named in a
            warning, except for those that may: see `prl.run.resume.MAY_CHANGE`.
        stop: asked after every update, when the sinks have its metrics; the run ends once it says True, with
            the status "stopped".
        on_update: called with the trainer and its report after every update, before that is recorded. It may
            change the envs (`Trainer.call_envs`, `Trainer.set_env_attr`); a run that goes on does not call it
            again for updates that were recorded. What it raises ends the run.

    Returns:
        The summary, which is also written to `summary.json`, and the absolute `run_folder`.

    Raises:
        ConfigError, EnvError: the config cannot be carried out, `sinks` is no list of sinks, `log`, `stop` or
            `on_update` takes other arguments, or the run cannot be resumed: it has no usable checkpoint, its
            env has other spaces, somebody else writes to its folder.
        WorkerError: a worker died, hung or reported a failed env.
        WriteError: the weights or the summary could not be written at the end.
        Stopped: a signal ended the run; folder and weights are complete up to the last update.
    """
    sinks = distinct_sinks(sinks)
    require_callable(log, "log", "line")
    require_callable(stop, "stop")
    require_callable(on_update, "on_update", "trainer", "report")
    here = Path.cwd()  # an env may change the working directory
    config = _config_of(config, resume)
    find_trackers(config.track)  # a missing one is told before anything starts
    factory = build_factory(config)
    if config.rollout == "episodes":
        check_trainable(factory)
    with _run_folder(config, here, resume) as folder:
        folder.write_config(begun := _saved(config))  # at once: it may be killed while something is measured
        past, messages = _past(folder, config), [*messages, *_of_beginning(folder)]
        device = pick_device(config.device) if past is None else past.device(config.device)
        policy = build_policy(factory, config).to(device)
        config, measured = settled(config, factory)
        config, of_threads = settle_threads(config, factory, device)
        about = about_run(config, policy)
        if past is not None:
            past.check(about)
        if (settled_config := _saved(config)) != begun:
            folder.write_config(settled_config)
        folder.write_spaces(PolicySpaces.of(factory, policy).to_json())
        for line in (*messages, *measured, *of_threads, *_messages(config, factory)):
            log(line)
        summary = _run(config, factory, policy, folder, about, past, sinks, log, stop, on_update)
        return {**summary, "run_folder": str(folder.path)}


def _run(
    config: TrainConfig,
    factory: EnvFactory,
    policy: ActorCritic,
    folder: RunFolder,
    about: Mapping[str, Any],
    past: Resumption | None,
    sinks: Sequence[Sink],
    log: Callable[[str], None],
    stop: Callable[[], bool],
    on_update: OnUpdate,
) -> dict[str, Any]:
    """Start the pools, and train in them."""
    device, total = policy.device, config.total_timesteps
    with (
        reproducible(config.torch_threads, device),
        stop_on_signals() as signals,
        contextlib.ExitStack() as stack,
    ):
        # For what a custom encoder may draw (dropout); prl itself makes its own generators.
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(config.seed)
        kit = players_of(config, policy)
        crashes = CrashFolder(folder.path / CRASHES, config)
        stack.enter_context(crashes.keeps_the_last())
        pool = stack.enter_context(build_pool(config, factory, config.envs, kit))
        if isinstance(pool, RecoveringPool):
            pool.on_lost = crashes.keep_lost
        trainer = _trainer(config, policy, build_players(pool, kit))
        schedule = _schedule(config, factory, stack)
        if schedule is not None and isinstance(schedule.pool, RecoveringPool):
            schedule.pool.on_lost = crashes.keep_lost
        begun = AT_THE_BEGINNING if past is None else past.load(trainer)
        if begun.timesteps >= total:
            log(f"all of its {total:,} steps are done; with a larger total_timesteps it goes on")
        checkpoints = _checkpointing(config, folder, policy, about, signals, begun)
        try:
            return run_training(
                *(trainer, total, folder, config.env_id, schedule, signals, sinks, checkpoints, begun),
                stop=stop,
                on_update=on_update,
                trackers=find_trackers(config.track),
            )
        except (Stopped, KeyboardInterrupt, WorkerError):
            written = checkpoints.summary()["checkpoint"]
            if written:  # that of the beginning is not worth a line
                log(f"checkpoint at {written:,} steps; --resume {folder.path} goes on from there")
            raise


def _config_of(config: TrainConfig | None, resume: str | os.PathLike[str] | None) -> TrainConfig:
    """The settings of a run that begins, or goes on."""
    if resume is None:
        if config is None:
            raise ConfigError("train needs a config, or the folder of a run to resume")
    elif config is None:
        return load_config(resume)
    require_instance(TrainConfig, "a prl.TrainConfig", config=config)
    if resume is None:
        return config
    if config.run_folder is not None and Path(config.run_folder).absolute() != Path(resume).absolute():
        raise ConfigError(f"a run goes on in its own folder: run_folder cannot be {config.run_folder}")
    return config


def _saved(config: TrainConfig) -> str:
    """As YAML. The folder's name is left out: the saved config repeats the run in another folder."""
    return to_yaml(dataclasses.replace(config, run_folder=None))


def _past(folder: RunFolder, config: TrainConfig) -> Resumption | None:
    """From where a run goes on; None if it begins, or was killed as it began.

    Raises:
        ConfigError: none of its checkpoints can be read.
    """
    if isinstance(folder, ResumedFolder) and folder.holds_results:
        return Resumption(folder.path, _checkpoints(folder, config))
    return None


def _of_beginning(folder: RunFolder) -> list[str]:
    if isinstance(folder, ResumedFolder) and not folder.holds_results:
        return [f"{folder.path} was interrupted before its first checkpoint: it begins at its beginning"]
    return []


def _checkpoints(folder: RunFolder, config: TrainConfig) -> Checkpoints:
    return Checkpoints(folder.path / CHECKPOINTS, config.keep_checkpoints)


def _checkpointing(
    config: TrainConfig,
    folder: RunFolder,
    policy: ActorCritic,
    about: Mapping[str, Any],
    signals: Signals,
    begun: Begun,
) -> Checkpointing:
    """Writes the checkpoints of a config, and with each the weights: a run may be killed before its end."""
    every = checkpoint_every(config.checkpoint_every)
    if every.never:
        return NoCheckpoints()
    return Checkpointer(
        _checkpoints(folder, config),
        every,
        about,
        signals.held,
        begun.point,
        on_written=lambda: folder.save_weights(policy),
    )


def _run_folder(config: TrainConfig, here: Path, resume: str | os.PathLike[str] | None) -> RunFolder:
    if resume is not None:
        return ResumedFolder(here / folder_path(resume))
    if config.run_folder is not None:
        return RunFolder(here / config.run_folder)
    return RunFolder(make_run_folder(here / "runs", config.env_id, config.seed))


def _messages(config: TrainConfig, factory: EnvFactory) -> list[str]:
    """What the user should know about the env, in one line each."""
    lines = [
        f"{name} cannot be written to config.yaml, so only Python can do this run again: {value}"
        for name, value in unwritable_settings(config).items()
    ]
    lines += factory.notes
    if factory.ignored_observations:
        lines.append(f"left out, since it holds no numbers: {', '.join(factory.ignored_observations)}")
    if config.encoder is None:
        lines += observation_notes(factory.observation_space, config.batch_size)
    return lines


def _trainer(config: TrainConfig, policy: ActorCritic, players: Players) -> Trainer:
    return Trainer(
        players.pool,
        build_learner(policy, config),
        batch_size=config.batch_size,
        total_timesteps=config.total_timesteps,
        seed=config.seed,
        num_groups=config.groups,
        replay_limit=config.replay_limit,
        num_steps=config.num_steps if config.rollout == "steps" else None,
        overlap=config.overlap,
        players=players,
    )


def _schedule(
    config: TrainConfig, factory: EnvFactory, stack: contextlib.ExitStack
) -> EvaluationSchedule | None:
    """The evaluations of a config, on a pool that the stack closes; None without evaluations."""
    if config.eval_freq == 0:
        return None
    others = dataclasses.replace(factory, first_index=config.envs)
    pool = stack.enter_context(build_pool(config, others, min(config.envs, config.eval_episodes)))
    return EvaluationSchedule(pool, config.eval_freq, config.eval_episodes, evaluation_limit(config, factory))


def run_training(
    trainer: Trainer,
    total_timesteps: int,
    folder: RunFolder | None,
    name: str,
    schedule: EvaluationSchedule | None = None,
    signals: Signals | None = None,
    sinks: Sequence[Sink] = (),
    checkpoints: Checkpointing | None = None,
    begun: Begun = AT_THE_BEGINNING,
    stop: Callable[[], bool] = lambda: False,
    on_update: OnUpdate = do_nothing,
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Drive a trainer to its total, showing progress and writing the folder.

    However it ends, the folder holds a summary and the weights of the last finished update.

    Args:
        trainer: at its beginning, or where the run goes on.
        total_timesteps: when to stop.
        folder: where to write; it is kept from here on. None writes nothing.
        name: of the env, for the summary.
        schedule: of evaluations of the trainer's policy, whose failure is the run's; None does without.
        signals: what may end the run; they wait while something is written.
        sinks: see `train`; different objects.
        checkpoints: writes them; None writes none.
        begun: how far the run has come.
        stop, on_update: see `train`.
        trackers: get all metrics and the summary, if there is a folder.

    Returns:
        The summary.

    Raises:
        WriteError: the weights or the summary could not be written at the end.
    """
    signals = signals or Signals()
    signals.listen_again()
    recorder = Recorder(
        *(trainer, total_timesteps, folder, name, schedule, signals.held, sinks, checkpoints, begun),
        trackers=trackers,
    )
    status = "failed"
    try:
        if folder is not None:
            folder.keep()
        recorder.begin()
        reports = trainer.iterations()
        timesteps = begun.timesteps
        stopped = False
        while timesteps < total_timesteps and not stopped:
            report = next(reports)
            on_update(trainer, report)  # first: what it does to the trainer is part of the state
            recorder.record(report)
            timesteps = report.timesteps
            stopped = timesteps < total_timesteps and stop()
        status = "stopped" if stopped else "finished"
    except (Stopped, KeyboardInterrupt):
        status = "stopped"
        raise
    finally:
        with signals.held():
            summary = recorder.finish(status)
    return summary
