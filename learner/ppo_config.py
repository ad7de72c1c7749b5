"""The hyper-parameters of PPO's update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from learner.settings import Rule, check


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of the update.

    Attributes:
        actor_lr: Adam's step size for the actor.
        critic_lr: Adam's step size for the critic.
        anneal_lr: scale both step sizes linearly to 0 over the run.
        anneal_clip_range: scale clip_range linearly to 0 over the run.
        gamma: discount.
        gae_lambda: lambda of the advantage estimate.
        clip_range: how far the probability ratio may move; 0.2 is 20 %.
        clip_range_vf: how far a value may move; None does not clip.
        num_epochs: passes over each batch.
        minibatch_size: steps per optimiser step; the last minibatch of an epoch may be smaller.
        normalize_advantage: normalise advantages to mean 0 and standard deviation 1, per minibatch.
        normalize_reward: divide rewards by the running standard deviation of the discounted return.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss, which is 0.5 MSE (as in the paper's code and CleanRL): 0.5 here
            weighs half of what 0.5 weighs in Stable-Baselines3, whose loss is the MSE itself.
        max_grad_norm: bound on the gradient's norm over actor and critic together.
        target_kl: end the update once approx_kl exceeds 1.5 times this; None never does.
        compile: have PyTorch compile the loss, which takes up to a minute once; for images and large networks
            on a GPU. Small networks on the CPU lose their gradients by hand, which are faster.
        bf16: compute the networks of a minibatch in bfloat16, with weights and Adam in float32; for large
            networks on a GPU. Small networks on the CPU lose their gradients by hand, which are faster.

    Raises:
        ConfigError: a value is out of range.
    """

    actor_lr: float = 1e-3
    critic_lr: float = 2.5e-3
    anneal_lr: bool = False
    anneal_clip_range: bool = False
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = None
    num_epochs: int = 10
    minibatch_size: int = 256
    normalize_advantage: bool = True
    normalize_reward: bool = False
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None
    compile: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        check(self, _RULES)


# Comparisons are written so that NaN fails them.
_RULES: tuple[Rule, ...] = (
    ("actor_lr critic_lr max_grad_norm", lambda v: 0.0 < v < math.inf, "a positive number"),
    ("gamma gae_lambda", lambda v: 0.0 <= v <= 1.0, "between 0 and 1"),
    ("clip_range clip_range_vf target_kl", lambda v: 0.0 < v < math.inf, "a positive number"),
    ("num_epochs minibatch_size", lambda v: v >= 1, "at least 1"),
    ("ent_coef vf_coef", lambda v: 0.0 <= v < math.inf, "0 or a positive number"),
)
