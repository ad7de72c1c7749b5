"""A running worker, and the scripts that start it."""

import os
import signal
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
from helpers import factory_of, run_python

from workers.envs import env_factory
from workers.process_pool import ProcessPool
from workers.testing import ProbeEnv, probe_obs

pytestmark = pytest.mark.usefixtures("carried_by_value")

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# As users write them: no `__main__` guard, everything in one file, torch at its top.
SCRIPT = """
    import os, sys
    import torch
    import gymnasium as gym
    import numpy as np
    from gymnasium.utils import RecordConstructorArgs
    from workers.envs import env_factory
    from workers.process_pool import ProcessPool

    print("script runs")
    FACTOR = 3.0

    class Scale(gym.ObservationWrapper, RecordConstructorArgs):
        def __init__(self, env, factor=1.0):
            RecordConstructorArgs.__init__(self, factor=factor)
            gym.ObservationWrapper.__init__(self, env)
            self.factor = factor

        def observation(self, obs):
            return self.factor * obs

    class Report(gym.Env):
        observation_space = gym.spaces.Box(0, 9, (3,), np.float64)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            threads = len(os.listdir("/proc/self/task"))
            return np.array([FACTOR, "torch" in sys.modules, threads], np.float64), {}

        def step(self, action):
            return np.zeros(3), 0.0, False, False, {}

    gym.register("Report-v0", entry_point="__main__:Report")
    envs = {
        "class": Report,
        "function": lambda: Report(),
        "id": "Report-v0",
        "env": Report(),
        "made": gym.make("Report-v0", disable_env_checker=True),
        "wrapped": Scale(gym.make("Report-v0", disable_env_checker=True), factor=1.0),
    }
    for name, env in envs.items():
        with ProcessPool(env_factory(env), 1, 1) as pool:
            pool.reset(np.arange(1), [1])
            print(name, *pool.recv().obs.ravel().tolist())
    print("__main__" in sys.modules and sys.modules["__main__"].FACTOR)
"""


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_a_script_runs_once_and_its_envs_without_torch_on_one_thread(tmp_path, how):
    script = textwrap.dedent(SCRIPT)
    env = {name: value for name, value in os.environ.items() if name not in THREAD_LIMITS}
    if how == "file":
        path = tmp_path / "script.py"
        path.write_text(script)
        lines = run_python([str(path)], env=env)
    else:
        lines = run_python(["-"], input=script, env=env)
    report = "3.0 0.0 1.0"  # FACTOR as in the script, torch not loaded, one thread
    names = ("class", "function", "id", "env", "made", "wrapped")
    assert lines == ["script runs", *(f"{name} {report}" for name in names), "3.0"]


class Introspect(ProbeEnv):
    """Observes the process that it lives in."""

    def __init__(self, what):
        super().__init__(shape=(), dtype="float64")
        self.what = what

    def reset(self, *, seed=None, options=None):
        return np.float64(self.what()), {}


def in_a_worker(what):
    """The value of a function in a worker process of this test."""
    with ProcessPool(env_factory(lambda: Introspect(what)), 1, 1) as pool:
        pool.reset(np.zeros(1, np.int64), [0])
        return pool.recv().obs[0]


def test_a_worker_has_one_thread_although_this_process_sets_no_limits(monkeypatch):
    for name in THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert in_a_worker(lambda: len(os.listdir("/proc/self/task"))) == 1
    assert not any(name in os.environ for name in THREAD_LIMITS)


def test_a_worker_leads_a_process_group_of_its_own():
    assert in_a_worker(lambda: os.getpgrp() == os.getpid())
    assert in_a_worker(os.getpgrp) != os.getpgrp()


def test_a_worker_does_not_know_the_main_module_of_its_learner():
    main = sys.modules["__main__"]
    main.only_in_the_learner = True
    try:
        assert not in_a_worker(lambda: hasattr(sys.modules["__main__"], "only_in_the_learner"))
        assert sys.modules["__main__"] is main  # put back
    finally:
        del main.only_in_the_learner


def test_a_worker_ignores_ctrl_c():
    with ProcessPool(env_factory(ProbeEnv), 2, 2) as pool:
        for pid in pool.worker_pids:
            os.kill(pid, signal.SIGINT)
        pool.reset(np.arange(2), [5, 6])
        np.testing.assert_array_equal(pool.recv().obs, [probe_obs(5), probe_obs(6)])


def test_what_an_env_prints_does_not_disturb_the_frames(capfd):
    class Chatty(ProbeEnv):
        def reset(self, *, seed=None, options=None):
            sys.stdout.write("from the env\n")
            sys.stdout.flush()
            return super().reset(seed=seed, options=options)

    with ProcessPool(factory_of(Chatty), 1, 1, transport="pipe") as pool:
        pool.reset(np.zeros(1, np.int64), [5])
        np.testing.assert_array_equal(pool.recv().obs, [probe_obs(5)])
    assert capfd.readouterr() == ("", "from the env\n")


def test_workers_start_from_the_context_of_torch():
    torch_multiprocessing = pytest.importorskip("torch.multiprocessing")
    context = torch_multiprocessing.get_context("spawn")
    with ProcessPool(env_factory(gym.spec("CartPole-v1")), 2, 2, context=context) as pool:
        pool.reset(np.arange(2), [5, 6])
        want = gym.make("CartPole-v1").reset(seed=6)[0]
        np.testing.assert_array_equal(pool.recv().obs[1], want)
