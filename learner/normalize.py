"""Running statistics of observations, which are part of the policy, and of discounted returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from learner.arrays import Floats
from learner.inputs import EPSILON


class RunningMoments(nn.Module):
    """Mean and variance of every element counted so far, merged batch by batch (Chan et al. 1983, eq. 2.1).

    Args:
        shape: of one element; every component has separate moments.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Count the elements of `batch` [S, *shape]; an empty batch changes nothing."""
        if len(batch) == 0:
            return
        wide = batch.to(torch.float64)
        seen, total = float(len(wide)), float(self.count) + len(wide)
        mean, var = wide.mean(dim=0), wide.var(dim=0, correction=0)
        delta = mean - self.mean
        old = float(self.count)
        # Before the first batch `var` is a placeholder: its weight `old` is 0.
        squares = self.var * old + var * seen + delta.square() * (old * seen / total)
        self.mean.add_(delta * (seen / total))
        self.var.copy_(squares / total)
        self.count.fill_(total)


class ObservationNormalizer(RunningMoments):
    """(x - mean) / std, clipped; only `update` changes the statistics.

    Args:
        shape: of one observation.
        clip: bound of the result.
    """

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        super().__init__(shape)
        self.clip = clip

    def forward(self, obs: Tensor) -> Tensor:
        """F32[S, *shape] for obs [S, *shape] of any dtype."""
        # In float64: an offset of 1e4 would cost half the digits of a float32.
        centred = obs.to(torch.float64) - self.mean
        return (centred / torch.sqrt(self.var + EPSILON)).clamp(-self.clip, self.clip).float()


class RewardScaler(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return; the mean stays.

    Engstrom et al. 2020, "Implementation matters in deep policy gradients", section 3.

    Args:
        num_envs: N; each env has its own discounted return over time. Further envs are added when they occur.
        gamma: discount.
        clip: bound of the scaled rewards.

    Attributes:
        moments: of the discounted returns.
        running: f64[N], the discounted return of each env after its last step.
    """

    running: Tensor

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        super().__init__()
        self.moments = RunningMoments(())
        self.gamma = gamma
        self.clip = clip
        self.register_buffer("running", torch.zeros(num_envs, dtype=torch.float64))

    def update(self, rewards: npt.ArrayLike, env_ids: npt.ArrayLike, ended: npt.ArrayLike) -> None:
        """Count the discounted returns along a rollout.

        Args:
            rewards: [S], env after env, in the order of time.
            env_ids: i64[S].
            ended: bool[S], the episode is over after this step: the return restarts at 0.
        """
        self._make_room(int(np.max(env_ids, initial=-1)) + 1)
        running = self.running.cpu().numpy().copy()
        returns = discounted_sums(rewards, env_ids, ended, self.gamma, running)
        self.moments.update(torch.from_numpy(returns).to(self.running.device))
        self.running.copy_(torch.from_numpy(running))

    def _make_room(self, num_envs: int) -> None:
        missing = max(0, num_envs - len(self.running))
        self.running = torch.cat([self.running, self.running.new_zeros(missing)])

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in every module; the number of envs becomes that of the state."""
        self.running = self.running.new_zeros(len(state_dict["running"]))
        return super().load_state_dict(state_dict, *args, **kwargs)

    def scale(self, rewards: npt.ArrayLike) -> Floats:
        """Scaled rewards f64[S] for rewards [S]; signs are kept."""
        std = float(torch.sqrt(self.moments.var + EPSILON))
        scaled: Floats = np.clip(np.asarray(rewards, np.float64) / std, -self.clip, self.clip)
        return scaled


class RawRewards(nn.Module):
    """Leaves rewards as they are; a null object in place of a `RewardScaler`."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        super().__init__()

    def update(self, rewards: npt.ArrayLike, env_ids: npt.ArrayLike, ended: npt.ArrayLike) -> None:
        """See `RewardScaler`."""

    def scale(self, rewards: npt.ArrayLike) -> Floats:
        """See `RewardScaler`."""
        return np.asarray(rewards, np.float64)


def discounted_sums(
    rewards: npt.ArrayLike, env_ids: npt.ArrayLike, ended: npt.ArrayLike, gamma: float, running: Floats
) -> Floats:
    """R_t = gamma R_{t-1} + r_t, per env and forwards in time, restarting at 0 after the end of an episode.

    Args:
        rewards: [S], env after env, in the order of time.
        env_ids: i64[S].
        ended: bool[S].
        gamma: discount.
        running: f64[N], R of each env before its first step; overwritten with R after its last step.

    Returns:
        f64[S].
    """
    sums = []
    values = running.tolist()
    rows = zip(
        np.asarray(rewards, np.float64).tolist(),
        np.asarray(env_ids).tolist(),
        np.asarray(ended, np.bool_).tolist(),
        strict=True,
    )
    for reward, env, over in rows:
        value = gamma * values[env] + reward
        sums.append(value)
        values[env] = 0.0 if over else value
    running[:] = values
    return np.array(sums, np.float64)
