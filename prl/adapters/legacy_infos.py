"""Infos as loops read them that were written for Gymnasium 0.29."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode


class LegacyInfos(gym.vector.VectorWrapper):
    """Ends of episodes in infos as before Gymnasium 1.0.

    `infos["final_info"]` is an array of one dict per env, and `infos["final_observation"]` has the final
    observations; None where no episode has ended. Both are absent if none has. Whoever loops over
    `infos["final_info"]` and looks for "episode" finds it again.

    Args:
        env: resets in the same step, as all vector envs did then.

    Raises:
        ValueError: it resets otherwise.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"LegacyInfos needs an env with autoreset_mode=AutoresetMode.SAME_STEP, this one has {mode}"
            )

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the env, with the infos changed."""
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_info" in infos:
            ended = infos["_final_info"]
            dicts = np.full(self.num_envs, None, object)
            for env in np.flatnonzero(ended).tolist():
                dicts[env] = _of_env(infos["final_info"], env)
            infos = {**infos, "final_info": dicts}
            infos["final_observation"] = infos.pop("final_obs")
            infos["_final_observation"] = infos.pop("_final_obs")
        return obs, rewards, terminations, truncations, infos


def _of_env(infos: dict[str, Any], env: int) -> dict[str, Any]:
    """The info of one env out of a dict of arrays and masks."""
    found = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is not None and mask[env]:
            found[key] = _of_env(values, env) if isinstance(values, dict) else values[env]
    return found
