import multiprocessing
import os
import resource
import socket
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest
from helpers import AT_ONCE

from workers.channel import Channel
from workers.errors import ProtocolError
from workers.frames import HEADER, MAX_PAYLOAD, Frame, Kind

pytestmark = pytest.mark.usefixtures("leaves_nothing")


@pytest.fixture
def pair():
    left, right = (Channel(connection) for connection in multiprocessing.Pipe(duplex=True))
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw():
    """A channel, and a way to write bytes to it as they are."""
    ours, theirs = multiprocessing.Pipe(duplex=True)
    channel = Channel(ours)
    yield channel, lambda data: os.write(theirs.fileno(), data)
    channel.close()
    theirs.close()


def payload_of(size):
    return np.random.default_rng(0).bytes(size)


def receive(channel, seconds=10.0):
    """`wait_frame` with a deadline: in a thread, as it has none of its own."""
    frames = []
    thread = threading.Thread(target=lambda: frames.append(channel.wait_frame()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert frames, "no frame came"
    return frames[0]


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.RESET, 0, 1, b"abc"),
        Frame(Kind.CLOSE, 2**32 - 1, 2**32 - 1),
        Frame(Kind.ERROR, 3, 4, payload_of(100_000)),
    ],
    ids=["small", "empty", "large"],
)
def test_a_frame_arrives_as_it_was_sent(pair, frame):
    left, right = pair
    left.send(frame, 10.0)
    assert receive(right) == frame


def test_frames_keep_their_order_and_limits(pair):
    left, right = pair
    frames = [Frame(Kind.STEP, 1, n, payload_of(n)) for n in range(50)]
    for frame in frames:
        left.send(frame, 10.0)
    right.fill()
    assert [right.next_frame() for _ in frames] == frames
    assert right.next_frame() is None


def test_a_frame_that_comes_byte_by_byte(raw):
    channel, write = raw
    frame = Frame(Kind.ROWS, 5, 6, b"payload")
    encoded = frame.encode()
    for n in range(len(encoded)):
        assert channel.next_frame() is None, f"a frame of {n} bytes"
        write(encoded[n : n + 1])
        channel.fill()
    assert channel.next_frame() == frame


def test_filling_does_not_wait(raw):
    channel, _ = raw
    channel.fill()
    assert channel.next_frame() is None
    assert not channel.closed_by_peer


@pytest.mark.parametrize(
    "header", [(0, 0, 0, 0), (99, 0, 0, 0), (255, 0, 0, 0), (Kind.ROWS, 0, 0, MAX_PAYLOAD + 1)]
)
def test_what_is_no_frame_is_refused_as_soon_as_the_header_is_there(raw, header):
    channel, write = raw
    write(HEADER.pack(*header))
    channel.fill()
    with pytest.raises(ProtocolError, match="not a frame"):
        channel.next_frame()


def test_a_peer_that_closes(pair):
    left, right = pair
    left.send(Frame(Kind.READY, 0, 0), 1.0)
    left.close()
    assert receive(right) == Frame(Kind.READY, 0, 0)  # what it wrote before is not lost
    assert receive(right) is None
    assert right.closed_by_peer
    with pytest.raises(ConnectionError):
        right.send(Frame(Kind.READY, 0, 0), 1.0)


def test_a_peer_that_closes_within_a_frame(raw):
    channel, write = raw
    write(Frame(Kind.ROWS, 0, 1, b"payload").encode()[:-1])
    channel.fill()
    assert channel.next_frame() is None


def test_a_peer_that_ends_with_our_frame_unread():
    """The kernel then answers with a reset instead of an end of stream."""
    left, right = (Channel(connection) for connection in multiprocessing.Pipe(duplex=True))
    left.send(Frame(Kind.STEP, 0, 1), 1.0)
    right.send(Frame(Kind.ERROR, 0, 1, b"why"), 1.0)
    right.close()
    assert receive(left) == Frame(Kind.ERROR, 0, 1, b"why")
    assert receive(left) is None
    left.close()


def test_a_peer_that_does_not_read(pair):
    left, _ = pair
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0.2 s"):
        left.send(Frame(Kind.STEP, 0, 1, payload_of(4_000_000)), 0.2)
    assert 0.2 <= time.monotonic() - start < AT_ONCE


def test_two_peers_that_both_write_what_no_pipe_can_hold(pair):
    size = 8_000_000
    frames = [Frame(Kind.STEP, 0, n, payload_of(size + n)) for n in range(2)]
    received = [None, None]

    def exchange(end):
        pair[end].send(frames[end], 20.0, while_blocked=pair[end].fill)
        received[end] = pair[end].wait_frame()

    threads = [threading.Thread(target=exchange, args=(end,), daemon=True) for end in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert received == [frames[1], frames[0]]


def test_descriptors_above_1024():
    """`select.select` cannot take them; a learner with many workers and files open has them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= 2000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            with ours:
                high = os.dup2(ours.fileno(), 2000)
            with Connection(high) as connection, pytest.raises(TimeoutError):
                Channel(connection).send(Frame(Kind.STEP, 0, 1, payload_of(4_000_000)), 0.05)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
