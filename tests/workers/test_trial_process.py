"""Trial envs in processes of their own: whatever a constructor does, it does nothing to the learner."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from helpers import Fifo, Lives, children, script_environment

from workers import envs
from workers.envs import env_factory
from workers.errors import EnvError
from workers.testing import FaultWrapper, ProbeEnv

pytestmark = pytest.mark.usefixtures("leaves_nothing", "real_trials")

SLEEP = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that registers `Case-v0`; gives the id."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, body, top=""):
        text = "import gymnasium as gym\nfrom workers.testing import ProbeEnv\n" + textwrap.dedent(top)
        text += "class Case(ProbeEnv):\n    def __init__(self):\n        super().__init__()\n"
        text += textwrap.indent(textwrap.dedent(body), " " * 8)
        text += "gym.register('Case-v0', entry_point=Case, max_episode_steps=9)\n"
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:Case-v0"

    yield write
    assert "Case-v0" not in gym.registry  # not even the import has happened here


def test_what_is_learnt_is_the_same_in_either_process():
    def build():
        return gym.wrappers.NormalizeReward(gym.wrappers.TimeLimit(ProbeEnv(dtype="uint8"), 5))

    here, there = (
        env_factory(build, max_episode_steps=7, own_process=own, env_kwargs={}) for own in (False, True)
    )
    assert here == there
    assert there.has_time_limit
    assert there.notes != ()
    for ends in (False, True):
        assert (
            env_factory(lambda: FaultWrapper(ProbeEnv(), "raise"), ends_by_itself=ends).has_time_limit == ends
        )


def state():
    return {
        "folder": os.getcwd(),
        "handlers": [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "streams": (sys.stdout, sys.stderr),
        "variables": dict(os.environ),
        "path": list(sys.path),
        "numpy": (np.geterr(), np.get_printoptions()),
        "random": random.getstate(),
        "threads": threading.active_count(),
        "modules": {name for name in sys.modules if name.startswith("meddler")},
    }


def test_nothing_of_this_process_changes(module, tmp_path, capfd):
    env_id = module(
        "meddler",
        """
        os.chdir("/")
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_IGN)
        os.environ["MEDDLED"] = "yes"
        sys.path.insert(0, "/meddled")
        np.seterr(all="raise")
        np.set_printoptions(precision=1)
        random.seed(1)
        os.close(0)
        print("hello from the constructor")
        sys.stdout = sys.stderr = None
        """,
        top="import os, random, signal, sys\nimport numpy as np\nos.chdir('/tmp')\n",
    )
    before = state()
    assert env_factory(env_id).observation_space.shape == (8,)
    assert state() == before
    # No result of the command's: it goes to stderr, once.
    assert capfd.readouterr() == ("", "hello from the constructor\n")


def test_what_the_env_has_started_is_ended(tmp_path):
    with Fifo(tmp_path) as fifo:
        path = fifo.path

        def build():
            for own_session in (False, True):
                engine = subprocess.Popen(SLEEP, start_new_session=own_session)
                with open(path, "a") as file:
                    file.write(f"{engine.pid}\n")
            threading.Thread(target=threading.Event().wait).start()
            return ProbeEnv()

        start = time.monotonic()
        env_factory(build)
        assert time.monotonic() - start < 10.0
        with Lives(fifo.pids(2)) as engines:
            assert not engines.alive_after(1.0)


BREAKS = [
    ("os_exit", "init", "the constructor of <lambda> ended the process with exit code 7"),
    ("sigkill", "init", "the constructor of <lambda> ended the process with signal SIGKILL"),
    ("raise", "init", "the constructor of <lambda> raised ValueError: boom"),
    ("raise_awkward", "init", "the constructor of <lambda> raised AwkwardError: left and right"),
    ("system_exit", "init", "the constructor of <lambda> raised SystemExit: 3"),
    ("os_exit", "reset", "reset(seed=0) of <lambda> ended the process with exit code 7"),
    ("raise", "reset", "reset(seed=0) of <lambda> raised ValueError: boom"),
]


@pytest.mark.parametrize(("fault", "stage", "message"), BREAKS)
def test_a_trial_that_breaks(fault, stage, message):
    with pytest.raises(EnvError) as caught:
        env_factory(lambda: FaultWrapper(ProbeEnv(), fault, stage=stage))
    assert str(caught.value) == message
    assert ("in _trigger" in caught.value.traceback) == ("raised" in message)


@pytest.mark.parametrize(
    ("fault", "stage", "what"),
    [
        ("hang_gil", "init", "the constructor of <lambda>"),
        ("sigstop", "reset", "reset(seed=0) of <lambda>"),
    ],
)
def test_a_trial_that_hangs_is_killed_at_the_deadline(fault, stage, what, tmp_path):
    with Fifo(tmp_path) as fifo:
        path = fifo.path
        with pytest.raises(EnvError) as caught:
            env_factory(
                lambda: FaultWrapper(ProbeEnv(), fault, stage=stage, announce=path), start_timeout=4.0
            )
        (pid,) = fifo.pids(1)
    assert str(caught.value) == f"{what} did not end within 4 s; if it is slow, raise start_timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("fault", ["hang", "os_exit"])
def test_an_env_that_cannot_be_closed_is_no_failure(fault):
    start = time.monotonic()
    factory = env_factory(lambda: FaultWrapper(ProbeEnv(), fault, stage="close"))
    assert time.monotonic() - start < 8.0
    assert factory.action_space == gym.spaces.Discrete(5)


def test_spaces_of_any_size_arrive():
    low = np.random.default_rng(1).uniform(-1, 0, (300, 300)).astype(np.float32)

    class Large(ProbeEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(low, low + 1, dtype=np.float32)

    assert env_factory(Large).observation_space == gym.spaces.Box(low, low + 1, dtype=np.float32)


def test_a_space_of_the_users_own_class_loads_no_code_here(module):
    env_id = module(
        "angular",
        "self.observation_space = Angles()\n",
        top="""
        class Angles(gym.Space):
            def __init__(self):
                super().__init__((8,), "float32")
            def __repr__(self):
                return "Angles"
        """,
    )
    space = env_factory(env_id).observation_space
    assert (str(space), space.shape, space.dtype) == ("Angles", (8,), np.float32)
    assert "angular" not in sys.modules


def test_an_interrupted_trial_leaves_nothing(tmp_path, interruptible):
    def interrupt():
        pids.extend(fifo.pids(1))
        os.kill(os.getpid(), signal.SIGINT)

    pids = []
    with Fifo(tmp_path) as fifo:
        path = fifo.path
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            env_factory(lambda: FaultWrapper(ProbeEnv(), "hang", stage="init", announce=path))
        thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


LEARNER = """
    import subprocess, sys, threading
    from workers.envs import env_factory

    def build():
        sleep = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
        engine = subprocess.Popen(sleep, start_new_session=True)
        with open(sys.argv[1] if len(sys.argv) > 1 else fifo, "a") as file:
            file.write(f"{engine.pid}\\n")
        threading.Event().wait()

    fifo = sys.argv[1]
    env_factory(build)
"""


def test_nothing_outlives_a_learner_that_is_killed_in_a_trial(tmp_path):
    script = tmp_path / "learner.py"
    script.write_text(textwrap.dedent(LEARNER))
    with (
        Fifo(tmp_path) as fifo,
        subprocess.Popen([sys.executable, str(script), fifo.path], env=script_environment()) as learner,
    ):
        engines = fifo.pids(1)
        with Lives([*engines, *children(learner.pid)]) as lives:
            assert set(engines) < lives.alive_after(0.0)
            learner.kill()
            assert not lives.alive_after(2.0)


def test_no_process_where_none_is_needed(monkeypatch):
    """For what cannot be sent to it, for Gymnasium's own envs, and for envs that are here already."""

    def refuse(trial, timeout):
        raise AssertionError(trial.name)

    monkeypatch.setattr(envs, "describe_in_process", refuse)
    lock = threading.Lock()
    with pytest.raises(EnvError, match=r"cannot be sent to a worker process: lock: cannot pickle"):
        env_factory(lambda: (lock, ProbeEnv())[1])
    taxi = env_factory("Taxi-v4", max_episode_steps=5, wrappers=["gymnasium.wrappers:TimeAwareObservation"])
    assert taxi.has_time_limit
    env_factory(gym.make("CartPole-v1"))
    env_factory(lambda: gym.make("CartPole-v1"), own_process=False)
    for env, options in [
        (lambda: gym.make("CartPole-v1"), {}),
        ("CartPole-v1", {"env_kwargs": {"render_mode": object()}}),
        ("CartPole-v1", {"wrappers": ["helpers:Fifo"]}),
        ("no_such_module:CartPole-v1", {}),
    ]:
        with pytest.raises(AssertionError):
            env_factory(env, **options)
