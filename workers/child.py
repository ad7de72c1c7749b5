"""The main loop of a worker process. Must stay free of torch: it would cost 0.9 s and 150 MB per worker."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cloudpickle
import numpy as np

from workers.arrays import Array
from workers.block import EnvBlock
from workers.block_pool import BlockPool
from workers.channel import Channel
from workers.envs import EnvFactory
from workers.errors import EnvFailure, describe, one_line
from workers.failed_episode import encode
from workers.frames import ROW_BYTES, ROW_DTYPE, SEED_BYTES, SEED_DTYPE, Frame, Kind, pack_rows, unpack_rows
from workers.guest import Guest
from workers.requests import RequestServer
from workers.shared_memory import SharedBytes
from workers.slab import SlabLayout

_BEAT = 0.2  # seconds from one sign of life to the next in a call; a fraction of what `close` waits for
_PIECE = 16 << 20  # bytes of an answer in one frame
_ANSWER_TIMEOUT = 3600.0  # seconds; a learner that is stopped in a debugger may take long to read


@dataclass(frozen=True)
class Hosted:
    """What every worker of a pool hosts.

    Attributes:
        factory: a cloudpickled `EnvFactory`.
        layout: where the rows of all N envs lie.
        guest: a cloudpickled function that makes the guest; None for no guest (see `workers.guest`).
        memory: shared with the guest; None if nothing is shared.
    """

    factory: bytes
    layout: SlabLayout
    guest: bytes | None = None
    memory: SharedBytes | None = None


def main(
    connection: Connection,
    hosted: Hosted,
    envs: tuple[int, int],
    incarnation: int,
) -> None:
    """Host the envs `start..stop-1` until the learner says CLOSE or is gone.

    Args:
        connection: this end of the pipe.
        hosted: envs, rows and guest.
        envs: start and stop.
        incarnation: how often this worker was started before; returned in every frame.
    """
    channel = Channel(connection)
    sequence, spins = 0, True
    server: _Server | None = None

    def on_built(built: int) -> None:
        if built < envs[1] - envs[0]:  # READY tells of the last one
            channel.send(Frame(Kind.PROGRESS, incarnation, 0), _ANSWER_TIMEOUT)

    try:
        server = _Server(hosted, envs, on_built)
        channel.send(Frame(Kind.READY, incarnation, 0), _ANSWER_TIMEOUT)
        while (frame := channel.wait_frame(spins)) is not None and frame.kind is not Kind.CLOSE:
            sequence = frame.sequence
            spins = frame.kind is not Kind.CALL  # after a call comes the learner's update, which needs a core
            if frame.kind is Kind.CALL:
                _Call(server, channel, frame).run()
                continue
            if frame.kind is Kind.REQUEST:
                result = server.requests.answer(frame.payload)
                channel.send(Frame(Kind.RESULT, incarnation, sequence, result), _ANSWER_TIMEOUT)
                continue
            answer = server.answer(frame.kind, frame.payload)
            channel.send(Frame(Kind.ROWS, incarnation, sequence, answer), _ANSWER_TIMEOUT)
    except _Dismissed:
        pass
    except BaseException as error:  # SystemExit and KeyboardInterrupt of an env must reach the user as well
        _report(channel, incarnation, sequence, error)
        raise SystemExit(1) from None
    finally:
        if server is not None:
            server.block.close()


class _Dismissed(BaseException):
    """The learner needs the answer to a call no more: it closes the pool, or is gone."""


class _Call:
    """One call to the guest.

    Between two steps it tells the learner from time to time that it is alive, and looks whether its answer is
    still wanted: a round may last long.

    Args:
        server: has the guest.
        channel: to the learner.
        frame: the call.
    """

    def __init__(self, server: _Server, channel: Channel, frame: Frame) -> None:
        self._server = server
        self._channel = channel
        self._frame = frame
        self._next_beat = time.monotonic() + _BEAT

    def run(self) -> None:
        """Answer it."""
        pool = BlockPool(self._server.block, self._server.slab, self._server.first_env, self._beat)
        assert self._server.guest is not None, "only a pool with guests makes calls"
        answer = self._server.guest.call(self._frame.payload, pool, lambda news: self._send(Kind.NEWS, news))
        view = memoryview(answer)
        while len(view) > _PIECE:
            self._send(Kind.PART, bytes(view[:_PIECE]))
            view = view[_PIECE:]
        self._send(Kind.RESULT, bytes(view))

    def _send(self, kind: Kind, payload: bytes) -> None:
        frame = Frame(kind, self._frame.incarnation, self._frame.sequence, payload)
        self._channel.send(frame, _ANSWER_TIMEOUT)

    def _beat(self) -> None:
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + _BEAT
        self._channel.fill()
        if self._channel.closed_by_peer or self._channel.has_frame(Kind.CLOSE):
            raise _Dismissed
        self._send(Kind.NEWS, b"")


class _Server:
    """Answers commands: bytes in, bytes out."""

    def __init__(self, hosted: Hosted, envs: tuple[int, int], on_built: Callable[[int], None]) -> None:
        start, stop = envs
        layout = hosted.layout
        self.first_env = start
        self.slab = layout.attach(start, stop)
        self._command_arrays = layout.command_arrays(self.slab)
        self._action_bytes = sum(array[0].nbytes for array in self._command_arrays)
        self._answer_arrays = layout.answer_arrays(self.slab)
        self._end_arrays = layout.end_arrays(self.slab)
        self._restart_arrays = layout.restart_arrays(self.slab)
        factory: EnvFactory = cloudpickle.loads(hosted.factory)
        self.block = EnvBlock(factory, start, self.slab, on_built=on_built)
        self.requests = RequestServer(self.block, self.slab, layout.shared)
        self.guest: Guest | None = None
        if hosted.guest is not None:
            make = cloudpickle.loads(hosted.guest)
            self.guest = make(None if hosted.memory is None else hosted.memory.attach())

    def answer(self, kind: Kind, payload: bytes) -> bytes:
        """Carry out RESET, STEP, STEP_AUTORESET or REPLAY; the payload of the answer."""
        if kind is Kind.REPLAY:
            return self._repeat(payload)
        rows, seeds, rest = self._arguments(kind, payload)
        listed = rows.tolist()
        if kind is Kind.RESET:
            self.block.reset(listed, seeds)
            return pack_rows(self._answer_arrays, rows)
        if self._command_arrays:
            unpack_rows(self._command_arrays, rows, rest)
        self.block.step(listed, seeds if kind is Kind.STEP_AUTORESET else None)
        answer = pack_rows(self._answer_arrays, rows)
        of_ends = self._end_arrays
        if kind is Kind.STEP_AUTORESET:
            of_ends = (*of_ends, *self._restart_arrays)
        if of_ends:
            answer += pack_rows(of_ends, rows[self.slab.flags[rows] != 0])
        return answer

    def _repeat(self, payload: bytes) -> bytes:
        (row,) = np.frombuffer(payload, ROW_DTYPE, 1).tolist()
        target = self.slab.action[row, ...]
        actions = np.frombuffer(payload, target.dtype, offset=ROW_BYTES).reshape(-1, *target.shape)
        rewards = []
        for action in actions:
            self.slab.action[row] = action
            self.block.step([row])
            rewards.append(self.slab.reward[row])
            if self.slab.flags[row]:
                break
        return np.array(rewards, np.float32).tobytes() + pack_rows(self._answer_arrays, np.array([row]))

    def _arguments(self, kind: Kind, payload: bytes) -> tuple[Array, list[int], memoryview]:
        """Rows i32[G], seeds (one per row, or none), and the bytes of the actions."""
        seed_bytes = 0 if kind is Kind.STEP else SEED_BYTES
        action_bytes = 0 if kind is Kind.RESET else self._action_bytes
        count = len(payload) // (ROW_BYTES + seed_bytes + action_bytes)
        rows = np.frombuffer(payload, ROW_DTYPE, count)
        seeds = np.frombuffer(payload, SEED_DTYPE, count if seed_bytes else 0, count * ROW_BYTES)
        return rows, seeds.tolist(), memoryview(payload)[count * (ROW_BYTES + seed_bytes) :]


def _report(channel: Channel, incarnation: int, sequence: int, error: BaseException) -> None:
    """Tell the learner in text: an exception object may not be picklable, text always is."""
    if isinstance(error, EnvFailure):
        summary, text, failed = one_line(error), error.traceback, error.episode
    else:  # the text of other errors means little without their names ("3", "'x'")
        summary, text, failed = describe(error), "".join(traceback.format_exception(error)), None
    texts = (each.replace("\0", "\\0").encode(errors="replace") for each in (summary, text))
    payload = b"\0".join([*texts, encode(failed)])
    try:
        channel.send(Frame(Kind.ERROR, incarnation, sequence, payload), timeout=5.0)
    except OSError:  # the learner is gone; its own end is all there is to do
        pass
