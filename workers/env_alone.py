"""The learner's side of rows, and commands to one env alone: to bring back the envs of a new worker."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np

from workers.arrays import Array, Floats, Ids
from workers.env_call import EnvCall, results_of
from workers.env_calls import change_request
from workers.errors import ProtocolError
from workers.final_infos import UNSAID
from workers.frames import ROW_DTYPE, SEED_DTYPE, Kind, pack_rows, unpack_rows
from workers.pool import LOST
from workers.slab import SlabLayout
from workers.worker_handle import WorkerHandle

_PIECE = 256  # steps or calls that are repeated within the time of one answer


class RowExchange:
    """The rows of all N envs, and how they travel where no memory is shared.

    Args:
        layout: of the rows.

    Attributes:
        slab: the rows.
    """

    def __init__(self, layout: SlabLayout) -> None:
        self.slab = layout.attach()
        self._command_arrays = layout.command_arrays(self.slab)
        self._answer_arrays = layout.answer_arrays(self.slab)
        self._end_arrays = layout.end_arrays(self.slab)
        self._restart_arrays = layout.restart_arrays(self.slab)
        self._answer_bytes = sum(array[0].nbytes for array in self._answer_arrays)

    def pack_actions(self, env_ids: Ids) -> bytes:
        """The actions that a command carries: none if they lie in shared memory."""
        return pack_rows(self._command_arrays, env_ids)

    def unpack(self, env_ids: Ids, payload: bytes, restarts: bool) -> None:
        """Write an answer into the rows of its envs.

        Args:
            env_ids: i64[G].
            payload: of a ROWS frame.
            restarts: whether envs whose episode has ended have started the next one.

        Raises:
            ProtocolError: the payload has another length.
        """
        of_ends = (*self._end_arrays, *self._restart_arrays) if restarts else self._end_arrays
        if not of_ends:
            unpack_rows(self._answer_arrays, env_ids, payload)
            return
        size = len(env_ids) * self._answer_bytes
        unpack_rows(self._answer_arrays, env_ids, payload[:size])
        ended = env_ids[self.slab.flags[env_ids] != 0]
        unpack_rows(of_ends, ended, payload[size:])

    def unpack_replay(self, env: int, payload: bytes) -> Floats:
        """Write the answer to a REPLAY frame into the env's row; the rewards f32[T] of its steps.

        Raises:
            ProtocolError: the payload has another length.
        """
        size = len(payload) - self._answer_bytes
        if size < 0 or size % 4:
            raise ProtocolError(f"payload of {len(payload)} bytes is no replay")
        unpack_rows(self._answer_arrays, np.array([env]), payload[size:])
        return np.frombuffer(payload, np.float32, size // 4)


class EnvAlone:
    """Commands to one env whose worker has no command open. Answers lie in the env's row.

    Each raises `WorkerError` if the worker dies, hangs, or reports that the env failed.

    Args:
        env: its index.
        handle: of its worker.
        rows: of all envs.
        timeout: seconds for each answer.
    """

    def __init__(self, env: int, handle: WorkerHandle, rows: RowExchange, timeout: float) -> None:
        self._env = env
        self._ids = np.array([env])
        self._row_index = [env - handle.envs.start]
        self._row = np.array(self._row_index, ROW_DTYPE).tobytes()
        self._handle = handle
        self._rows = rows
        self._timeout = timeout

    @property
    def obs(self) -> Array:
        """[*O], what it shows; a view."""
        row: Array = self._rows.slab.obs[self._env, ...]
        return row

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._ask(Kind.RESET, np.array([seed], SEED_DTYPE).tobytes(), restarts=False)

    def step(self, action: Array, next_seed: int | None = None) -> None:
        """Take one step with `action` [*A]; with `next_seed`, an ended episode is followed by the next."""
        self._rows.slab.action[self._env] = action
        actions = self._rows.pack_actions(self._ids)
        if next_seed is None:
            self._ask(Kind.STEP, actions, restarts=False)
        else:
            seed = np.array([next_seed], SEED_DTYPE).tobytes()
            self._ask(Kind.STEP_AUTORESET, seed + actions, restarts=True)

    def change(self, calls: Sequence[EnvCall]) -> None:
        """Make calls in the env.

        Raises:
            EnvCallError: it raised.
        """
        for start in range(0, len(calls), _PIECE):
            request = change_request(self._row_index, calls[start : start + _PIECE])
            answer = self._handle.ask(Kind.REQUEST, request, self._timeout)
            try:
                results_of(answer)
            except pickle.UnpicklingError as error:
                raise self._handle.protocol_violation(ProtocolError(str(error))) from error

    def repeat(self, actions: Array) -> Floats:
        """Repeat the actions [T, *A] of an episode, without a message per step.

        Returns:
            Their rewards, f32[T]; fewer if the episode has ended on the way.
        """
        rewards = [np.zeros(0, np.float32)]
        for start in range(0, len(actions), _PIECE):
            piece = actions[start : start + _PIECE]
            payload = self._handle.ask(Kind.REPLAY, self._row + piece.tobytes(), self._timeout)
            try:
                rewards.append(self._rows.unpack_replay(self._env, payload))
            except ProtocolError as error:
                raise self._handle.protocol_violation(error) from error
            if self._rows.slab.flags[self._env]:
                break
        return np.concatenate(rewards)

    def repeat_with(self, actions: Array, calls: Sequence[EnvCall], at: Sequence[int]) -> Floats:
        """As `repeat`, with calls between the steps.

        Args:
            actions: [T, *A].
            calls: to make.
            at: of each, the steps that come before it; not descending.
        """
        rewards = [np.zeros(0, np.float32)]
        begin, goes_on = 0, True
        for call, stop in zip(calls, at, strict=True):
            if goes_on:
                rewards.append(self.repeat(actions[begin:stop]))
                goes_on = len(rewards[-1]) == stop - begin
            self.change([call])
            begin = stop
        return np.concatenate([*rewards, self.repeat(actions[begin:])] if goes_on else rewards)

    def lose(self, last_obs: Array, next_seed: int | None) -> None:
        """Answer a step for it: its episode was lost when it showed `last_obs` [*O].

        Args:
            last_obs: what the learner has seen of it.
            next_seed: of its next episode, which begins now if it is given.
        """
        slab = self._rows.slab
        if next_seed is not None:
            self.reset(next_seed)
            slab.next_obs[self._env] = slab.obs[self._env]
        slab.obs[self._env] = last_obs
        slab.reward[self._env] = 0.0
        slab.flags[self._env] = LOST
        slab.final_info[self._env] = UNSAID

    def _ask(self, kind: Kind, arguments: bytes, restarts: bool) -> None:
        payload = self._handle.ask(kind, self._row + arguments, self._timeout)
        try:
            self._rows.unpack(self._ids, payload, restarts)
        except ProtocolError as error:
            raise self._handle.protocol_violation(error) from error
