"""Frames over one pipe, without a call that could block for ever.

`Connection.poll` is true as soon as one byte is there, so `poll` then `recv` may hang on half a frame. Both
ends here read and write the pipe's descriptor without blocking and put frames together themselves.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from workers.errors import ProtocolError
from workers.frames import HEADER, MAX_PAYLOAD, Frame, Kind

_CHUNK = 1 << 16  # bytes; from 128 KB on, malloc would map and unmap the buffer at every read
_KINDS = {int(kind): kind for kind in Kind}
_SPIN = 200e-6  # seconds; a learner that takes longer is in its update, and needs the CPU
_CROWDED = 1.5e-3  # seconds without the CPU after which it counts as wanted by others
_CROWDED_FOR = 0.02  # seconds
_yield_cpu = getattr(os, "sched_yield", lambda: time.sleep(0.0))  # macOS has no sched_yield


class Waiter:
    """Waits for descriptors to become readable: looks again and again for a moment, then sleeps.

    To wake a process on an idle (virtual) CPU takes several times as long as a step of CartPole. Between
    two looks the CPU is given away, so this pays even with more processes than cores. But if it comes back
    late, somebody else wants this CPU for long: who spins then has used up its share when the answer comes,
    and waits for a whole time slice. So the waiter goes straight to sleep for a while.

    Args:
        spin: seconds to look before going to sleep.
    """

    def __init__(self, spin: float) -> None:
        self._spin = spin
        self._poller = select.poll()
        self._spin_again_at = 0.0

    def watch(self, fd: int) -> None:
        """Wait for this descriptor, too."""
        self._poller.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Do not wait for this descriptor any more."""
        self._poller.unregister(fd)

    def wait(self, timeout: float | None, spins: bool = True) -> list[tuple[int, int]]:
        """The descriptors that are readable, and their events: [] once `timeout` seconds have passed.

        Args:
            timeout: None waits for ever.
            spins: false goes to sleep at once, for what is sure to take long.
        """
        start = now = time.monotonic()
        while not (events := self._poller.poll(0)):
            if not spins or now - start >= self._spin or now < self._spin_again_at:
                return self._poller.poll(
                    None if timeout is None else max(0.0, timeout - now + start) * 1000.0
                )
            before = now
            _yield_cpu()
            now = time.monotonic()
            if now - before > _CROWDED:
                self._spin_again_at = now + _CROWDED_FOR
        return events


class Channel:
    """One end of a pipe.

    Args:
        connection: a duplex `multiprocessing` connection; the channel owns it from now on.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._fd = connection.fileno()
        os.set_blocking(self._fd, False)
        self._inbox = bytearray()
        self._waiter = Waiter(_SPIN)
        self._waiter.watch(self._fd)
        self.closed_by_peer = False

    def fileno(self) -> int:
        return self._fd

    def fill(self) -> None:
        """Read what has arrived, without waiting. Sets `closed_by_peer` at the end of the stream."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.closed_by_peer = not data
        self._inbox += data

    def next_frame(self) -> Frame | None:
        """The oldest complete frame that has been read, if there is one.

        Raises:
            ProtocolError: what was read is no frame.
        """
        if len(self._inbox) < HEADER.size:
            return None
        kind, incarnation, sequence, size = HEADER.unpack_from(self._inbox)
        known = _KINDS.get(kind)
        if size > MAX_PAYLOAD or known is None:
            raise ProtocolError(f"not a frame: kind {kind}, payload of {size} bytes")
        end = HEADER.size + size
        if len(self._inbox) < end:
            return None
        payload = bytes(self._inbox[HEADER.size : end])
        del self._inbox[:end]
        return Frame(known, incarnation, sequence, payload)

    def has_frame(self, kind: Kind) -> bool:
        """Whether a frame of this kind is among the complete ones that were read."""
        start = 0
        while len(self._inbox) >= start + HEADER.size:
            found, _, _, size = HEADER.unpack_from(self._inbox, start)
            start += HEADER.size + size
            if found == kind and len(self._inbox) >= start:
                return True
        return False

    def wait_frame(self, spins: bool = True) -> Frame | None:
        """The next frame, waiting as long as the peer lives; None once it has closed the pipe.

        For the child: its learner's death closes the pipe, so this needs no deadline.

        Args:
            spins: see `Waiter.wait`.
        """
        while True:
            frame = self.next_frame()
            if frame is not None:
                return frame
            if self.closed_by_peer:
                return None
            self._waiter.wait(None, spins)
            self.fill()

    def send(self, frame: Frame, timeout: float, while_blocked: Callable[[], None] | None = None) -> None:
        """Write a whole frame.

        Args:
            timeout: seconds.
            while_blocked: called each time the pipe is full, so that two peers that both write large
                frames do not wait for each other.

        Raises:
            TimeoutError: the peer did not read in time; the stream is of no use after that.
            ConnectionError: the peer has closed its end.
        """
        data = memoryview(frame.encode())
        deadline = 0.0
        while True:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            if not data:
                return
            now = time.monotonic()
            deadline = deadline or now + timeout
            if now >= deadline:
                raise TimeoutError(f"the peer did not read a frame within {timeout:g} s")
            if while_blocked is not None:
                while_blocked()
            self._wait_writable(min(deadline - now, 0.05), or_readable=while_blocked is not None)

    def _wait_writable(self, timeout: float, or_readable: bool) -> None:
        # Not `select.select`: it does not take descriptors from 1024 on.
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT | (select.POLLIN if or_readable else 0))
        poller.poll(timeout * 1000.0)

    def close(self) -> None:
        self._connection.close()
