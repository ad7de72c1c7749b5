import ctypes
import gc
import json
import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker

import cloudpickle
import pytest
from helpers import children

import workers.envs
from workers.trial_env import Description, describe
from workers.trial_process import describe_in_process


def _describe_here(trial, timeout):
    """All of a trial but its process, which takes half a second each time."""
    return Description.of_tree(json.loads(json.dumps(describe(trial, trial.builder()).tree())))


workers.envs.describe_in_process = _describe_here  # for the test modules' own factories, too


@pytest.fixture(scope="module", autouse=True)
def _imports_stay():
    """What has been imported by now is not looked at by collections within tests (see `_holdings`).

    They take a tenth of a second each, otherwise.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def carried_by_value(request):
    """Worker processes get envs of the test module as they get those of a user's script.

    They would import the whole module otherwise, and with it pytest and torch. Not for classes that count
    something in this process: every env that is built here sets their attributes back.
    """
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture
def real_trials(monkeypatch):
    """Trial envs are in processes of their own, as they are for users."""
    monkeypatch.setattr(workers.envs, "describe_in_process", describe_in_process)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt here; in a background job of a shell it would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def _lasting_resources():
    """What multiprocessing makes once and keeps for the life of the process is no leak."""
    resource_tracker.ensure_running()
    # One arena of its heap, large enough for every slab of the tests. It is kept and used again, as long as
    # it is below the 4 MB from which the heap gives a free arena back.
    multiprocessing.get_context("spawn").RawArray(ctypes.c_double, (1 << 19) - 4096)


def _holdings():
    gc.collect()
    descriptors = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            descriptors[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the descriptor of the listing itself
            pass
    return {
        "processes": children(os.getpid()),
        "descriptors": set(descriptors.items()),
        "threads": set(threading.enumerate()),
    }


@pytest.fixture
def leaves_nothing(_lasting_resources):
    """Fails a test that leaves a child process (zombies count), a descriptor or a thread behind."""
    before = _holdings()
    yield
    after = _holdings()
    left = {kind: after[kind] - before[kind] for kind in after if after[kind] - before[kind]}
    assert not left
