"""What is studied: environments, budgets, targets, variants, and the settings of the baseline.

Both sides run with settings that were tuned for them: prl with its presets, Stable-Baselines3 with those of
rl-baselines3-zoo. Numbers cannot be copied from one to the other: Stable-Baselines3's value loss is the mean
squared error and prl's is half of it, so a `vf_coef` of 0.5 there equals 1.0 here. In the presets, vf_coef is
either prl's default or, for HalfCheetah, the zoo's number, which weighs half as much here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SB3 = "sb3"
_PRL: Mapping[str, tuple[str, ...]] = {"prl": ()}
_PRL_AND_RND: Mapping[str, tuple[str, ...]] = {"prl": (), "prl-rnd": ("--rnd",)}
OVERLAP = "prl-overlap"
_PRL_AND_OVERLAP: Mapping[str, tuple[str, ...]] = {"prl": (), OVERLAP: ("--overlap",)}
OVERLAP_SEEDS = 5


@dataclass(frozen=True)
class Study:
    """One environment.

    Attributes:
        env_id: as `gymnasium.make` takes it.
        budget: training steps, counted over all envs.
        target: for the interquartile mean over seeds of the evaluation return; None sets none.
        seeds: number of prl's seeds, from 0.
        baseline_seeds: number of the baseline's; with 0 it only runs for seeds that are named.
        prl: variants of prl, by name, with the flags that `train.py` gets on top.
        solved: if given, the target applies to each seed separately, and these are the smallest and the
            largest number of seeds that should reach it, by variant.
    """

    env_id: str
    budget: int
    target: float | None
    seeds: int
    baseline_seeds: int = 0
    prl: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(_PRL))
    solved: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The id without module and namespace, for the names of files."""
        return self.env_id.rpartition(":")[2].rpartition("/")[2]

    @property
    def variants(self) -> list[str]:
        """All variants; the baseline only where its settings are known."""
        return [*self.prl, *([SB3] if self.env_id in SB3_SETTINGS else [])]

    def seeds_of(self, variant: str) -> int:
        """The number of a variant's seeds that belong to the study."""
        return {SB3: self.baseline_seeds, OVERLAP: OVERLAP_SEEDS}.get(variant, self.seeds)


@dataclass(frozen=True)
class Unit:
    """The unit of work: one training run and its evaluation."""

    study: Study
    variant: str
    seed: int
    budget: int

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.study.slug} {self.variant} seed {self.seed}"


# Stable-Baselines3's PPO with the settings of rl-baselines3-zoo (hyperparams/ppo.yml), as plain data: "lin_x"
# falls linearly from x to 0; settings that are not given are Stable-Baselines3's defaults.
_WIDE = {
    "log_std_init": -2,
    "ortho_init": False,
    "activation_fn": "ReLU",
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
_LANDER = {
    "n_envs": 16,
    "n_steps": 1024,
    "batch_size": 64,
    "gae_lambda": 0.98,
    "gamma": 0.999,
    "n_epochs": 4,
    "ent_coef": 0.01,
}
SB3_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "CartPole-v1": {
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": "lin_0.001",
        "clip_range": "lin_0.2",
    },
    "Acrobot-v1": {
        "normalize": True,
        "n_envs": 16,
        "n_steps": 256,
        "gae_lambda": 0.94,
        "gamma": 0.99,
        "n_epochs": 4,
        "ent_coef": 0.0,
    },
    "Pendulum-v1": {
        "n_envs": 4,
        "n_steps": 1024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "use_sde": True,
        "sde_sample_freq": 4,
    },
    "LunarLander-v3": _LANDER,
    "LunarLanderContinuous-v3": _LANDER,
    "MountainCar-v0": {
        "normalize": True,
        "n_envs": 16,
        "n_steps": 16,
        "gae_lambda": 0.98,
        "gamma": 0.99,
        "n_epochs": 4,
        "ent_coef": 0.0,
    },
    "BipedalWalker-v3": {
        "normalize": True,
        "n_envs": 32,
        "n_steps": 2048,
        "batch_size": 64,
        "gae_lambda": 0.95,
        "gamma": 0.999,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 3e-4,
        "clip_range": 0.18,
    },
    "HalfCheetah-v5": {
        "normalize": True,
        "n_envs": 1,
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": _WIDE,
    },
    "Hopper-v5": {
        "normalize": True,
        "n_envs": 1,
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
        "policy_kwargs": _WIDE,
    },
    "Walker2d-v5": {
        "normalize": True,
        "n_envs": 1,
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.99,
        "learning_rate": 5.05041e-05,
        "ent_coef": 0.000585045,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.95,
        "max_grad_norm": 1.0,
        "vf_coef": 0.871923,
    },
}

STUDIES: tuple[Study, ...] = (
    Study("CartPole-v1", 100_000, 500.0, 10, baseline_seeds=5, prl=_PRL_AND_OVERLAP),
    Study("Acrobot-v1", 500_000, -78.0, 10),
    Study("Pendulum-v1", 200_000, -160.0, 10, baseline_seeds=5),
    Study("LunarLander-v3", 1_000_000, 250.0, 10, baseline_seeds=2, prl=_PRL_AND_OVERLAP),
    Study("LunarLanderContinuous-v3", 1_000_000, 270.0, 5),
    Study("MountainCar-v0", 1_000_000, -115.0, 5, prl=_PRL_AND_RND),
    Study("BipedalWalker-v3", 5_000_000, 290.0, 5),
    Study("HalfCheetah-v5", 1_000_000, 5800.0, 5, baseline_seeds=2, prl=_PRL_AND_OVERLAP),
    Study("Hopper-v5", 1_000_000, 2600.0, 5),
    Study("Walker2d-v5", 1_000_000, 3600.0, 5),
    Study("minigrid:MiniGrid-DoorKey-5x5-v0", 300_000, 0.95, 5),
    Study("ale_py:ALE/Pong-v5", 500_000, None, 1),  # about half an hour on a core that does nothing else
    Study(
        "prl.chain:prl/Chain-v0",
        200_000,
        0.9,
        10,
        prl=_PRL_AND_RND,
        solved={"prl": (0, 1), "prl-rnd": (8, 10)},  # without the bonus it should not be found
    ),
)


def find(name: str) -> Study:
    """The study of an env, by its id, with or without module, or its slug.

    Raises:
        KeyError: unknown env.
    """
    names = {name: s for s in STUDIES for name in (s.env_id, s.env_id.rpartition(":")[2], s.slug)}
    return names[name]
