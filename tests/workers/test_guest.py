"""Guests in workers: calls, news, answers in pieces, and what happens to those that fail."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from helpers import AT_ONCE, Expected, Fifo, Lives, factory_of, faulty

from workers import child
from workers.channel import Channel
from workers.child import _Call, _Dismissed
from workers.envs import env_factory
from workers.errors import ProtocolError, WorkerDied, WorkerEnvFailed, WorkerTimeout
from workers.frames import Frame, Kind
from workers.guest import Invitation
from workers.process_pool import ProcessPool
from workers.slab import SlabLayout
from workers.testing import ProbeEnv, probe_obs

pytestmark = pytest.mark.usefixtures("carried_by_value", "leaves_nothing")

TRANSPORTS = ("shared", "pipe")
SEEDS = (50, 51, 52, 53)


class Guest:
    """Does what a request says."""

    def __init__(self, memory):
        self._memory = memory

    def call(self, request, pool, tell):
        verb, _, rest = request.partition(b" ")
        return getattr(self, verb.decode())(rest, pool, tell)

    def echo(self, rest, pool, tell):
        return rest

    def tell(self, rest, pool, tell):
        for word in rest.split():
            tell(word)
        return b"told"

    def memory(self, rest, pool, tell):
        return b"none" if self._memory is None else bytes(self._memory[: int(rest)])

    def pid(self, rest, pool, tell):
        return str(os.getpid()).encode()

    def play(self, rest, pool, tell):
        """So many steps of given envs; what they show in the end."""
        steps, *envs = map(int, rest.split())
        env_ids = np.array(envs)
        pool.reset(env_ids, [SEEDS[env] for env in envs])
        batch = pool.recv()
        for _ in range(steps):
            pool.send(env_ids, env_ids % 5)
            batch = pool.recv()
        assert batch.env_ids.tolist() == envs
        return batch.obs.tobytes()

    def fail(self, rest, pool, tell):
        raise ValueError(rest.decode())


def pool_of(factory=None, *, num_envs=4, invitation=None, **options):
    """Envs 0 and 1 in worker 0, 2 and 3 in worker 1."""
    return ProcessPool(
        env_factory(ProbeEnv) if factory is None else factory,
        num_envs,
        2,
        invitation=invitation or Invitation(Guest, 64),
        **{"step_timeout": 20.0} | options,
    )


def ask(pool, worker, request):
    """The answer, and what was told before it."""
    news = []
    pool.call(worker, request)
    answered, answer = pool.take_answer(lambda source, text: news.append((source, text)))
    assert answered == worker
    return answer, news


# ---- calls and answers


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_calls_are_answered_by_the_worker_that_was_called(transport):
    with pool_of(transport=transport) as pool:
        for worker in (1, 0, 1):
            answer, news = ask(pool, worker, b"pid")
            assert (int(answer), news) == (pool.worker_pids[worker], [])


def test_open_calls_of_one_worker_are_answered_in_their_order():
    with pool_of() as pool:
        for number in range(4):
            for worker in (0, 1):
                pool.call(worker, f"echo {worker} {number}".encode())
        answers = [pool.take_answer(lambda *news: None) for _ in range(8)]
    for worker in (0, 1):
        assert [text for source, text in answers if source == worker] == [
            f"{worker} {number}".encode() for number in range(4)
        ]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_guest_plays_in_the_envs_of_its_worker_by_their_ids_in_the_whole_pool(transport):
    with pool_of(transport=transport) as pool:
        for worker, envs in ((0, (0, 1)), (1, (2, 3)), (1, (3,))):
            answer, _ = ask(pool, worker, f"play 2 {' '.join(map(str, envs))}".encode())
            wanted = [probe_obs(SEEDS[env], [env % 5] * 2) for env in envs]
            np.testing.assert_array_equal(np.frombuffer(answer, np.float32).reshape(-1, 8), wanted)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_between_calls_the_pool_is_the_learners(transport):
    """Envs go on where the guest has left them."""
    expected = Expected(4)
    ids = np.arange(4)
    with pool_of(transport=transport) as pool:
        ask(pool, 0, b"play 1 0 1")
        pool.reset(ids, SEEDS)
        expected.check_reset(pool.recv(), ids, SEEDS)
        ask(pool, 1, b"echo hello")
        pool.send(ids, ids % 5)
        expected.check_step(pool.recv(), ids, ids % 5)


def test_news_come_before_the_answer_and_in_their_order():
    with pool_of() as pool:
        assert ask(pool, 1, b"tell one two three") == (b"told", [(1, b"one"), (1, b"two"), (1, b"three")])
        assert ask(pool, 0, b"tell four") == (b"told", [(0, b"four")])


def test_what_the_learner_writes_into_the_shared_memory_is_what_guests_read():
    with pool_of(transport="shared") as pool:
        for text in (b"first", b"other"):
            pool.guest_memory[:5] = np.frombuffer(text, np.uint8)
            assert [ask(pool, worker, b"memory 5")[0] for worker in (0, 1)] == [text] * 2
        assert len(pool.guest_memory) == 64


def test_over_a_pipe_there_is_no_shared_memory():
    with pool_of(transport="pipe") as pool:
        assert pool.guest_memory is None
        assert ask(pool, 0, b"memory 5")[0] == b"none"


def test_an_answer_in_pieces_is_put_together():
    def small():
        child._PIECE = 64  # in the worker
        return ProbeEnv()

    text = bytes(range(256)) * 4
    with pool_of(factory_of(small)) as pool:
        for size in (1000, 0, 1, 63, 64, 65, 128, 129):  # and no piece is left of the one before
            assert ask(pool, 0, b"echo " + text[:size])[0] == text[:size]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_answer_may_be_larger_than_a_pipe(transport):
    text = np.random.default_rng(0).bytes(3 << 20)
    with pool_of(transport=transport) as pool:
        assert ask(pool, 1, b"echo " + text)[0] == text


# ---- a call by itself


class Pipe:
    """What a `_Call` needs of a channel."""

    def __init__(self, waiting=(), closed_by_peer=False):
        self.sent, self.waiting, self.closed_by_peer, self.filled = [], waiting, closed_by_peer, 0

    def send(self, frame, timeout):
        self.sent.append(frame)

    def fill(self):
        self.filled += 1

    def has_frame(self, kind):
        return kind in self.waiting


class Server:
    block, slab, first_env = None, SlabLayout(Discrete(2), Discrete(2), 2).attach(), 0

    def __init__(self, call):
        self.guest = type("Guest", (), {"call": staticmethod(call)})


def call_of(guest, channel, monkeypatch, now=lambda: 0.0):
    monkeypatch.setattr("workers.child.time.monotonic", now)
    return _Call(Server(guest), channel, Frame(Kind.CALL, 3, 7, b"request"))


@pytest.mark.parametrize(("size", "pieces"), [(0, 0), (10, 0), (11, 1), (20, 1), (21, 2), (40, 3)])
def test_only_long_answers_come_in_pieces(size, pieces, monkeypatch):
    monkeypatch.setattr(child, "_PIECE", 10)
    channel, answer = Pipe(), bytes(range(size))
    call_of(lambda request, pool, tell: answer, channel, monkeypatch).run()
    assert [frame.kind for frame in channel.sent] == [Kind.PART] * pieces + [Kind.RESULT]
    assert b"".join(frame.payload for frame in channel.sent) == answer
    assert {(frame.incarnation, frame.sequence) for frame in channel.sent} == {(3, 7)}
    assert all(len(frame.payload) <= 10 for frame in channel.sent)


def test_signs_of_life_come_from_time_to_time_however_many_steps_there_are(monkeypatch):
    times = iter(np.arange(0.0, 100.0, 0.01).tolist())
    channel = Pipe()

    def play(request, pool, tell):
        for _ in range(100):
            pool._after_step()
        return b""

    call_of(play, channel, monkeypatch, lambda: next(times)).run()
    beats = [frame for frame in channel.sent if frame.kind is Kind.NEWS]
    assert all(frame.payload == b"" for frame in beats)
    assert len(beats) == channel.filled
    assert 3 <= len(beats) <= 5  # in about a second


@pytest.mark.parametrize("why", [{"waiting": [Kind.CLOSE]}, {"closed_by_peer": True}])
def test_a_call_whose_answer_nobody_wants_ends_with_the_next_step(why, monkeypatch):
    times = iter([0.0, 1.0, 1.0])

    def play(request, pool, tell):
        pool._after_step()
        pytest.fail("goes on playing")

    channel = Pipe(**why)
    with pytest.raises(_Dismissed):
        call_of(play, channel, monkeypatch, lambda: next(times)).run()
    assert channel.sent == []


class Dawdling(ProbeEnv):
    """Takes its time, and its episodes hardly end."""

    def __init__(self):
        super().__init__(longest=10**9, shortest=10**8)

    def step(self, action):
        self._actions.clear()
        threading.Event().wait(0.02)
        return super().step(action)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_worker_that_makes_steps_is_alive_however_long_its_call_takes(transport):
    with pool_of(factory_of(Dawdling), transport=transport, step_timeout=0.5) as pool:
        start = time.monotonic()
        ask(pool, 0, b"play 40 0")
        assert time.monotonic() - start > 0.8


# ---- faults


@pytest.mark.parametrize(
    ("fault", "kind", "message", "traceback", "transport"),
    [
        ("raise", WorkerEnvFailed, r"env 1, .*ValueError: boom", "ValueError: boom", "shared"),
        ("raise_awkward", WorkerEnvFailed, r"env 1, .*left and right", "AwkwardError: left", "pipe"),
        ("os_exit", WorkerDied, r"died with exit code 7 during 'play'", "", "pipe"),
        ("sigkill", WorkerDied, r"died with signal SIGKILL during 'play'", "", "shared"),
    ],
)
def test_a_worker_that_breaks_in_a_call(fault, kind, message, traceback, transport):
    with pool_of(faulty(fault, at_step=2, seed=SEEDS[1]), transport=transport) as pool:
        pool.call(0, b"play 3 0 1")
        start = time.monotonic()
        with pytest.raises(kind, match=message) as caught:
            pool.take_answer(lambda *news: None)
        assert time.monotonic() - start < AT_ONCE
    assert (caught.value.worker, caught.value.env_ids) == (0, (0, 1))
    assert caught.value.last_command == "play"
    assert traceback in caught.value.traceback
    assert bool(traceback) == bool(caught.value.traceback)


def test_a_guest_that_raises_is_reported_with_its_traceback():
    with pool_of() as pool, pytest.raises(WorkerEnvFailed, match="ValueError: oh dear") as caught:
        ask(pool, 1, b"fail oh dear")
    assert "in fail" in caught.value.traceback


@pytest.mark.parametrize("fault", ["hang", "hang_gil", "sigstop"])
def test_a_worker_that_hangs_in_a_call_is_killed_at_the_deadline(fault):
    with pool_of(faulty(fault, at_step=2, seed=SEEDS[3]), step_timeout=0.5) as pool:
        pool.call(1, b"play 3 2 3")
        start = time.monotonic()
        with pytest.raises(
            WorkerTimeout, match=r"did not answer 'play' within 0.5 s and was killed"
        ) as caught:
            pool.take_answer(lambda *news: None)
        assert 0.5 <= time.monotonic() - start < AT_ONCE
    assert caught.value.worker == 1
    assert caught.value.exitcode == -signal.SIGKILL


def test_an_idle_worker_hangs_nobody():
    """Only those with open calls are waited for."""
    with pool_of(faulty("slow", at_step=1), step_timeout=0.5) as pool:
        start = time.monotonic()
        for _ in range(2):
            assert len(ask(pool, 0, b"play 1 0")[0]) == 32
        assert time.monotonic() - start > 0.5


def test_a_worker_that_is_killed_while_the_learner_waits_for_its_answer(tmp_path):
    killed_at = []

    def kill(fifo):
        (pid,) = fifo.pids(1)
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    with Fifo(tmp_path) as fifo, pool_of(faulty("hang", seed=SEEDS[0], announce=fifo.path)) as pool:
        killer = threading.Thread(target=kill, args=(fifo,))
        killer.start()
        pool.call(0, b"play 1 0 1")
        with pytest.raises(WorkerDied, match="signal SIGKILL during 'play'"):
            pool.take_answer(lambda *news: None)
        assert time.monotonic() - killed_at[0] < AT_ONCE
        killer.join()


def test_news_that_make_no_sense_are_the_fault_of_the_worker():
    def refuse(worker, news):
        raise ProtocolError(f"not news: {news!r}")

    with pool_of() as pool:
        pool.call(1, b"tell nonsense")
        with pytest.raises(WorkerDied, match=r"worker 1 .*bytes that make no sense: not news: b'nonsense'"):
            pool.take_answer(refuse)


def test_an_answer_that_nobody_asked_for():
    with pool_of() as pool, pytest.raises(RuntimeError, match="take_answer without an open call"):
        pool.take_answer(lambda *news: None)


# ---- the end


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_pool_is_closed_in_the_middle_of_a_call(transport):
    """Between two steps the worker looks whether its answer is still wanted."""
    pool = pool_of(factory_of(Dawdling), transport=transport, close_timeout=20.0)
    with Lives(pool.worker_pids) as workers:
        for worker in (0, 1):
            pool.call(worker, f"play 1000000 {2 * worker}".encode())
        start = time.monotonic()
        pool.close()
        assert time.monotonic() - start < AT_ONCE  # well before workers that do not end are killed
        assert not workers.alive_after(0.0)
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.call(0, b"echo")


def test_a_call_that_hangs_does_not_keep_a_pool_from_closing():
    pool = pool_of(faulty("hang_gil", seed=SEEDS[0]))
    with Lives(pool.worker_pids) as workers:
        pool.call(0, b"play 1 0 1")
        start = time.monotonic()
        pool.close()
        assert time.monotonic() - start < 2.0 + AT_ONCE
        assert not workers.alive_after(0.0)


def test_frames_of_a_call_are_looked_at_without_being_taken():
    """So that a close in mid-call is seen, and the commands before it are still carried out."""
    ours, theirs = multiprocessing.Pipe()
    here, there = Channel(ours), Channel(theirs)
    try:
        here.send(Frame(Kind.CALL, 0, 1, b"x"), 1.0)
        here.send(Frame(Kind.CLOSE, 0, 2), 1.0)
        while not there.has_frame(Kind.CLOSE):
            there.fill()
        assert there.next_frame().kind is Kind.CALL
        assert there.next_frame().kind is Kind.CLOSE
    finally:
        here.close()
        there.close()
