"""What envs have started ends with the learner, SIGKILL included, and nobody else does."""

import os
import subprocess
import sys
import textwrap

import pytest
from helpers import Lives, run_python, script_environment

from workers import processes
from workers.reaper import Reaper

pytestmark = pytest.mark.usefixtures("leaves_nothing")

SLEEP = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


@pytest.fixture
def started():
    """Starts processes that wait, with a mark or none; they end with the test."""
    processes_ = []

    def start(mark=None, **options):
        environment = dict(os.environ)
        if mark is not None:
            environment["PRL_MARKS"] = f":another:{mark}"
        process = subprocess.Popen(SLEEP, env=environment, **options)
        processes_.append(process)
        return process

    yield start
    for process in processes_:
        process.kill()
        process.wait()


def test_only_what_wears_a_mark_is_killed(started):
    mark, other = processes.new_mark(), processes.new_mark()
    marked = [started(mark), started(mark, start_new_session=True)]
    spared = [started(other), started()]
    with Lives([process.pid for process in (*marked, *spared)]) as lives:
        processes.kill_marked([mark, processes.new_mark()])
        assert all(process.wait(5.0) == -9 for process in marked)
        assert lives.alive_after(0.0) == {process.pid for process in spared}


def test_marks_add_up(monkeypatch):
    monkeypatch.delenv("PRL_MARKS", raising=False)
    first, second = processes.new_mark(), processes.new_mark()
    processes.wear(first)
    processes.wear(second)
    assert os.environ["PRL_MARKS"].split(":") == ["", first, second]


def test_what_was_removed_is_spared(started):
    kept, removed = (started(start_new_session=True) for _ in range(2))
    reaper = Reaper()
    for process in (kept, removed):
        reaper.add(process.pid, processes.new_mark())
    with Lives([kept.pid, removed.pid]) as lives:
        # The mark belongs to the entry: another one removes nothing.
        reaper.remove(kept.pid, processes.new_mark())
        mark = processes.new_mark()
        reaper.add(removed.pid, mark)
        reaper.remove(removed.pid, mark)
        reaper.close()
        assert kept.wait(5.0) == -9
        assert not lives.alive_after(0.0) - {removed.pid}


def test_without_a_process_it_does_nothing(monkeypatch):
    monkeypatch.setattr("workers.reaper.spawn.get_executable", lambda: "/no/such/python")
    reaper = Reaper()
    assert reaper.pid is None
    reaper.add(1, "mark")
    reaper.close()


def test_a_killed_reaper_is_no_failure():
    reaper = Reaper()
    with Lives([reaper.pid]) as lives:
        os.kill(reaper.pid, 9)
        assert not lives.alive_after(5.0)
    reaper.add(1, "mark")
    reaper.close()


OWNER = """
    import os, signal, subprocess, sys
    from workers import processes
    from workers.reaper import Reaper

    reaper, mark = Reaper(), processes.new_mark()
    wait = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    leader = subprocess.Popen(wait, start_new_session=True)
    environment = os.environ | {"PRL_MARKS": mark}
    fugitive = subprocess.Popen(wait, start_new_session=True, env=environment)
    reaper.add(leader.pid, mark)
    print(leader.pid, fugitive.pid, reaper.pid, flush=True)
    signal.pause()
"""


def test_a_killed_owner_is_outlived_by_nothing(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=script_environment()
    ) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        with Lives(pids) as lives:
            assert lives.alive_after(0.0) == set(pids)
            owner.kill()
            assert not lives.alive_after(2.0)


def test_the_program_of_the_reaper_imports_nothing_heavy():
    code = "import sys, runpy; before = set(sys.modules); import workers.processes; print(sorted("
    code += "set(sys.modules) - before - {'workers', 'workers.processes', '__future__'}))"
    (line,) = run_python(["-c", code])
    assert not {"numpy", "subprocess", "gymnasium"} & set(line.split("'"))
