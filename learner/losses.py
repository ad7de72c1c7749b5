"""PPO's losses and diagnostics: pure functions of tensors, all [B] -> scalar."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Clipped surrogate, to be minimised: -mean min(r A, clip(r, 1 - c, 1 + c) A).

    Schulman et al. 2017, eq. 7.

    Args:
        log_ratio: [B], log pi_new(a|s) - log pi_old(a|s).
        advantages: [B].
        clip_range: c.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -torch.min(ratio * advantages, clipped * advantages).mean()


def value_loss(
    values: Tensor, returns: Tensor, old_values: Tensor | None = None, clip_range: float | None = None
) -> Tensor:
    """Half the mean squared error, 0.5 mean (V - R)^2; with a clip range, 0.5 mean max(clipped, unclipped).

    The factor 0.5 is part of this loss, so `vf_coef` weighs half the squared error.

    Args:
        values: [B], with gradient.
        returns: [B].
        old_values: [B], of the behaviour weights; needed if `clip_range` is given.
        clip_range: how far a value may move from the old one before its loss stops decreasing.

    Raises:
        ValueError: a clip range without old values.
    """
    loss = (values - returns).square()
    if clip_range is not None:
        if old_values is None:
            raise ValueError("value clipping needs old_values")
        clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
        loss = torch.max(loss, (clipped - returns).square())
    return 0.5 * loss.mean()


def approx_kl(log_ratio: Tensor) -> Tensor:
    """KL(old || new) as mean((r - 1) - log r), never negative (Schulman, "Approximating KL divergence")."""
    return (torch.expm1(log_ratio) - log_ratio).mean()


def clip_fraction(log_ratio: Tensor, clip_range: float) -> Tensor:
    """The share of ratios outside [1 - c, 1 + c]."""
    return ((log_ratio.exp() - 1.0).abs() > clip_range).float().mean()


def normalize(advantages: Tensor) -> Tensor:
    """Zero mean and unit standard deviation; a single advantage is left as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 is perfect, 0 as good as a constant; NaN if returns do not vary."""
    variance = returns.var(correction=0)  # defined for a single return, too
    if variance == 0:
        return float("nan")
    return float(1.0 - (returns - values).var(correction=0) / variance)
