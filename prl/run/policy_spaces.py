"""What a policy takes and gives, in a file beside its weights: it can be used where its env is not."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from learner.policy import ActorCritic
from learner.settings import ConfigError
from learner.spaces import leaves, num_choices
from prl.config.train_config import TrainConfig
from prl.run.policies import make_policy
from workers.errors import EnvError
from workers.space_codec import Tree, decode, encode

if TYPE_CHECKING:  # what builds envs takes longer to import than all else here, and `prl.load` builds none
    from workers.envs import EnvFactory

SPACES_FILE = "spaces.json"

_MAX_BYTES = 64 << 20
_MAX_ELEMENTS = 1 << 26
# AssertionError: Gymnasium checks its spaces by assertions.
_DAMAGED = (
    *(ValueError, TypeError, KeyError, AttributeError, AssertionError, ArithmeticError, RecursionError),
    *(OSError, MemoryError),
)


@dataclass(frozen=True)
class PolicySpaces:
    """What a policy takes and gives.

    Attributes:
        observation_space, action_space: of the env, as they reach the policy: without parts that hold no
            numbers, with the mask of legal actions if there is one.
        policy_observation_space, policy_action_space: that the networks were made for; those of the env,
            except for the quick start's `PPO`, which is made from numbers alone.
        mask_from_info: whether the observation's "action_mask" comes from the env's info.
        ignores_mask: whether the env's "action_mask" is an observation like any other.
        left_out: parts of the env's observation that hold no numbers.
        has_env_id: whether the env_id of the settings names the env; one that was given as a class or a
            function need not have a name that another process knows.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    policy_observation_space: gym.Space[Any]
    policy_action_space: gym.Space[Any]
    mask_from_info: bool = False
    ignores_mask: bool = False
    left_out: tuple[str, ...] = ()
    has_env_id: bool = True

    @classmethod
    def of(cls, factory: EnvFactory, policy: ActorCritic, has_env_id: bool = True) -> PolicySpaces:
        """Those of a policy that is trained on a factory's envs."""
        return cls(
            factory.observation_space,
            factory.action_space,
            policy.observation_space,
            policy.action_space,
            factory.mask_from_info,
            factory.ignores_mask,
            factory.ignored_observations,
            has_env_id,
        )

    def to_json(self) -> str:
        """The text of the file."""
        values = {
            name: encode(value) if isinstance(value, gym.Space) else value
            for name, value in vars(self).items()
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PolicySpaces:
        """What `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: the text describes no spaces.
        """
        values = json.loads(text)
        for name in values:
            if name.endswith("_space"):
                values[name] = _decoded(values[name])
        return cls(**{**values, "left_out": tuple(values["left_out"])})


def _decoded(tree: Tree) -> gym.Space[Any]:
    if _elements(tree) > _MAX_ELEMENTS:
        raise ValueError("the spaces are too large")
    return decode(tree)


def _elements(tree: Any) -> int:
    """The elements that the arrays of a tree say they have."""
    if isinstance(tree, list):
        return sum(map(_elements, tree))
    if not isinstance(tree, Mapping):
        return 0
    sizes = [length for length in tree.get("shape", []) if isinstance(length, int)]
    return math.prod(sizes) + sum(map(_elements, tree.values()))


def read_spaces(run: str | os.PathLike[str]) -> PolicySpaces | None:
    """The spaces in the folder of a run; None if an older prl wrote it, which kept none.

    Raises:
        ConfigError: the file is damaged.
    """
    file = Path(run) / SPACES_FILE
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        return PolicySpaces.from_json(file.read_text(encoding="utf-8"))
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{file} is damaged: {reason}") from error


def policy_for(run: str | os.PathLike[str], config: TrainConfig, factory: EnvFactory) -> ActorCritic:
    """The untrained policy of a run, which is to play in a factory's envs.

    Args:
        run: its folder.
        config: its settings.
        factory: makes the envs; not necessarily of the env_id that the policy was trained on.

    Raises:
        ConfigError: the folder is damaged, or the encoder cannot be made.
        EnvError: the envs' spaces are not those of the policy.
    """
    spaces = read_spaces(run)
    if spaces is None:
        return make_policy(factory.observation_space, factory.action_space, config, factory.name)
    for what in ("observation", "action"):
        theirs, mine = (getattr(source, f"{what}_space") for source in (factory, spaces))
        if _form(theirs) != _form(mine):
            raise EnvError(
                f"the {what} space of {factory.name} is not the one that the policy of {run} was trained on: "
                f"{_shown(theirs)}, not {_shown(mine)}"
            )
    return make_policy(spaces.policy_observation_space, spaces.policy_action_space, config, factory.name)


def _form(space: gym.Space[Any]) -> list[tuple[Any, ...]]:
    """What has to be the same for a policy to fit; bounds may differ."""
    return [(leaf.path, leaf.shape, leaf.dtype, num_choices(leaf.space)) for leaf in leaves(space)]


def _shown(space: gym.Space[Any]) -> str:
    return " ".join(str(space).split())
