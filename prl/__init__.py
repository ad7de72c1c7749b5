"""prl: PPO on any Gymnasium environment, trained in many environment processes at once.

The same seed gives the same weights on any number of workers and over either transport; `prl.train` says what
that takes. Names are loaded when they are first used, so that a worker process which imports a module of this
package need not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import prl.utils as utils  # noqa: PLR0402 - "from prl import utils" would look for this very name
    from learner.fingerprint import fingerprint
    from learner.policy import ActorCritic
    from learner.ppo import PPOLearner
    from learner.ppo_config import PPOConfig
    from prl.adapters.legacy_infos import LegacyInfos
    from prl.adapters.making import make_vec
    from prl.adapters.vector_env import VectorEnv
    from prl.async_ppo import AsyncPPO
    from prl.config.train_config import ConfigError, TrainConfig
    from prl.custom_loop import EnvVectorizer, VecMemory
    from prl.pools import make_pool
    from prl.quickstart import PPO
    from prl.run.loaded_policy import LoadedPolicy, load
    from prl.run.sinks import Sink
    from prl.run.train import train
    from prl.training.evaluate import evaluate
    from prl.training.trainer import Report, Trainer
    from workers.envs import env_factory
    from workers.seeding import episode_seed

__version__ = "0.1.0"

__all__ = [
    "PPO",
    "ActorCritic",
    "AsyncPPO",
    "ConfigError",
    "EnvVectorizer",
    "LegacyInfos",
    "LoadedPolicy",
    "PPOConfig",
    "PPOLearner",
    "Report",
    "Sink",
    "TrainConfig",
    "Trainer",
    "VecMemory",
    "VectorEnv",
    "env_factory",
    "episode_seed",
    "evaluate",
    "fingerprint",
    "load",
    "make_pool",
    "make_vec",
    "train",
    "utils",
]

# Where each name lives. No name may equal a submodule of prl: importing the submodule would replace it.
_HOME = {
    "PPO": "prl.quickstart",
    "ActorCritic": "learner.policy",
    "AsyncPPO": "prl.async_ppo",
    "ConfigError": "learner.settings",
    "EnvVectorizer": "prl.custom_loop",
    "LoadedPolicy": "prl.run.loaded_policy",
    "LegacyInfos": "prl.adapters.legacy_infos",
    "PPOConfig": "learner.ppo_config",
    "PPOLearner": "learner.ppo",
    "Report": "prl.training.trainer",
    "Sink": "prl.run.sinks",
    "TrainConfig": "prl.config.train_config",
    "Trainer": "prl.training.trainer",
    "VecMemory": "prl.custom_loop",
    "VectorEnv": "prl.adapters.vector_env",
    "env_factory": "workers.envs",
    "episode_seed": "workers.seeding",
    "evaluate": "prl.training.evaluate",
    "fingerprint": "learner.fingerprint",
    "load": "prl.run.loaded_policy",
    "make_pool": "prl.pools",
    "make_vec": "prl.adapters.making",
    "train": "prl.run.train",
}


def __getattr__(name: str) -> Any:
    if name == "utils":
        return importlib.import_module("prl.utils")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'prl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
