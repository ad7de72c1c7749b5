"""Settings that programs pass to classes and functions: one clear line for each that is out of range."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym

from learner.policy import ActorCritic
from learner.settings import ConfigError, is_integer, is_number, require, require_counts
from workers.envs import EnvFactory
from workers.errors import shown


def check_pool_settings(
    num_envs: int,
    num_workers: int | None,
    seed: int,
    max_episode_steps: int | None,
    step_timeout: float,
    start_timeout: float,
) -> None:
    """Check the settings that `AsyncPPO` and `EnvVectorizer` share.

    Raises:
        ConfigError: the first of them that is out of range.
    """
    require_counts(num_envs=num_envs)
    require_workers(num_workers)
    if max_episode_steps is not None:
        require_counts(max_episode_steps=max_episode_steps)
    require_from_0(seed=seed)
    require(
        lambda value: is_number(value, above=0.0),
        "a positive number",
        step_timeout=step_timeout,
        start_timeout=start_timeout,
    )


def require_workers(num_workers: int | None) -> None:
    """Check a number of workers.

    Raises:
        ConfigError: it is neither a count, nor 0, nor None.
    """
    if num_workers is not None:
        require(lambda value: is_integer(value, 0), "an integer, 0 or more, or None", num_workers=num_workers)


def require_from_0(**values: Any) -> None:
    """Require integers of at least 0.

    Raises:
        ConfigError: names the first value that is something else.
    """
    require(lambda value: is_integer(value, 0), "an integer, 0 or more", **values)


def check_rounds(num_envs: int, num_groups: int, num_steps: int | None) -> None:
    """Check what makes rounds of N envs.

    Raises:
        ConfigError: there is not at least one env for each group, or one step for each env.
    """
    if not (is_integer(num_groups) and num_groups <= num_envs):
        raise ConfigError(f"num_groups must lie in 1..{num_envs} (num_envs), got {num_groups!r}")
    if num_steps is not None:
        require_counts(num_steps=num_steps)


def check_spaces(policy: ActorCritic, factory: EnvFactory) -> None:
    """Check that a policy was made for the spaces of the envs that it plays in.

    Raises:
        ConfigError: it was made for others.
    """
    for kind in ("observation_space", "action_space"):
        mine, of_envs = getattr(policy, kind), getattr(factory, kind)
        if not _fits(mine, of_envs):
            raise ConfigError(
                f"the policy was made for the {kind.replace('_', ' ')} {_in_one_line(mine)}, but that of "
                f"{factory.name} is {_in_one_line(of_envs)}"
            )


def _fits(mine: gym.Space[Any], of_envs: gym.Space[Any]) -> bool:
    if isinstance(mine, gym.spaces.Box) and isinstance(of_envs, gym.spaces.Box):
        return mine.shape == of_envs.shape  # a `prl.PPO` knows neither bounds nor dtype
    if isinstance(mine, gym.spaces.Discrete) and isinstance(of_envs, gym.spaces.Discrete):
        return (mine.n, mine.start) == (of_envs.n, of_envs.start)
    return bool(mine == of_envs)


def require_callable(function: Any, name: str, *arguments: str) -> None:
    """Check that something can be called as we shall call it.

    Args:
        function: what a caller passed.
        name: of the argument, for the message.
        arguments: their names; they are passed by place.

    Raises:
        ConfigError: it cannot be called, or takes other arguments.
    """
    words = f"{name} must be a function of {' and '.join(arguments) or 'no arguments'}"
    if not callable(function):
        raise ConfigError(f"{words}, got {shown(function)}")
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some of those written in C do not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ConfigError(f"{words}: {error}") from None


def _in_one_line(space: gym.Space[Any]) -> str:
    return " ".join(str(space).split())
