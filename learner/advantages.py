"""Advantages: Generalised Advantage Estimation (Schulman et al. 2016, eq. 16)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learner.arrays import Floats


def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    next_values: npt.ArrayLike,
    ends: npt.ArrayLike,
    gamma: float,
    gae_lambda: float,
) -> Floats:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t), within an episode.

    The steps of all episodes lie one after another; the sum never crosses an end. Computed in float64.

    Args:
        rewards: [S].
        values: [S], V(s_t).
        next_values: [S], V(s_{t+1}) of the state that followed, *before* any reset: 0 where s_{t+1} is
            terminal, V(final observation) where the episode was truncated.
        ends: bool[S], the last step of an episode, terminated or truncated.
        gamma: discount.
        gae_lambda: 0 gives one-step advantages, 1 Monte Carlo ones.

    Returns:
        Advantages, f64[S]. Returns are advantages + values.
    """
    next_values = np.asarray(next_values, np.float64)
    deltas = np.asarray(rewards, np.float64) + gamma * next_values - np.asarray(values, np.float64)
    decays = np.where(np.asarray(ends, np.bool_), 0.0, gamma * gae_lambda)
    # A scalar recursion over lists is as fast here as vectorising over envs, and has no padding.
    advantage = 0.0
    advantages = [0.0] * len(deltas)
    backwards = range(len(deltas) - 1, -1, -1)
    for t, delta, decay in zip(backwards, deltas[::-1].tolist(), decays[::-1].tolist(), strict=True):
        advantage = delta + decay * advantage
        advantages[t] = advantage
    return np.array(advantages, np.float64)


def next_values(values: npt.ArrayLike, ends: npt.ArrayLike, bootstrap: npt.ArrayLike) -> Floats:
    """V(s_{t+1}) for steps in episode order: the next step's value, and `bootstrap` at the ends.

    Args:
        values: [S].
        ends: bool[S]; the last step is always an end.
        bootstrap: [E], in the order of the ends: 0 if terminated, V(final observation) if truncated.

    Returns:
        f64[S].
    """
    ends = np.asarray(ends, np.bool_)
    following = np.append(np.asarray(values, np.float64)[1:], 0.0)
    following[ends] = bootstrap
    return following
