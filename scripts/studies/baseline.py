"""The baseline: Stable-Baselines3's PPO with the settings of rl-baselines3-zoo, on the same budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plans import SB3_SETTINGS

_VEC_SETTINGS = ("n_envs", "normalize")  # of the envs, not of PPO


def train_and_play(env_id: str, budget: int, seed: int, episode_seeds: Sequence[int]) -> dict[str, Any]:
    """Train, then play one episode per seed, deterministically and with frozen statistics.

    Returns:
        The fields of `Outcome` except for the command.
    """
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    settings = SB3_SETTINGS[env_id]
    venv = make_vec_env(env_id, n_envs=settings["n_envs"], seed=seed)
    if settings.get("normalize"):
        venv = VecNormalize(venv, gamma=settings["gamma"])
    model = PPO("MlpPolicy", venv, seed=seed, device="cpu", **ppo_arguments(settings))
    recorder = _recorder()
    start = time.perf_counter()
    model.learn(budget, callback=recorder)
    trained = time.perf_counter()
    returns = _play(env_id, model, episode_seeds)
    played = time.perf_counter()
    venv.close()
    return {
        "timesteps": model.num_timesteps,
        "returns": returns,
        "train_seconds": trained - start,
        "eval_seconds": played - trained,
        "curve": recorder.curve,
        "settings": dict(settings),
    }


def ppo_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of SB3's PPO: schedules and the activation function as objects."""
    arguments = {name: _schedule(value) for name, value in settings.items() if name not in _VEC_SETTINGS}
    if "policy_kwargs" in arguments:
        import torch

        policy = dict(arguments["policy_kwargs"])
        policy["activation_fn"] = getattr(torch.nn, policy["activation_fn"])
        arguments["policy_kwargs"] = policy
    return arguments


def _schedule(value: Any) -> Any:
    """`lin_x` as a function of the remaining share of the run, 1 to 0."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    initial = float(value.removeprefix("lin_"))
    return lambda remaining: remaining * initial


def _recorder() -> Any:
    """A callback that records the mean return of the last 100 episodes at the end of each rollout."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Recorder(BaseCallback):  # type: ignore[misc, unused-ignore]  # it is an extra
        def __init__(self) -> None:
            super().__init__()
            self.curve: list[tuple[int, float]] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            episodes = self.model.ep_info_buffer
            if episodes:
                self.curve.append((self.num_timesteps, float(np.mean([e["r"] for e in episodes]))))

    return Recorder()


def _play(env_id: str, model: Any, episode_seeds: Sequence[int]) -> list[float]:
    import gymnasium as gym

    env = gym.make(env_id, disable_env_checker=True)
    normalizer = model.get_vec_normalize_env()
    returns = []
    for seed in episode_seeds:
        obs, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            seen = obs if normalizer is None else normalizer.normalize_obs(obs)
            action = model.predict(seen, deterministic=True)[0]
            obs, reward, terminated, truncated, _ = env.step(action.item() if action.ndim == 0 else action)
            total += float(reward)
            ended = terminated or truncated
        returns.append(total)
    env.close()
    return returns
