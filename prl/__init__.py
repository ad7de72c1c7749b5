"""prl: PPO on any Gymnasium environment, learnt from many environment processes at once.

The same seed gives the same weights on any number of workers and either transport. Names are loaded when they
are first used, so that a worker process which imports a module of this package need not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import prl.utils as utils  # noqa: PLR0402 - "from prl import utils" would look for this very name
    from prl.collect import collect
    from prl.config import ConfigError, TrainConfig
    from prl.custom_loop import EnvVectorizer, VecMemory
    from prl.quickstart import PPO, AsyncPPO
    from prl.run import train
    from prl.trainer import Report, Trainer

__version__ = "0.1.0"

__all__ = [
    "PPO",
    "AsyncPPO",
    "ConfigError",
    "EnvVectorizer",
    "Report",
    "TrainConfig",
    "Trainer",
    "VecMemory",
    "collect",
    "train",
    "utils",
]

_HOME = {
    "PPO": "prl.quickstart",
    "AsyncPPO": "prl.quickstart",
    "EnvVectorizer": "prl.custom_loop",
    "VecMemory": "prl.custom_loop",
    "Trainer": "prl.trainer",
    "Report": "prl.trainer",
    "TrainConfig": "prl.config",
    "ConfigError": "prl.config",
    "collect": "prl.collect",
    "train": "prl.run",
}


def __getattr__(name: str) -> Any:
    if name == "utils":
        return importlib.import_module("prl.utils")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'prl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
