"""Wrappers that fit an env to its learner, and wrappers that a user names in text."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.utils import RecordConstructorArgs

from workers.arrays import detached
from workers.errors import USER_ERRORS, EnvError, describe, one_line, place_of, shown
from workers.returns import ReturnError, flag_of, reset_values, step_values
from workers.rows import IGNORE_MASKS, MASK_KEY
from workers.space_parts import leaves, numeric_part, select_numeric

AnyWrapper: TypeAlias = "gym.Wrapper[Any, Any, Any, Any]"
PLAIN_MASK_KEY = "plain_action_mask"
LAST_INFO = "prl_last_info"
"""Attribute of a `LastInfo`."""


class _ObservationWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Changes observations; says what is wrong if the env does not return what Gymnasium's envs do.

    Gymnasium's `ObservationWrapper` takes a Dict observation that `reset` returns alone for two values, if it
    has two keys.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def observation(self, observation: Any) -> Any:
        """What becomes of an observation of the env."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the env, with the observation changed."""
        obs, info = reset_values(self.env.reset(seed=seed, options=options))
        return self.observation(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the env, with the observation changed."""
        obs, reward, terminated, truncated, info = step_values(self.env.step(action))
        return self.observation(obs), reward, terminated, truncated, info


class LastInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keeps the info of the last reset or step, for those who want to see it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.prl_last_info: Any = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the env."""
        obs, self.prl_last_info = reset_values(self.env.reset(seed=seed, options=options))
        return obs, self.prl_last_info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the env."""
        obs, reward, terminated, truncated, self.prl_last_info = step_values(self.env.step(action))
        return obs, reward, terminated, truncated, self.prl_last_info


class NumericObservation(_ObservationWrapper):
    """Leaves out of Dict and Tuple observations what is not made of numbers (`rows.numeric_part`)."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = numeric_part(env.observation_space)

    def observation(self, observation: Any) -> Any:
        """See `rows.select_numeric`."""
        return select_numeric(self.env.observation_space, observation)


class ActionMask(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Moves `info["action_mask"]` into the observation, where a policy can see it.

    The observation becomes a Dict of what it was ("obs", if it was no Dict) and of the mask as i8[K].

    Raises:
        ValueError: such actions have no masks (see `mask_length`).
        ReturnError: in reset and step: there is no mask, or it does not have K elements.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.observation_space
        self._is_dict = isinstance(space, Dict)
        # Pairs, because the keys of a mapping would be sorted.
        inner = list(space.spaces.items()) if isinstance(space, Dict) else [("obs", space)]
        length = mask_length(env.action_space)
        if length is None:
            raise ValueError(f"the actions of {env.action_space} have no masks")
        self._length = length
        self.observation_space = Dict([*inner, (MASK_KEY, MultiBinary(self._length))])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the env, with the mask in the observation."""
        obs, info = reset_values(self.env.reset(seed=seed, options=options))
        return self._with_mask(obs, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the env, with the mask in the observation."""
        obs, reward, terminated, truncated, info = step_values(self.env.step(action))
        has_mask = isinstance(info, Mapping) and info.get(MASK_KEY) is not None
        if not has_mask and (flag_of(terminated, "terminated") or flag_of(truncated, "truncated")):
            # A final observation needs no mask: no action follows.
            info = {**(info or {}), MASK_KEY: np.ones(self._length, np.int8)}
        return self._with_mask(obs, info), reward, terminated, truncated, info

    def _with_mask(self, obs: Any, info: dict[str, Any]) -> dict[Any, Any]:
        mask = mask_of(info, self._length)
        # Of a broken env: an observation that is no dict goes into "obs", and is refused there.
        inner = obs if self._is_dict and isinstance(obs, Mapping) else {"obs": obs}
        return {**inner, MASK_KEY: mask}


class PlainActionMask(_ObservationWrapper):
    """Renames the key "action_mask" of a Dict observation, so that it is an observation like any other."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, Dict)
        spaces = env.observation_space.spaces.items()
        self.observation_space = Dict([(_plain(key), space) for key, space in spaces])

    def observation(self, observation: Any) -> Any:
        """The observation with the key renamed; what is no mapping is left to the checks of the worker."""
        if not isinstance(observation, Mapping):
            return observation
        return {_plain(key): part for key, part in observation.items()}


def _plain(key: Any) -> Any:
    return PLAIN_MASK_KEY if key == MASK_KEY else key


def has_choices(action_space: gym.Space[Any]) -> bool:
    """Whether there is anything to be masked."""
    return any(isinstance(leaf, Discrete | MultiDiscrete | MultiBinary) for _, leaf in leaves(action_space))


def mask_length(action_space: gym.Space[Any]) -> int | None:
    """K, the length of an action mask, leaf after leaf; None if such actions have no masks.

    A Discrete or MultiDiscrete has one element for each choice, a MultiBinary two for each bit (whether it
    may be 0, whether it may be 1).
    """
    total = 0
    for _, leaf in leaves(action_space):
        if isinstance(leaf, Discrete):
            total += int(leaf.n)
        elif isinstance(leaf, MultiDiscrete):
            total += int(leaf.nvec.sum())
        elif isinstance(leaf, MultiBinary):
            total += 2 * int(np.prod(leaf.shape))
        else:
            return None
    return total or None


def mask_of(info: Any, length: int) -> npt.NDArray[np.int8]:
    """The mask in an env's info, i8[K] of 0 and 1.

    Raises:
        ReturnError: there is none, or it is not made of K numbers or bools that are 0 or 1.
    """
    if not isinstance(info, Mapping) or MASK_KEY not in info:
        raise ReturnError(f"info has no {MASK_KEY!r}, though the one of the first reset had")
    name = f"info[{MASK_KEY!r}]"
    try:
        mask = np.asarray(detached(info[MASK_KEY]))
        if mask.dtype.kind == "O" and mask.shape:  # numbers of several types, as from a data frame
            mask = np.asarray(mask.tolist())
    except Exception as error:  # parts of different lengths, or an object with its own `__array__`
        found = f"{name} is not one flat array of {length} elements: {one_line(error)}"
        raise ReturnError(f"{found}; {IGNORE_MASKS}") from error
    if mask.dtype.kind not in "biuf" or mask.size != length:
        found = f"{mask.dtype} of shape {mask.shape}"
        raise ReturnError(
            f"{name} is {found}, not {length} numbers 0 or 1, the parts one after the other; {IGNORE_MASKS}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        found = f"{name} holds other numbers than 0 and 1: {shown(mask.ravel().tolist())}"
        raise ReturnError(f"{found}; {IGNORE_MASKS}")
    return mask.astype(np.int8).reshape(length)


class NamedWrapper:
    """A wrapper given as text: "module:Class" or "module:Class(key=value, ...)" with literal values.

    A class that is loaded already is found at once; it travels to workers by its name, or by value if it is
    one of the user's `__main__`, which a worker does not have. Others are imported where envs are built.

    Raises:
        EnvError: the text is not of that form, or the class cannot be found in the module.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.module, self._name, self.kwargs = _parsed(text)
        self._found = self._find() if self.module in sys.modules else None

    @property
    def wrapper(self) -> Callable[..., Any]:
        """The class.

        Raises:
            EnvError: the module cannot be imported, or the class cannot be found in it.
        """
        return self._find() if self._found is None else self._found

    def _find(self) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(self.module), self._name)
        except AttributeError as error:
            raise EnvError(f"the wrapper {self.text!r} is unknown: {describe(error)}") from error
        except USER_ERRORS as error:  # what happens in the module is the user's code
            what = f"cannot import the wrapper {self.text!r}"
            raise EnvError(f"{what}: {describe(error)}{place_of(error)}") from error
        if not callable(found):
            raise EnvError(f"the wrapper {self.text!r} is not a class")
        return found

    def __call__(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """The env in its wrapper; the env is closed if that fails.

        Raises:
            EnvError: it cannot be found, the constructor raised, or it returned no env.
        """
        try:
            wrapped = self.wrapper(env, **self.kwargs)
        except EnvError:
            env.close()
            raise
        except USER_ERRORS as error:  # the constructor is the user's code
            env.close()
            raise EnvError.of(f"the wrapper {self.text!r}", error) from error
        if not isinstance(wrapped, gym.Env):
            env.close()
            raise EnvError(f"the wrapper {self.text!r} made a {type(wrapped).__name__}, not a gymnasium.Env")
        return wrapped


def _parsed(text: str) -> tuple[str, str, dict[str, Any]]:
    """Module, class and keyword arguments. Nothing is evaluated but literals."""
    module, _, call = text.partition(":")
    try:
        node = ast.parse(call.strip(), mode="eval").body
        called = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in called.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _malformed(text) from error
    # `**mapping` is a keyword without a name; of a name given twice only one is left.
    names = {name: value for name, value in kwargs.items() if name is not None}
    if (
        not isinstance(called.func, ast.Name)
        or called.args
        or len(names) != len(called.keywords)
        or not module
    ):
        raise _malformed(text)
    return module.strip(), called.func.id, names


def _malformed(text: str) -> EnvError:
    form = "'module:Class' or 'module:Class(key=value, ...)' with literal values"
    return EnvError(f"a wrapper is given as {form}, not as {text!r}")
