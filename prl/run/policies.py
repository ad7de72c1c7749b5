"""The networks of a config, made from spaces alone."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import torch

from learner.policy import ActorCritic
from learner.settings import ConfigError
from prl.config.train_config import TrainConfig
from prl.run.torch_state import standard_torch
from workers.errors import EnvError, place_of


@standard_torch()  # importing an encoder runs the user's code in this process
def make_policy(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], config: TrainConfig, name: str
) -> ActorCritic:
    """The untrained policy of a config.

    Args:
        observation_space, action_space: what the policy is for.
        config: says which networks.
        name: of the env, for messages.

    Raises:
        ConfigError: the encoder cannot be made, or does not fit.
        EnvError: a space is not supported.
    """
    encoder = None
    if config.encoder is not None:
        # The user's layers draw their weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = _load_encoder(config.encoder, observation_space)
    try:
        return ActorCritic(
            observation_space,
            action_space,
            config.hidden_sizes,
            config.seed,
            activation=config.activation,
            log_std_init=config.log_std_init,
            normalize_obs=config.normalize_obs,
            encoder=encoder,
        )
    except ValueError as error:
        if encoder is not None:
            raise ConfigError(f"encoder {config.encoder}: {error}") from error
        raise EnvError(f"{name}: {error}") from error


def _load_encoder(name: str, observation_space: gym.Space[Any]) -> torch.nn.Module:
    """The user's module, made for the observation space."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigError(f"encoder must be module:Class, got {name!r}")
    try:
        encoder = getattr(importlib.import_module(module), attribute)(observation_space)
    except Exception as error:  # the module and the class are the user's code
        reason = f"{type(error).__name__}: {error}{place_of(error)}"
        raise ConfigError(f"encoder {name!r}: {reason}") from error
    if not isinstance(encoder, torch.nn.Module):
        raise ConfigError(f"encoder {name!r} made a {type(encoder).__name__}, not a torch.nn.Module")
    return encoder
