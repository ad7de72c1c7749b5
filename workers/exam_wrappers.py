"""What an examination puts around an env, inside of what a worker does: to time it, watch it, disturb it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from workers.envs import AnyEnv, EnvFactory

_Wrapper = gym.Wrapper[Any, Any, Any, Any]


@dataclass(frozen=True)
class Inside(EnvFactory):
    """A factory whose envs are wrapped; see `inside`.

    Attributes:
        wrap: around each env.
        before: called before an env is built.
    """

    wrap: Callable[[AnyEnv], AnyEnv] = lambda env: env
    before: Callable[[], None] = lambda: None

    def build(self, env_index: int = 0) -> AnyEnv:
        """See `EnvFactory.build`."""
        self.before()
        return self.wrap(super().build(env_index))


def inside(
    factory: EnvFactory, wrap: Callable[[AnyEnv], AnyEnv], before: Callable[[], None] = lambda: None
) -> EnvFactory:
    """The factory with a wrapper around its envs, which is called where a worker would call the env."""
    return Inside(**vars(factory), wrap=wrap, before=before)


class Timed(_Wrapper):
    """Takes the time of every reset and step.

    Args:
        env: the env.
        resets, steps: get the seconds of each.
    """

    def __init__(self, env: AnyEnv, resets: list[float], steps: list[float]) -> None:
        super().__init__(env)
        self._resets, self._steps = resets, steps

    def reset(self, **kwargs: Any) -> Any:
        """As the env."""
        began = time.perf_counter()
        returned = self.env.reset(**kwargs)
        self._resets.append(time.perf_counter() - began)
        return returned

    def step(self, action: Any) -> Any:
        """As the env."""
        began = time.perf_counter()
        returned = self.env.step(action)
        self._steps.append(time.perf_counter() - began)
        return returned


class Disturbed(_Wrapper):
    """Gives the global generators other seeds before each reset than a worker does.

    Args:
        env: the env.
        seed: added to that of each episode.
    """

    def __init__(self, env: AnyEnv, seed: int) -> None:
        super().__init__(env)
        self._seed = seed

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> Any:
        """As the env."""
        seed_globals(self._seed + (seed or 0))
        return self.env.reset(seed=seed, **kwargs)


class Watched(_Wrapper):
    """Notices which global generators an env draws from.

    Args:
        env: the env.
        first: by "random", "numpy.random" and "torch": the number of steps that the env has taken, in all of
            its episodes, when it draws for the first time; 0 if it does so in its first reset.
    """

    def __init__(self, env: AnyEnv, first: dict[str, int]) -> None:
        super().__init__(env)
        self._first = first
        self._taken = 0

    def reset(self, **kwargs: Any) -> Any:
        """As the env."""
        before = _states()
        returned = self.env.reset(**kwargs)
        self._compare(before)
        return returned

    def step(self, action: Any) -> Any:
        """As the env."""
        before = _states()
        self._taken += 1
        returned = self.env.step(action)
        self._compare(before)
        return returned

    def _compare(self, before: dict[str, Any]) -> None:
        for name, state in _states().items():
            if name in before and state != before[name]:
                self._first.setdefault(name, self._taken)


def seed_globals(seed: int) -> None:
    """Seed the global generators of Python and NumPy, and of torch if it was imported."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is what this is about
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _states() -> dict[str, Any]:
    """Of the global generators, in a form that can be compared."""
    _, key, *rest = np.random.get_state()  # noqa: NPY002
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": (np.asarray(key).tobytes(), *rest),
    }
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return states
