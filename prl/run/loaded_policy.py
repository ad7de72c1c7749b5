"""`load`: a trained policy, ready to act."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from learner.actor import Actor
from learner.policy import ActorCritic
from learner.settings import ConfigError
from learner.spaces import is_composite
from prl.run.elements import batch_of, element_of, rows_of
from prl.run.policies import make_policy
from prl.run.policy_spaces import PolicySpaces, read_spaces
from prl.run.run_files import load_config, load_network_config, weights_of
from prl.run.weights import load_weights
from workers.arrays import Array
from workers.errors import one_line
from workers.rows import MASK_KEY
from workers.wrappers import PLAIN_MASK_KEY

_WRAPPED_KEY = "obs"  # `workers.wrappers.ActionMask` puts an observation that is no dict there


class LoadedPolicy:
    """A trained policy with its normaliser, its masks and the actions of its env.

    Args:
        policy: the networks; put into evaluation mode.
        spaces: what they take and give.
        seed: of the actions that are drawn, if they are.

    Attributes:
        policy, spaces: as given.
        observation_space: of what `predict` takes.
        action_space: of what it returns.
    """

    def __init__(self, policy: ActorCritic, spaces: PolicySpaces, seed: int = 0) -> None:
        self.policy = policy.eval()
        self.spaces = spaces
        self.observation_space = spaces.observation_space
        self.action_space = spaces.action_space
        self._actor = Actor(policy)
        self._rng = np.random.default_rng(seed)

    def predict(self, obs: Any, deterministic: bool = True, action_mask: Any = None) -> Any:
        """Choose an action for one observation, or for each of a batch.

        Args:
            obs: as the env returns it, or G of them: arrays [G, *O], in the structure of the space.
            deterministic: take the most likely action instead of drawing one.
            action_mask: which actions are legal, [K] or [G, K], for envs that say so in their info.

        Returns:
            What `env.step` takes; for a batch, arrays [G, *A] in the structure of the action space.

        Raises:
            ValueError: the observation is not in the observation space, or a mask is missing or of no use.
            NoLegalAction: a mask allows nothing.
            NonFiniteError: the actions are not finite.
        """
        _refuse_answers(self.observation_space, obs)
        rows, is_batch = rows_of(self.observation_space, self._observed(obs, action_mask))
        noise = None if deterministic else self._actor.draw_noise(self._rng, len(rows))
        actions = self._to_env(self._actor.act(rows, noise))
        return batch_of(self.action_space, actions) if is_batch else element_of(self.action_space, actions[0])

    def _to_env(self, actions: Array) -> Array:
        rows = self._actor.to_env(actions)
        if is_composite(self.action_space) or self.action_space.dtype is None:
            return rows
        return rows.astype(np.dtype(self.action_space.dtype).newbyteorder("="), copy=False)

    def _observed(self, obs: Any, action_mask: Any) -> Any:
        """The observation as the envs of the training gave it: with the mask in it, if there is one."""
        space, has_masks = self.observation_space, self.policy.masks.leaf is not None
        if action_mask is not None and not has_masks:
            raise ValueError("this policy was trained without action masks, so it cannot take one")
        names_mask = isinstance(obs, Mapping) and MASK_KEY in obs
        if self.spaces.ignores_mask and names_mask:
            return {PLAIN_MASK_KEY if key == MASK_KEY else key: part for key, part in obs.items()}
        if action_mask is None and (names_mask or not self.spaces.mask_from_info):
            return obs
        if action_mask is None:
            where = 'action_mask=info["action_mask"]'
            raise ValueError(f"this policy was trained with action masks: {where} is missing")
        assert isinstance(space, gym.spaces.Dict)
        if _WRAPPED_KEY in space.spaces and not (isinstance(obs, Mapping) and _WRAPPED_KEY in obs):
            obs = {_WRAPPED_KEY: obs}
        return {**obs, MASK_KEY: action_mask} if isinstance(obs, Mapping) else obs


def _refuse_answers(space: gym.Space[Any], obs: Any) -> None:
    """Tell who passes all of what `env.reset` or `env.step` returns what to pass.

    Raises:
        ValueError: that is it.
    """
    calls = {2: "obs, info = env.reset()", 5: "obs, reward, terminated, truncated, info = env.step(action)"}
    if not isinstance(obs, tuple) or len(obs) not in calls or not isinstance(obs[-1], Mapping):
        return
    if isinstance(space, gym.spaces.Tuple) and len(space) == len(obs):  # it may be an observation
        return
    raise ValueError(
        f"an observation is wanted, not all that the env returned: {calls[len(obs)]}, and then predict(obs)"
    )


def load(
    run: str | os.PathLike[str], best: bool = False, *, device: str = "cpu", seed: int = 0
) -> LoadedPolicy:
    """The trained policy of a run, or of a folder that `prl share` wrote. Executes nothing that is in it.

    The env is not built, unless an older prl wrote the folder, which did not keep the spaces.

    Args:
        run: the folder.
        best: take the best policy of the run's evaluations, not the last.
        device: "cpu", "cuda", ...
        seed: of the actions that are drawn with `predict(obs, deterministic=False)`.

    Raises:
        ConfigError: the folder is not that of a run, or has no best policy, or is damaged; no such device.
        WeightsError: its weights cannot be used.
        EnvError: the env is needed, and cannot be built here.
    """
    config = load_network_config(run)
    weights = weights_of(run, best).absolute()  # an env or an encoder may change the working directory
    spaces = read_spaces(run) or _spaces_of_env(run)
    policy = make_policy(spaces.policy_observation_space, spaces.policy_action_space, config, config.env_id)
    load_weights(policy, weights)
    try:
        policy.to(device)
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was compiled with CUDA
        raise ConfigError(f"device {device!r} cannot be used: {one_line(error)}") from error
    return LoadedPolicy(policy, spaces, seed)


def _spaces_of_env(run: str | os.PathLike[str]) -> PolicySpaces:
    from prl.run.build import build_factory, build_policy  # what builds envs is not needed otherwise

    config = load_config(run)
    factory = build_factory(config)
    return PolicySpaces.of(factory, build_policy(factory, config))
