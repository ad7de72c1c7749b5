"""Whole training runs, each in a process of its own, which print how far they are: prl's and its peers'."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from prl.commands.steppers import start_method
from prl.config.train_config import TrainConfig
from prl.run.train import train
from workers.envs import EnvFactory

MARK = "prl-benchmark "
"""Begins the lines that a job prints, before a JSON object with the fields of `Progress`."""


class Job(Protocol):
    """A training run that can be sent to a process."""

    def run(self) -> None:
        """Train, and print a line at the end of each update and of each evaluation."""


def _print(timesteps: int, mean_return: float | None = None) -> None:
    print(MARK + json.dumps({"timesteps": timesteps, "mean_return": mean_return}), flush=True)


@dataclass(frozen=True)
class PrlJob:
    """A run of prl, as `prl train` does it. Implements `Job`.

    Attributes:
        config: of the run; the folder is a temporary one.
    """

    config: TrainConfig

    def run(self) -> None:
        """See `Job`."""
        with tempfile.TemporaryDirectory() as folder:
            train(dataclasses.replace(self.config, run_folder=Path(folder) / "run"), sinks=[_Printer()])


class _Printer:
    """A sink of metrics: prints what they say."""

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        _print(timesteps, metrics.get("eval/mean_reward"))

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class SB3Job:
    """A run of Stable-Baselines3's PPO, or of SBX's, which has the same interface. Implements `Job`.

    Attributes:
        library: whose PPO.
        factory: of the envs.
        num_envs: of training.
        in_processes: one process per env, or all envs in the learner's.
        settings: of PPO, without the schedules.
        linear: settings that fall linearly from their value to 0.
        total_timesteps: length of the run.
        seed: of the run.
        eval_freq: as prl's: evaluate after the first update at or beyond each multiple; 0 never does.
        eval_episodes: per evaluation, all at the same time.
    """

    library: Literal["sb3", "sbx"]
    factory: EnvFactory
    num_envs: int
    in_processes: bool
    settings: Mapping[str, Any]
    total_timesteps: int
    seed: int
    linear: Mapping[str, float] = dataclasses.field(default_factory=dict)
    eval_freq: int = 0
    eval_episodes: int = 20

    def run(self) -> None:
        """See `Job`."""
        import torch
        from stable_baselines3.common.env_util import make_vec_env  # optional
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        torch.set_num_threads(1)
        venv = make_vec_env(
            self.factory.build,
            self.num_envs,
            seed=self.seed,
            vec_env_cls=SubprocVecEnv if self.in_processes else DummyVecEnv,
            vec_env_kwargs={"start_method": start_method()} if self.in_processes else None,
        )
        schedules = {name: _falling(value) for name, value in self.linear.items()}
        model = self._ppo()("MlpPolicy", venv, seed=self.seed, **self.settings, **schedules)
        eval_env = make_vec_env(self.factory.build, self.eval_episodes) if self.eval_freq else None
        model.learn(self.total_timesteps, callback=_callback(self, eval_env))
        venv.close()

    def _ppo(self) -> Any:
        if self.library == "sbx":
            from sbx import PPO as JaxPPO

            return JaxPPO
        from functools import partial

        from stable_baselines3 import PPO

        return partial(PPO, device="cpu")


def _falling(initial: float) -> Any:
    """A value as a function of the remaining share of the run, 1 to 0."""
    return lambda remaining: remaining * initial


def _callback(job: SB3Job, eval_env: Any) -> Any:
    """Prints after each update, and evaluates if it is time to."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    class Reports(BaseCallback):  # type: ignore[misc, unused-ignore]  # it is optional
        evaluated = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:  # before the first there was no update
                self._report()

        def _on_training_end(self) -> None:
            self._report()

        def _report(self) -> None:
            timesteps = self.num_timesteps
            _print(timesteps)
            ended = timesteps >= job.total_timesteps
            if job.eval_freq and (ended or timesteps // job.eval_freq > self.evaluated):
                self.evaluated = timesteps // job.eval_freq
                mean, _ = evaluate_policy(self.model, eval_env, job.eval_episodes, deterministic=True)
                _print(timesteps, float(mean))

    return Reports()
