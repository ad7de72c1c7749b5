"""Every way to step N envs counts its env steps honestly. Nothing here is about speed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from helpers import Lives, script_environment

from prl.commands.steppers import end_async_vector_env, gymnasium_steps, steppers
from prl.commands.suites.comparison import compare, format_table
from prl.commands.suites.settings import BenchmarkConfig
from prl.commands.suites.stepping import make_task, stepping
from workers import spawning

pytestmark = pytest.mark.usefixtures("carried_by_value")

N = 5
STEPPERS = steppers(2)
OWN_ENVS = [
    name for name in STEPPERS if name not in ("envpool", "loops")
]  # built-in envs; loops in independent processes
every_stepper = pytest.mark.parametrize("name", OWN_ENVS)


class TallyEnv(gym.Env):
    """Leaves one byte in a file per `step`, whichever process it lives in. Episode k has 1 + k % 4 steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, file, fails_after=None):
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._episode = -1
        self._left_to_fail = fails_after

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self._episode += 1
        self._left = 1 + self._episode % 4
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self._left > 0, "a step after the end of the episode"
        if self._left_to_fail is not None:
            self._left_to_fail -= 1
            if self._left_to_fail < 0:
                raise ValueError("this env\nhas had enough")
        os.write(self._file, b"x")
        self._left -= 1
        ended = self._left == 0
        return np.zeros(2, np.float32), 0.0, ended and bool(self._episode % 2), ended, {}

    def close(self):
        if self._file is not None:
            os.close(self._file)
            self._file = None


@pytest.fixture(scope="module", autouse=True)
def _registered():
    gym.register("Tally-v0", entry_point=TallyEnv)
    yield
    del gym.registry["Tally-v0"]


def config_for(tmp_path, **settings):
    settings = {"num_envs": N, "num_workers": 2, "seconds": 0.02, **settings}
    return BenchmarkConfig("Tally-v0", {"file": str(tmp_path / "tally")}, **settings)


def stepper(name):
    package = STEPPERS[name].package
    if package is not None and package.missing:
        pytest.skip(package.missing)
    return STEPPERS[name]


def start(name, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline's own warnings at its start
        return stepper(name).start(make_task(config))


@every_stepper
def test_every_counted_step_was_a_step(name, tmp_path, leaves_nothing):
    """What is counted equals the calls of `env.step`: no reset row is among them, and no step is missing."""
    with start(name, config_for(tmp_path)) as steps:
        counts = [next(steps) for _ in range(23)]
    assert sum(counts) == (tmp_path / "tally").stat().st_size > 0


def test_a_reset_takes_the_place_of_a_step_in_gymnasium(tmp_path):
    """Episodes of 1, 2, 3, 4, 1, ... steps; the row after each episode's last is a reset in all envs."""
    playing = [1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0]
    with start("sync", config_for(tmp_path)) as steps:
        counts = [next(steps) for _ in playing]
    assert counts == [N * step for step in playing]


@pytest.mark.parametrize("name", ["inline", "shared", "dummy", "loop"])
def test_steppers_that_reset_within_a_step_count_every_row(name, tmp_path):
    with start(name, config_for(tmp_path)) as steps:
        assert [next(steps) for _ in range(9)] == [N] * 9


class Spy:
    """Counts the steps of an EnvPool, which says itself which rows were resets: 0 steps so far."""

    num_envs = N
    real_steps = 0

    def __init__(self, env):
        self._env = env

    def reset(self, seed):
        return self._env.reset()

    def step(self, actions):
        answer = self._env.step(actions)
        self.real_steps += np.count_nonzero(answer[4]["elapsed_step"])
        return answer


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_envpool_resets_are_not_counted():
    envpool = pytest.importorskip("envpool")
    with closing(envpool.make_gymnasium("CartPole-v1", num_envs=N, num_threads=1)) as env:
        spy = Spy(env)
        steps = gymnasium_steps(spy, np.ones((1, N), np.int32))  # always to the right: about ten steps
        counts = [next(steps) for _ in range(60)]
    assert sum(counts) == spy.real_steps < 60 * N


@every_stepper
def test_a_failing_stepper_says_so_in_one_line(name, tmp_path):
    config = config_for(tmp_path)
    config.env_kwargs["fails_after"] = 2
    stepper(name)
    comparison = stepping(config).only([name])
    result = compare(comparison)
    assert set(result["results"]) == set()
    assert result["skipped"][name].startswith("failed: ")
    assert "\n" not in result["skipped"][name]
    assert result["skipped"][name] in format_table(comparison, result)


def test_envpool_fails_for_envs_that_it_has_not(tmp_path):
    result = compare(stepping(config_for(tmp_path)).only(["envpool"]))
    allowed = ("not installed; pip install envpool", "failed: LookupError: has no Tally-v0")
    assert result["skipped"]["envpool"] in allowed


def test_there_is_a_pool_for_every_number_of_workers():
    assert list(steppers(6))[:5] == ["inline", "shared-1", "shared-2", "shared-4", "shared"]
    assert [stepper.label for stepper in steppers(2).values()][:3] == [
        "prl, no workers", "prl, 1 worker", "prl, 2 workers"
    ]  # fmt: skip
    assert list(steppers(1))[:2] == ["inline", "shared"]


def test_loops_on_every_core_are_ended_with_their_turn(tmp_path, leaves_nothing):
    with start("loops", config_for(tmp_path)) as steps:
        assert sum(next(steps) for _ in range(20)) > 0


def test_loops_that_are_stopped_as_they_start_are_ended(tmp_path, monkeypatch, leaves_nothing):
    begin, started = spawning.start, []

    def begin_and_stop(process):
        begin(process)
        started.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(spawning, "start", begin_and_stop)
    with pytest.raises(KeyboardInterrupt), start("loops", config_for(tmp_path)):
        pass
    assert len(started) == 1


KILLED = """
    import os, signal
    from helpers import children
    from prl.commands.steppers import steppers
    from prl.commands.suites.settings import BenchmarkConfig
    from prl.commands.suites.stepping import make_task

    with steppers(1)["loops"].start(make_task(BenchmarkConfig("CartPole-v1", num_envs=2))) as steps:
        next(steps)
        print(*children(os.getpid()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_loops_do_not_outlive_a_benchmark_that_is_killed():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        capture_output=True, text=True, timeout=60, check=False, env=script_environment(),
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 1
    with Lives([pid for pid in pids if os.path.exists(f"/proc/{pid}")]) as loops:
        assert not loops.alive_after(5.0)


class Unanswered:
    """An AsyncVectorEnv whose step was never answered: closing it warns, and then fails as the step did."""

    def __init__(self, fails):
        self.fails = fails
        self.closed = False
        self.processes = [multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))]
        self.processes[0].start()

    def close(self, terminate):
        warnings.warn("Calling `close` while waiting for a pending call", stacklevel=1)
        if self.fails:
            raise EOFError
        self.processes[0].terminate()
        self.processes[0].join()
        self.closed = True


@pytest.mark.parametrize("fails", [False, True])
def test_an_async_vector_env_is_ended_in_whatever_state_it_is(fails, leaves_nothing):
    env = Unanswered(fails)
    end_async_vector_env(env)
    assert env.closed
    assert not env.processes[0].is_alive()
    env.processes[0].close()
