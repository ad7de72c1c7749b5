"""Envs that draw from the global generators of `random` and `numpy.random`, as many older ones do.

An env should draw from `self.np_random`, which `reset(seed=...)` seeds. For those that do not, the global
generators are seeded, too: by the env's index before it is built, and by the episode's seed before each of
its resets. An env that is seen to draw in `step` gets its own state of the generators back before each step,
so its episodes do not depend on the other envs of its process. Only these envs pay for it, about 0.1 ms a
step. An env whose first steps do not draw, but later ones do, gives the same results again only with the
same number of workers.

Gymnasium's own envs draw from `self.np_random` alone. Where a block holds nothing else, the global generators
are left as they are: to seed them takes as long as a step of CartPole, and in the learner's process the
user's own states would have to be put aside and back, which takes ten times as long. Of other envs nobody
knows: one may draw in its thousandth episode for the first time.

Likewise `env.np_random` is seeded before the first reset, for envs that use it before they seed it.
"""

from __future__ import annotations

import contextlib
import random
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from workers.env_compare import AnyEnv, layers
from workers.wrappers import ActionMask, NumericObservation, PlainActionMask

# A test reads the sources of these. None of them calls what a user has handed to it.
KNOWN_PACKAGES = tuple(
    f"gymnasium.envs.{name}." for name in ("box2d", "classic_control", "mujoco", "toy_text")
)
KNOWN_WRAPPERS = (TimeLimit, OrderEnforcing, NumericObservation, PlainActionMask, ActionMask)

WATCHED_STEPS = 16
"""Of each env: if it has not drawn by then, its steps are no longer watched."""

_State: TypeAlias = "tuple[tuple[Any, ...], tuple[Any, ...]]"


class GlobalGenerators:
    """The state of this process's global generators, put aside while envs use them.

    A process that hosts nothing but envs does not need one.
    """

    def __init__(self) -> None:
        self._state: _State | None = None

    def put_aside(self) -> None:
        """Remember the state, unless one is remembered already."""
        if self._state is None:
            self._state = _capture()

    def put_back(self) -> None:
        """Restore the state that was put aside, if any."""
        if self._state is not None:
            _restore(self._state)
            self._state = None


@contextlib.contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Seed the global generators, and restore their state at the end."""
    before = _capture()
    _seed(seed)
    try:
        yield
    finally:
        _restore(before)


def never_draws_globally(env: AnyEnv) -> bool:
    """Whether an env is known not to use the global generators: Gymnasium's, with no code of others in it."""
    *wrappers, inner = layers(env)
    return (
        all(type(wrapper) in KNOWN_WRAPPERS for wrapper in wrappers)
        and type(inner).__module__.startswith(KNOWN_PACKAGES)
        and not any(_is_patched(layer) for layer in (*wrappers, inner))
    )


def _is_patched(layer: AnyEnv) -> bool:
    """Whether functions of others were put into the object or its classes."""
    if any(callable(value) for value in vars(layer).values()):
        return True
    members = [member for kind in type(layer).__mro__ for member in vars(kind).values()]
    modules = {member.__module__ for member in members if isinstance(member, types.FunctionType)}
    return not all(module.partition(".")[0] in ("gymnasium", "workers", "typing") for module in modules)


class GloballySeededEnv:
    """Resets and steps an env whose draws from global generators depend on its own episode seeds alone.

    Args:
        env: the env.
        before_use: called before the global generators are changed.

    Attributes:
        step: as the env's.
    """

    step: Callable[[Any], Any]

    def __init__(self, env: AnyEnv, before_use: Callable[[], None] | None = None) -> None:
        self.env = env
        self._before_use = before_use
        self._state: _State | None = None
        self._watched = 0
        self._was_reset = False
        self._seeds_globally = True
        self.step = self._watched_step

    def leave_generators_alone(self) -> None:
        """Do not seed the global generators, nor watch them: see `never_draws_globally`."""
        self._seeds_globally = False
        self.step = self.env.step

    def reset(self, *, seed: int | None, options: dict[str, Any] | None = None) -> Any:
        """Reset the env. The global generators are seeded, too; without a seed, all generators go on."""
        if self._seeds_globally:
            if self._before_use is not None:
                self._before_use()
            if seed is not None:
                _seed(seed)
            elif self._state is not None and self.step != self.env.step:
                _restore(self._state)
        if not self._was_reset and seed is not None:
            self._was_reset = True
            _seed_unused_generator(self.env.unwrapped, seed)
        if options is None:
            returned = self.env.reset(seed=seed)
        else:
            returned = self.env.reset(seed=seed, options=options)
        if self._seeds_globally and self.step != self.env.step:
            self._state = _capture()
        return returned

    def _watched_step(self, action: Any) -> Any:
        """Step with the env's own state of the generators, until it is clear whether it needs one."""
        before = self._state
        returned = self._own_step(action)
        self._watched += 1
        if before is not None and not _same(before, self._state):
            self.step = self._own_step
        elif self._watched >= WATCHED_STEPS:
            self.step = self.env.step  # without a detour: this is the hot path
        return returned

    def _own_step(self, action: Any) -> Any:
        if self._before_use is not None:
            self._before_use()
        if self._state is not None:
            _restore(self._state)
        returned = self.env.step(action)
        self._state = _capture()
        return returned

    def close(self) -> None:
        """Close the env."""
        self.env.close()


def _seed_unused_generator(env: AnyEnv, seed: int) -> None:
    """Seed `np_random` for envs whose `reset` draws from it before, or without, seeding it.

    Gymnasium would make it from the operating system's entropy at its first use. One that the constructor
    has made stays.
    """
    if isinstance(env, gym.Env) and env._np_random is None:
        env._np_random = np.random.Generator(np.random.PCG64(seed))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - the global generator is what this is about


def _capture() -> _State:
    return random.getstate(), np.random.get_state()  # type: ignore[return-value]  # noqa: NPY002


def _restore(state: _State) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002


def _same(one: _State, other: _State | None) -> bool:
    if other is None or one[0] != other[0]:
        return False
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(one[1], other[1], strict=True))
