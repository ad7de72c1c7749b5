"""Arguments of vector envs: which are taken, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from workers.arrays import Flags
from workers.env_lists import is_alike
from workers.errors import shown
from workers.seeding import NO_SEED

ObservationMode: TypeAlias = "str | tuple[gym.Space[Any], gym.Space[Any]]"


def check_workers(worker: object, max_concurrency: object, num_workers: object) -> int | None:
    """The number of workers that arguments ask for; None is one per usable core.

    Raises:
        ValueError: one of them is not taken.
    """
    if worker is not None:
        raise ValueError("prl has workers of its own: worker must be None")
    if num_workers is not None and not (isinstance(num_workers, int | np.integer) and num_workers >= 0):
        raise ValueError(f"num_workers must be None or an integer of at least 0, got {shown(num_workers)}")
    workers = None if num_workers is None else int(num_workers)
    if max_concurrency is None:
        return workers
    if not isinstance(max_concurrency, int | np.integer):
        raise ValueError(f"`max_concurrency` must be an integer or None, got {type(max_concurrency)}.")
    if max_concurrency < 1:
        raise ValueError(f"`max_concurrency` must be a positive or None, got {max_concurrency}.")
    return int(max_concurrency) if workers is None else min(workers, int(max_concurrency))


def check_seconds(**limits: object) -> None:
    """Check time limits.

    Raises:
        ValueError: one of them is no number above 0.
    """
    for name, seconds in limits.items():
        if not (isinstance(seconds, int | float | np.number) and float(seconds) > 0):
            raise ValueError(f"{name} must be a number of seconds above 0, got {shown(seconds)}")


def seeds_of(seed: Any, num_envs: int) -> list[int]:
    """The seed of each env, `NO_SEED` for none.

    Args:
        seed: None, an integer for the first env, or N integers or None.
        num_envs: N.

    Raises:
        TypeError: it is something else.
        ValueError: there are fewer or more of them, or one is negative.
    """
    if seed is None:
        return [NO_SEED] * num_envs
    if isinstance(seed, int | np.integer):
        seed = [int(seed) + env for env in range(num_envs)]
    if not isinstance(seed, list | tuple | np.ndarray) or not all(map(_may_be_seed, seed)):
        raise TypeError(f"seed must be None, an integer, or one of these per env, got {shown(seed)}")
    if len(seed) != num_envs:
        raise ValueError(f"one seed per env is needed: num_envs={num_envs}, got {len(seed)}")
    if any(one is not None and one < 0 for one in seed):
        raise ValueError(f"seeds are at least 0, got {list(seed)}")
    return [NO_SEED if one is None else int(one) for one in seed]


def _may_be_seed(value: object) -> bool:
    return value is None or isinstance(value, int | np.integer)


def checked_mask(mask: Any, num_envs: int) -> Flags:
    """The mask of a partial reset, bool[N].

    Raises:
        TypeError, ValueError: it is something else, or all False.
    """
    name = "`options['reset_mask']`"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"{name} must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(
            f"{name} must contain a boolean array with at least one True value, got reset_mask={mask}"
        )
    return mask


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
