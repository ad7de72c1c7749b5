"""Weights and rollouts as bytes, for players in other processes. Nothing that they send is unpickled."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from learner.spaces import row_field
from learner.store import Rollout
from prl.training.group_round import Episodes, GroupRollout, PlayingTime
from workers.arrays import Array
from workers.errors import ProtocolError

_HEADER = struct.Struct("<8q3d")


@dataclass(frozen=True)
class WeightsLayout:
    """How a list of arrays lies in memory, one after the other.

    Attributes:
        shapes, dtypes: of each; wider dtypes come first, so that all are aligned.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]

    @classmethod
    def of(cls, arrays: Sequence[Array]) -> WeightsLayout:
        """The layout of arrays like these."""
        return cls(tuple(array.shape for array in arrays), tuple(array.dtype for array in arrays))

    @property
    def nbytes(self) -> int:
        """Of all arrays, rounded up to whole cache lines."""
        sizes = (math.prod(s) * d.itemsize for s, d in zip(self.shapes, self.dtypes, strict=True))
        return -(-sum(sizes) // 64) * 64

    def views(self, memory: Any) -> list[Array]:
        """The arrays in a buffer."""
        arrays, offset = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            count = math.prod(shape)
            arrays.append(np.frombuffer(memory, dtype, count, offset).reshape(shape))
            offset += count * dtype.itemsize
        return arrays


class RolloutCodec:
    """What came of a task, as bytes.

    Args:
        observation_space: of one env.
        action_space: of stored actions; a head's.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        obs_shape, obs = row_field(observation_space)
        action_shape, action = row_field(action_space)
        i64, f64, flag = np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.bool_)
        self._steps = (("env_ids", (), i64), ("obs", obs_shape, obs), ("actions", action_shape, action),
                       ("rewards", (), np.dtype(np.float32)), ("ends", (), flag))  # fmt: skip
        self._ends = (("terminated", (), flag), ("continues", (), flag), ("final_obs", obs_shape, obs))
        self._episodes = (("env_ids", (), i64), ("returns", (), f64), ("lengths", (), i64))
        self._envs = (("started", (), i64), ("returns", (), f64), ("lengths", (), i64))
        self._shown = (obs_shape, obs)

    def encode(self, part: GroupRollout, seconds: PlayingTime) -> bytes:
        """The inverse of `decode`."""
        rollout, episodes = part.rollout, part.episodes
        numbers = (
            part.group,
            len(rollout),
            len(rollout.terminated),
            len(episodes.lengths),
            len(part.started),
        )
        header = _HEADER.pack(
            *numbers, part.longest, part.lost, part.obs is not None, seconds.pool, seconds.act, seconds.store
        )
        pieces = [header]
        sources = (
            (rollout, self._steps),
            (rollout, self._ends),
            (episodes, self._episodes),
            (part, self._envs),
        )
        for source, columns in sources:
            pieces += [np.ascontiguousarray(getattr(source, n), dtype).tobytes() for n, _, dtype in columns]
        if part.obs is not None:
            pieces.append(np.ascontiguousarray(part.obs, self._shown[1]).tobytes())
        pieces.append(np.ascontiguousarray(episodes.infos, np.float64).tobytes())
        return b"".join(pieces)

    def decode(self, payload: bytes, num_infos: int = 0) -> tuple[GroupRollout, PlayingTime]:
        """What came of a task, and what playing it took.

        Args:
            payload: as `encode` has made it.
            num_infos: K, numbers that are kept of the last info of an episode.

        Raises:
            ProtocolError: the payload is no rollout.
        """
        try:
            return self._decode(payload, num_infos)
        except (ValueError, struct.error) as error:
            raise ProtocolError(f"not a rollout: {error}") from error

    def _decode(self, payload: bytes, num_infos: int) -> tuple[GroupRollout, PlayingTime]:
        group, steps, ends, over, envs, longest, lost, shows, *seconds = _HEADER.unpack_from(payload)
        reader = _Reader(payload, _HEADER.size)
        of_steps = {name: reader.take(steps, shape, dtype) for name, shape, dtype in self._steps}
        of_ends = {name: reader.take(ends, shape, dtype) for name, shape, dtype in self._ends}
        of_episodes = {name: reader.take(over, shape, dtype) for name, shape, dtype in self._episodes}
        of_envs = {name: reader.take(envs, shape, dtype) for name, shape, dtype in self._envs}
        obs = reader.take(envs, *self._shown) if shows else None
        episodes = Episodes(**of_episodes, infos=reader.take(over, (num_infos,), np.dtype(np.float64)))
        reader.finish()
        rollout = Rollout(**of_steps, **of_ends, extra={})
        part = GroupRollout(group, rollout, episodes, **of_envs, obs=obs, longest=longest, lost=lost)
        return part, PlayingTime(*seconds)


class _Reader:
    """Reads arrays from bytes, one after the other."""

    def __init__(self, payload: bytes, offset: int) -> None:
        self._payload = payload
        self._offset = offset

    def take(self, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The next array, [rows, *shape]."""
        count = rows * math.prod(shape)
        array = np.frombuffer(self._payload, dtype, count, self._offset).reshape(rows, *shape)
        self._offset += count * dtype.itemsize
        return array

    def finish(self) -> None:
        """There must be nothing left."""
        if self._offset != len(self._payload):
            raise ValueError(f"{len(self._payload)} bytes, expected {self._offset}")
