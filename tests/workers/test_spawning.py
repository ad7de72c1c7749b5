"""Signals wait while processes are started and ended; who sends a second one does not want to wait."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from workers.spawning import signals_wait


class Arrived(Exception):
    pass


@pytest.fixture(autouse=True)
def _hangup_ends_a_process():
    """As it does, unless the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def handled():
    """The numbers of signals that were handled; each handling raises."""
    numbers = []

    def handle(signum, frame):
        numbers.append(signum)
        raise Arrived

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield numbers
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum):
    os.kill(os.getpid(), signum)


def test_a_signal_waits_for_the_end_of_the_outermost_block(handled):
    done = []

    def work():
        with signals_wait():
            with signals_wait():
                send(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(Arrived):
        work()
    assert done == ["inner", "outer"]
    assert handled == [signal.SIGTERM]


def test_it_comes_before_an_error_of_the_block(handled):
    def work():
        with signals_wait():
            send(signal.SIGINT)
            raise OSError

    with pytest.raises(Arrived):
        work()


def test_a_second_signal_does_not_wait(handled):
    done = []

    def work():
        with signals_wait():
            send(signal.SIGINT)
            done.append("one")
            send(signal.SIGTERM)
            done.append("two")

    with pytest.raises(Arrived):
        work()
    assert done == ["one"]
    assert handled == [signal.SIGINT, signal.SIGTERM]


def test_handlers_are_as_before(handled):
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with signals_wait():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL  # ends the process, as it always does
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert handled == []


def test_other_threads_have_nothing_to_wait_for():
    done = []

    def work():
        with signals_wait():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


def test_a_handler_that_ends_the_process_is_called_at_once():
    """As the second signal of a run does."""
    code = (
        "import os, signal\n"
        "from workers.spawning import signals_wait\n"
        "signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(7))\n"
        "with signals_wait():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still there', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, b"")
