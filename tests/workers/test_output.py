"""What envs print in workers: each line once, whole, and not while all goes well at the start."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import Lives, factory_of

from workers import output
from workers.errors import WorkerDied, WorkerEnvFailed
from workers.output import Output
from workers.process_pool import ProcessPool
from workers.testing import FaultWrapper, ProbeEnv

pytestmark = pytest.mark.usefixtures("carried_by_value", "leaves_nothing")

IDS = np.arange(4)


class Talking(ProbeEnv):
    """Says hello when it is built, and in each step something that other envs say, too."""

    def __init__(self):
        super().__init__(shortest=100, longest=100)
        sys.stdout.write("hello\n")
        self._step = 0

    def step(self, action):
        self._step += 1
        sys.stdout.write(f"step {self._step}\n")
        os.write(2, b"from a library in C\n")
        if self._step == 2:
            subprocess.run(
                [sys.executable, "-S", "-c", "import os; os.write(1, b'from a program\\n')"], check=True
            )
        return super().step(action)


def play(build, steps, **options):
    shown = []
    with ProcessPool(factory_of(build), 4, 2, on_output=shown.append, **options) as pool:
        pool.reset(IDS, IDS)
        pool.recv()
        for _ in range(steps):
            pool.send(IDS, IDS)
            pool.recv()
    return shown


def test_each_line_is_shown_once_and_greetings_are_not(capfd):
    assert sorted(play(Talking, 3)) == [
        "from a library in C", "from a program", "step 1", "step 2", "step 3"
    ]  # fmt: skip
    assert capfd.readouterr() == ("", "")


def test_a_start_that_fails_shows_what_was_said():
    shown = []

    def build():
        sys.stdout.write("no license found\n")
        return FaultWrapper(ProbeEnv(), "os_exit", stage="init")

    with pytest.raises(WorkerDied):
        ProcessPool(factory_of(build), 4, 2, on_output=shown.append)
    assert shown == ["no license found"]


def test_what_was_said_before_a_failure_is_shown():
    shown = []

    def build():
        return FaultWrapper(Talking(), "raise", at_step=2)

    with ProcessPool(factory_of(build), 4, 2, on_output=shown.append) as pool:
        pool.reset(IDS, IDS)
        pool.recv()
        pool.send(IDS, IDS)
        pool.recv()
        pool.send(IDS, IDS)
        with pytest.raises(WorkerEnvFailed):
            pool.recv()
    assert "step 1" in shown


def test_by_default_it_goes_to_stderr(capfd):
    class Short(Talking):
        def step(self, action):
            sys.stdout.write("a step\n")
            return ProbeEnv.step(self, action)

    with ProcessPool(factory_of(Short), 4, 2) as pool:
        pool.reset(IDS, IDS)
        pool.recv()
        pool.send(IDS, IDS)
        pool.recv()
    assert capfd.readouterr() == ("", "a step\n")


@pytest.fixture
def shown():
    lines = []
    out = Output(lines.append)
    out.started()
    yield lambda text: os.write(out._write, text), out, lines
    out.close()


def test_lines_are_whole_and_the_last_of_what_a_bar_has_written_counts(shown):
    write, out, lines = shown
    for piece in (b"one li", b"ne\n\n", b"10 %\r20 %\r30 %\n", b"windows\r\n", b"\xff\n", b"no end"):
        write(piece)
    out.close()
    assert lines == ["one line", "30 %", "windows", "\ufffd", "no end"]


def test_a_line_without_end_and_lines_without_end_are_bounded(shown, monkeypatch):
    write, out, lines = shown
    monkeypatch.setattr(output, "_DIFFERENT", 3)
    write(b"x" * (output._LONGEST + 1))
    for number in range(10):
        write(b"\n%d\n" % number)
    out.close()
    assert len(lines[0]) == output._LONGEST + 1
    assert lines[1:] == ["0", "1", output._ENOUGH]


def test_a_process_that_has_run_away_holds_nobody_up(tmp_path):
    """It still has the pipe; the thread ends all the same (see `leaves_nothing`)."""
    pids = tmp_path / "pids"

    class Escaping(ProbeEnv):
        def __init__(self):
            super().__init__()
            program = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
            process = subprocess.Popen(program, start_new_session=True, env={})
            pids.write_text(str(process.pid))
            process.returncode = 0

    with ProcessPool(factory_of(Escaping), 1, 1):
        pid = int(pids.read_text())
    with Lives([pid]) as lives:
        assert lives.alive_after(0.0) == {pid}  # with an empty environment, it is out of reach
        os.kill(pid, 9)
        assert not lives.alive_after(5.0)
