"""Jobs in a process of their own: whatever it does there, a sentence says so, and nothing is left."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import Lives, children
from probe_jobs import Job

from workers.probe import ProbeEnded, watched


def ended(name, silence=30.0):
    with pytest.raises(ProbeEnded) as caught:
        list(watched(Job(name), silence))
    return caught.value


def test_messages_come_in_order_and_the_process_ends():
    first, *rest = watched(Job("talks"), 30.0)
    assert rest == [{"threads": "1", "torch": False}, {"list": [1.5, None, "é"]}]
    assert first["pid"] not in children(os.getpid())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exits", "its process died with exit code 7"),
        ("kills_itself", "its process died with signal SIGKILL"),
        ("forks_and_dies", "its process died with signal SIGKILL"),
        ("segfaults", "its process died with signal SIGSEGV, in segfaults (probe_jobs.py:"),
        ("raises", "its process died with exit code 1"),
    ],
)
def test_a_process_that_dies_is_told_of(name, message, leaves_nothing):
    assert str(ended(name)).startswith(message)


def test_its_last_words_are_kept():
    assert ended("raises").printed.endswith("ValueError: boom")


@pytest.mark.parametrize(("name", "words"), [("hangs", "last words"), ("holds_the_gil", "")])
def test_one_that_hangs_says_where(name, words, leaves_nothing):
    found = ended(name, silence=0.3)
    start = f"its process hangs, with no sign of life for 0.3 s, in {name} (probe_jobs.py:"
    assert str(found).startswith(start)
    assert found.printed == words


def test_what_it_has_started_ends_with_it(leaves_nothing):
    messages = watched(Job("starts_another"), 30.0)
    pids = [next(messages)["pid"], next(messages)["child"]]
    with Lives(pids) as lives:
        messages.close()
        assert not lives.alive_after(5.0)


def test_the_report_of_the_fault_handler_is_read():
    """The innermost frame that is not Python's own is where it was."""
    found = ProbeEnded(
        "its process hangs",
        "loading\nFatal Python error: Aborted\n\n"
        'Thread 0x2 (most recent call first):\n  File "/other.py", line 7 in other\n\n'
        "Current thread 0x1 (most recent call first):\n"
        f'  File "{threading.__file__}", line 5 in wait\n'
        '  File "/home/me/my_env.py", line 3 in step\n\nExtension modules: numpy (total: 1)',
    )
    assert str(found) == "its process hangs, in step (my_env.py:3)"
    assert (found.printed, len(found.stack)) == ("loading", 2)


def test_it_does_not_outlive_who_has_started_it(leaves_nothing):
    code = (
        "from probe_jobs import Job\nfrom workers.probe import watched\n"
        "for message in watched(Job('holds_the_gil'), 600.0): print(message['pid'], flush=True)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    with parent, Lives([int(parent.stdout.readline())]) as lives:
        parent.kill()
        assert not lives.alive_after(5.0)
