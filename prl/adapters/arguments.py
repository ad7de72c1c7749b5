"""Arguments of Gymnasium's vector envs: which of them are taken, and what they say about spaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from workers.env_lists import is_alike

ObservationMode: TypeAlias = "str | tuple[gym.Space[Any], gym.Space[Any]]"


def check_workers(worker: object, max_concurrency: object, num_workers: int | None) -> int | None:
    """The number of workers that arguments ask for; None is one per usable core.

    Raises:
        ValueError: one of them is not taken.
    """
    if worker is not None:
        raise ValueError("prl has workers of its own: worker must be None")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    if max_concurrency is None:
        return num_workers
    if not isinstance(max_concurrency, int | np.integer):
        raise ValueError(f"`max_concurrency` must be an integer or None, got {type(max_concurrency)}.")
    if max_concurrency < 1:
        raise ValueError(f"`max_concurrency` must be a positive or None, got {max_concurrency}.")
    return int(max_concurrency) if num_workers is None else min(num_workers, int(max_concurrency))


def check_observation_mode(mode: Any) -> bool:
    """Whether envs may differ in the bounds of their observations.

    Raises:
        ValueError, TypeError: it is none of Gymnasium's.
    """
    if isinstance(mode, tuple) and len(mode) == 2:
        if not all(isinstance(space, gym.Space) for space in mode):
            raise TypeError(f"observation_mode has to hold two spaces, got {[type(item) for item in mode]}")
        return True
    if mode not in ("same", "different"):
        raise ValueError(
            "Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch "
            f"observation space, actual got {mode}"
        )
    return bool(mode == "different")


class ObservationSpaces(NamedTuple):
    """What a vector env shows.

    Attributes:
        single: of one env.
        batched: of all of them.
    """

    single: gym.Space[Any]
    batched: gym.Space[Any]


def observation_spaces(
    mode: ObservationMode,
    first: gym.Space[Any],
    num_envs: int,
    spaces: Callable[[], Sequence[gym.Space[Any]]],
) -> ObservationSpaces:
    """The observation spaces of a vector env.

    Args:
        mode: see Gymnasium's `AsyncVectorEnv`.
        first: of the first env.
        num_envs: N.
        spaces: asks all envs for theirs.

    Raises:
        RuntimeError: a space that was given has another shape or dtype than that of the envs.
    """
    if mode == "same":
        return ObservationSpaces(first, batch_space(first, num_envs))
    if mode == "different":
        return ObservationSpaces(first, batch_differing_spaces(list(spaces())))
    assert not isinstance(mode, str)
    batched, single = mode
    if not is_alike(first, single):
        raise RuntimeError(f"{single} and the envs' {first} do not share a common shape and dtype")
    return ObservationSpaces(single, batched)
