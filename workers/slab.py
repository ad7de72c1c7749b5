"""The rows through which envs and learner exchange numbers: one row per env, in shared memory or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import BaseContext
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from workers.arrays import Array, Floats
from workers.errors import EnvError
from workers.final_infos import InfoColumn
from workers.rows import Leaf, row_bytes
from workers.shared_memory import shared_or_none
from workers.space_parts import is_composite, is_numeric, leaves

_ALIGNMENT = 64  # bytes; a cache line


@dataclass(frozen=True)
class Slab:
    """One row per env.

    Attributes:
        action: [N, *A] in the dtype of the action space; u8[N, B] if that is a Dict or Tuple (see
            `workers.rows`); written by the learner.
        obs: [N, *O], likewise of the observation space; written by the env.
        reward: f32[N], or f64[N] if the layout says so; written by the env.
        next_obs: [N, *O]; the first observation of the next episode, written by an env that has ended one
            in a step with same-step autoreset.
        flags: u8[N], bits TERMINATED and TRUNCATED; written by the env. Never shared: it travels in
            the frame, so that a reader always knows which step its rows belong to.
        final_info: f64[N, K]; what the last info of an episode says, written by an env that has ended one.
        info_columns: what the K columns of `final_info` are.
    """

    action: Array
    obs: Array
    reward: Floats
    next_obs: Array
    flags: npt.NDArray[np.uint8]
    final_info: npt.NDArray[np.float64]
    info_columns: tuple[InfoColumn, ...] = ()

    def __len__(self) -> int:
        return len(self.flags)

    @cached_property
    def no_final_info(self) -> npt.NDArray[np.float64] | None:
        """f64[0, K], of a step in which no episode has ended; None if K is 0."""
        return self.final_info[:0] if self.info_columns else None


@dataclass(frozen=True)
class Field:
    """Shape and dtype of one array of the slab, without its leading N."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, space: gym.Space[Any]) -> Field:
        """The field that holds one row of a space (see `workers.rows`).

        Raises:
            EnvError: elements of the space are not made of numbers in a fixed shape (Text, Sequence, ...).
        """
        shown = " ".join(str(space).split())
        for path, leaf in leaves(space):
            if not is_numeric(leaf):
                culprit = f"the elements of its part {path}" if path else "its elements"
                raise EnvError(f"the space {shown} is not supported: {culprit} are not numeric arrays")
        if not is_composite(space):
            only = Leaf.of("", space)
            return cls(only.shape, only.dtype)
        if not (length := row_bytes(space)):
            raise EnvError(f"the space {shown} is not supported: it holds no numbers")
        return cls((length,), np.dtype(np.uint8))

    def allocate(self, rows: int) -> Array:
        """Zeros in private memory, [rows, *shape]."""
        return np.zeros((rows, *self.shape), self.dtype)

    def nbytes(self, rows: int) -> int:
        """The length of `rows` rows in bytes."""
        return rows * int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def view(self, memory: Array, offset: int, rows: int) -> Array:
        """The `rows` rows from an offset in bytes on, [rows, *shape], without copying."""
        count = rows * int(np.prod(self.shape, dtype=np.int64))
        return np.frombuffer(memory, self.dtype, count, offset).reshape(rows, *self.shape)


class SlabLayout:
    """How rows look and where they lie; the part of a slab that can be sent to a child.

    Args:
        observation_space, action_space: of one env.
        num_envs: N.
        context: share memory with children of this multiprocessing context; None, or no room for it, gives
            private memory, and the rows have to travel in the frames.
        reward_dtype: f32, or f64 for interfaces that hand on what the env has returned.
        info_columns: what is kept of the last infos of episodes.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        num_envs: int,
        context: BaseContext | None = None,
        reward_dtype: type[np.floating[Any]] = np.float32,
        info_columns: Sequence[InfoColumn] = (),
    ) -> None:
        self.num_envs = num_envs
        self.info_columns = tuple(info_columns)
        action, obs = Field.of(action_space), Field.of(observation_space)
        final_info = Field((len(self.info_columns),), np.dtype(np.float64))
        self.fields = (action, obs, Field((), np.dtype(reward_dtype)), obs, final_info)
        sizes = [-(-field.nbytes(num_envs) // _ALIGNMENT) * _ALIGNMENT for field in self.fields]
        self._offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        self.memory = None if context is None else shared_or_none(sum(sizes), context)

    @property
    def shared(self) -> bool:
        """Whether all processes see the same rows; otherwise they travel in the frames."""
        return self.memory is not None

    def attach(self, start: int = 0, stop: int | None = None) -> Slab:
        """The rows `start:stop` of the slab: views of shared memory, or fresh private arrays."""
        stop = self.num_envs if stop is None else stop
        if self.memory is None:
            arrays = [field.allocate(stop - start) for field in self.fields]
        else:
            memory = self.memory.attach()
            arrays = [
                field.view(memory, offset, self.num_envs)[start:stop]
                for field, offset in zip(self.fields, self._offsets, strict=True)
            ]
        action, obs, reward, next_obs, final_info = arrays
        flags = np.zeros(stop - start, np.uint8)
        return Slab(action, obs, reward, next_obs, flags, final_info, self.info_columns)

    def command_arrays(self, slab: Slab) -> Sequence[Array]:
        """What a STEP frame carries besides the rows."""
        return () if self.shared else (slab.action,)

    def answer_arrays(self, slab: Slab) -> Sequence[Array]:
        """What a ROWS frame carries."""
        return (slab.flags,) if self.shared else (slab.flags, slab.reward, slab.obs)

    def end_arrays(self, slab: Slab) -> Sequence[Array]:
        """What a ROWS frame carries besides, for the envs whose episode has ended."""
        return () if self.shared or not self.info_columns else (slab.final_info,)

    def restart_arrays(self, slab: Slab) -> Sequence[Array]:
        """What a ROWS frame carries after that, for the envs that have started their next episode."""
        return () if self.shared else (slab.next_obs,)
