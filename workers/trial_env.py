"""What is learnt about an env from building one of its kind: in a process of its own, or in the learner's."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit

from workers.env_builders import Builder
from workers.env_compare import AnyEnv, layers
from workers.env_copies import close_quietly
from workers.env_specs import OLD_GYM_ADVICE, is_old_gym_env, spec_of
from workers.errors import USER_ERRORS, EnvError, one_line
from workers.returns import api_error, reset_values
from workers.rows import IGNORE_MASKS, MASK_KEY
from workers.slab import Field
from workers.space_codec import decode, encode
from workers.space_parts import has_numbers, is_numeric
from workers.space_parts import leaves as space_leaves
from workers.wrappers import (
    ActionMask,
    NumericObservation,
    PlainActionMask,
    has_choices,
    mask_length,
    mask_of,
)

# Attributes by which envs limit their episodes themselves: MiniGrid and many others, Meta-World.
_OWN_LIMITS = ("max_steps", "max_episode_steps", "_max_episode_steps", "max_path_length")

# Wrappers with statistics that a file of weights does not hold, and prl's settings for the same purpose.
_STATEFUL: dict[type[AnyEnv], str] = {
    NormalizeObservation: "--normalize-obs (normalize_obs=True)",
    NormalizeReward: "--normalize-reward (normalize_reward=True)",
}


@contextlib.contextmanager
def process_kept() -> Iterator[None]:
    """Go back to the working directory and to `sys.stdout` and `sys.stderr` at the end.

    Constructors of envs may leave the one and replace the others.
    """
    streams = sys.stdout, sys.stderr
    try:
        before = os.getcwd()
    except OSError:  # it was deleted
        before = None
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        if before is not None:
            with contextlib.suppress(OSError):
                os.chdir(before)


@dataclass(frozen=True)
class Trial:
    """An env that is to be tried out.

    Attributes:
        name: what to call it in messages.
        payload: a cloudpickled function without arguments that returns an env.
        max_episode_steps: the limit that the user has set, if any.
        use_action_masks: whether masks of the env are of interest.
    """

    name: str
    payload: bytes
    max_episode_steps: int | None = None
    use_action_masks: bool = True

    def builder(self) -> Builder:
        """The function in `payload`.

        Raises:
            EnvError: it needs a module that this process cannot import.
        """
        try:
            build: Builder = cloudpickle.loads(self.payload)
        except USER_ERRORS as error:  # modules of the user's are imported
            raise EnvError.of(f"unpickling {self.name} in a process of its own", error) from error
        return build


@dataclass(frozen=True)
class Description:
    """What is learnt about an env. Plain data: see `tree`.

    The attributes are those of `workers.envs.EnvFactory`; `has_time_limit` is what can be seen.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    has_time_limit: bool
    ignored_observations: tuple[str, ...] = ()
    mask_from_info: bool = False
    ignores_mask: bool = False
    notes: tuple[str, ...] = ()

    def tree(self) -> dict[str, Any]:
        """As dicts, lists, text and numbers, for JSON.

        Raises:
            EnvError: see `space_codec.encode`.
        """
        spaces = {name: encode(getattr(self, name)) for name in ("observation_space", "action_space")}
        return vars(self) | spaces

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any]) -> Description:
        """The opposite of `tree`.

        Raises:
            ValueError, KeyError, TypeError: the tree is none of a description.
        """
        ignored, notes = (tuple(map(str, tree[name])) for name in ("ignored_observations", "notes"))
        return cls(
            decode(tree["observation_space"]),
            decode(tree["action_space"]),
            has_time_limit=bool(tree["has_time_limit"]),
            ignored_observations=ignored,
            mask_from_info=bool(tree["mask_from_info"]),
            ignores_mask=bool(tree["ignores_mask"]),
            notes=notes,
        )


def describe(trial: Trial, build: Builder) -> Description:
    """Build an env, look at it, and close it.

    Args:
        trial: what is asked.
        build: makes the env.

    Raises:
        EnvError: in one line, why the env cannot be used.
    """
    env = build_trial(trial.name, build)
    try:
        return look_at(trial, env)
    finally:
        close_quietly(env)


def look_at(trial: Trial, bare: AnyEnv, doing: Callable[[str], None] = lambda what: None) -> Description:
    """Learn what there is to know about an env.

    Args:
        trial: what is asked.
        bare: the env.
        doing: told what comes next, if it may take long.

    Raises:
        EnvError: in one line, why the env cannot be used.
    """
    name = trial.name
    with _error_context(f"the action space of {name}"):
        Field.of(bare.action_space)  # raises, if no row can hold an action
    ignored = ignored_observations(bare.observation_space)
    env: AnyEnv = NumericObservation(bare) if ignored else bare
    with _error_context(f"the observation space of {name}"):
        Field.of(env.observation_space)
    doing(f"reset(seed=0) of {name}")
    mask_from_info = trial.use_action_masks and gives_mask_in_info(name, env)
    ignores_mask = not trial.use_action_masks and has_mask_in_observation(env)
    if mask_from_info:
        env = ActionMask(env)
    if ignores_mask:
        env = PlainActionMask(env)
    notes = stateful_wrappers(name, bare)
    limit = trial.max_episode_steps
    if limit is not None and (shorter := shorter_limit(name, bare, limit)):
        notes.append(shorter)
    return Description(
        env.observation_space,
        env.action_space,
        has_time_limit=has_time_limit(bare),
        ignored_observations=ignored,
        mask_from_info=mask_from_info,
        ignores_mask=ignores_mask,
        notes=tuple(notes),
    )


@contextlib.contextmanager
def _error_context(what: str) -> Iterator[None]:
    """Say of an EnvError what it is about."""
    try:
        yield
    except EnvError as error:
        raise EnvError(f"{what}: {error}") from error


def build_trial(name: str, build: Builder) -> AnyEnv:
    """Build an env whose spaces are spaces.

    Raises:
        EnvError: the constructor raised or made no env, or the env lacks a space.
    """
    try:
        trial = build()
    except EnvError:  # a wrapper's, and it says which
        raise
    except gym.error.DependencyNotInstalled as error:
        raise EnvError(f"{name} needs a package that is not installed: {one_line(error)}") from error
    except USER_ERRORS as error:  # the env's constructor is the user's code
        raise EnvError.of(f"the constructor of {name}", error) from error
    if not isinstance(trial, gym.Env):
        old = f"; it is of {OLD_GYM_ADVICE}" if is_old_gym_env(trial) else ""
        raise EnvError(f"{name} returned {type(trial).__name__}, not a gymnasium.Env{old}")
    for kind in ("observation_space", "action_space"):
        _require_space(name, trial, kind)
    return trial


def _require_space(name: str, trial: AnyEnv, kind: str) -> None:
    try:
        space = getattr(trial, kind)
    except AttributeError:
        raise EnvError(f"{name} has no {kind}; its constructor has to set one") from None
    except USER_ERRORS as error:  # a property of the user's
        raise EnvError.of(f"the {kind} of {name}", error) from error
    if not isinstance(space, gym.Space):
        raise EnvError(f"the {kind} of {name} is of type {type(space).__name__}, not a gymnasium.Space")


def ignored_observations(space: gym.Space[Any]) -> tuple[str, ...]:
    """What `numeric_part` leaves out; nothing, if nothing would be left."""
    others = [(path, leaf) for path, leaf in space_leaves(space) if not is_numeric(leaf)]
    return tuple(f"observation{path} ({type(leaf).__name__})" for path, leaf in others if has_numbers(space))


def has_mask_in_observation(env: AnyEnv) -> bool:
    """Whether the observation is a Dict with the key "action_mask"."""
    space = env.observation_space
    return isinstance(space, gym.spaces.Dict) and MASK_KEY in space.spaces


def gives_mask_in_info(name: str, trial: AnyEnv) -> bool:
    """Whether the info of `reset` says which actions are legal, and the observation does not.

    Raises:
        EnvError: `reset` raised, or the mask does not fit the action space.
    """
    if has_mask_in_observation(trial) or not has_choices(trial.action_space):
        return False
    try:
        _, info = reset_values(trial.reset(seed=0))
    except USER_ERRORS as error:  # the env is the user's code
        if (problem := api_error(error)) is not None:
            raise EnvError(f"{name}: {problem}") from error
        raise EnvError.of(f"reset(seed=0) of {name}", error) from error
    if not isinstance(info, Mapping) or MASK_KEY not in info:
        return False
    length = mask_length(trial.action_space)
    if length is None and info[MASK_KEY] is None:
        return False
    if length is None:
        raise EnvError(
            f"{name} gives an {MASK_KEY!r}, but parts of its actions cannot be masked (Box); {IGNORE_MASKS}"
        )
    try:
        mask_of(info, length)
    except ValueError as error:
        raise EnvError(f"{name} has an action mask that does not fit its actions: {error}") from error
    return True


def has_time_limit(env: AnyEnv) -> bool:
    """Whether every episode is sure to end, as far as can be seen."""
    if any(isinstance(layer, TimeLimit) for layer in layers(env)) or _is_minigrid(env.unwrapped):
        return True
    spec = spec_of(env)
    return spec is not None and spec.max_episode_steps is not None


def _is_minigrid(env: AnyEnv) -> bool:
    """MiniGrid's envs truncate their episodes themselves."""
    return any(kind.__module__.partition(".")[0] == "minigrid" for kind in type(env).__mro__)


def shorter_limit(name: str, env: AnyEnv, max_episode_steps: int) -> str:
    """A line, if the env itself ends its episodes before `max_episode_steps`; else ""."""
    for layer, attribute in itertools.product(layers(env), _OWN_LIMITS):
        limit = inspect.getattr_static(layer, attribute, None)  # runs no property of the user's
        if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < max_episode_steps:
            return (
                f"{name} ends its episodes itself after {limit} steps ({attribute}), so a limit of "
                f"{max_episode_steps} changes nothing; a keyword argument of its constructor may"
            )
    return ""


def stateful_wrappers(name: str, env: AnyEnv) -> list[str]:
    """A line for each wrapper with running statistics, which every copy of the env gathers for itself."""
    return [
        f"{name} is wrapped in {kind.__name__}: its statistics differ from env to env and are not saved with "
        f"the weights, so evaluation and play start without them; {setting} keeps one set for all envs"
        for kind, setting in _STATEFUL.items()
        if any(isinstance(layer, kind) for layer in layers(env))
    ]
