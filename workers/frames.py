"""What travels between learner and workers: frames.

A frame is a fixed header (kind, incarnation, sequence number, payload length) and raw bytes. Nothing
that comes from a child is unpickled. Letters in shapes: N envs, G rows in one message, O observation
shape, A action shape.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workers.arrays import Array
from workers.errors import ProtocolError

HEADER = struct.Struct("<BIII")
MAX_PAYLOAD = 1 << 30
ROW_DTYPE = np.dtype(np.int32)
SEED_DTYPE = np.dtype(np.int64)
ROW_BYTES, SEED_BYTES = ROW_DTYPE.itemsize, SEED_DTYPE.itemsize


@enum.unique
class Kind(enum.IntEnum):
    """What a frame says."""

    # learner -> worker
    RESET = 1
    """Payload: rows i32[G], seeds i64[G]."""
    STEP = 2
    """Payload: rows i32[G], then the actions if they do not lie in shared memory."""
    STEP_AUTORESET = 7
    """As STEP, and an env whose episode ends starts the next one. Payload: rows, seeds i64[G], actions."""
    REPLAY = 14
    """One env repeats steps of its episode. Payload: its row i32, then the actions [T, *A]."""
    CALL = 9
    """Payload: a request to the worker's guest (see `workers.guest`)."""
    REQUEST = 13
    """Payload: a request of an adapter to the worker's envs (see `workers.requests`)."""
    CLOSE = 3
    # worker -> learner
    READY = 4
    """All envs of the worker are constructed."""
    PROGRESS = 8
    """One more env is constructed, and it is not the last."""
    ROWS = 5
    """Answer: flags u8[G], then, if not in shared memory, rewards and observations, and for STEP_AUTORESET
    the first observations of the envs whose episode has ended. To REPLAY: the rewards f32[T] of the steps,
    fewer if the episode has ended on the way, and then as to STEP."""
    NEWS = 10
    """What a guest tells in the middle of a call; empty if the worker only says that it is alive."""
    PART = 11
    """A piece of a guest's answer; more follows."""
    RESULT = 12
    """The last piece of a guest's answer, or the answer to a REQUEST."""
    ERROR = 6
    """Payload: the failure in one line and the traceback, as UTF-8, and the episode in which an env has
    failed (see `workers.failed_episode`), with zero bytes in between."""


class Frame(NamedTuple):
    """One message. `sequence` of an answer is that of the command it answers."""

    kind: Kind
    incarnation: int
    sequence: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Header and payload."""
        return HEADER.pack(self.kind, self.incarnation, self.sequence, len(self.payload)) + self.payload


def pack_rows(arrays: Sequence[Array], rows: Array) -> bytes:
    """The bytes of `rows` of each array, one array after the other."""
    return b"".join([array[rows].tobytes() for array in arrays])


def unpack_rows(arrays: Sequence[Array], rows: Array, payload: bytes | memoryview) -> None:
    """The inverse of `pack_rows`: writes into `rows` of each array.

    Raises:
        ProtocolError: the payload has another length.
    """
    offset = 0
    for array in arrays:
        end = offset + len(rows) * array[0].nbytes
        if end > len(payload):
            raise ProtocolError(f"payload of {len(payload)} bytes is too short for {len(rows)} rows")
        array[rows] = np.frombuffer(payload[offset:end], array.dtype).reshape(len(rows), *array.shape[1:])
        offset = end
    if offset != len(payload):
        raise ProtocolError(f"payload of {len(payload)} bytes, expected {offset}")
