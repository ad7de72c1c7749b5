"""What a pool of workers survives, and what is left of it after many restarts."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from helpers import Expected, Fifo, Lives, children, script_environment

from workers.envs import env_factory
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool, Recovery
from workers.testing import ProbeEnv

pytestmark = [
    pytest.mark.usefixtures("leaves_nothing"),
    pytest.mark.filterwarnings("ignore:worker .* it is started again"),
]

ALL = np.arange(2)


def holdings():
    """Processes, descriptors and threads of this process."""
    return len(children(os.getpid())), len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_many_restarts_leave_nothing(transport):
    expected, episodes = Expected(2, lengths=(50, 50)), 5
    factory = env_factory(ProbeEnv, env_kwargs={"shortest": 50, "longest": 50})
    with RecoveringPool(ProcessPool(factory, 2, 1, transport=transport), Recovery(max_restarts=100)) as pool:
        pool.reset(ALL, (50, 51))
        expected.check_reset(pool.recv(), ALL.tolist(), [50, 51])
        before = holdings()
        for t in range(episodes):
            os.kill(pool.worker_pids[0], signal.SIGKILL)
            pool.send(ALL, (ALL + t) % 5)
            expected.check_step(pool.recv(), ALL.tolist(), ((ALL + t) % 5).tolist())
            assert holdings() == before
        assert pool.restarts == episodes


def test_the_record_of_steps_is_as_long_as_episodes_are():
    """Of 300 steps, 12 at most belong to running episodes, and 64 wait to be forgotten."""
    with RecoveringPool(ProcessPool(env_factory(ProbeEnv), 2, 1)) as pool:
        pool.reset(ALL, (50, 51))
        pool.recv()
        for t in range(300):
            pool.send(ALL, ALL, (t, t + 1))
            pool.recv()
            assert len(pool._record._steps) <= 64 + 12


SUSPENDED = """
    import sys
    import numpy as np
    from helpers import faulty
    from workers.process_pool import ProcessPool

    pool = ProcessPool(faulty("slow", announce=sys.argv[1]), 1, 1, step_timeout=1.0)
    ids = np.arange(1)
    pool.reset(ids, [50])
    pool.recv()
    pool.send(ids, [0])
    print(pool.recv().obs[0, 4], flush=True)
    pool.close()
"""


def test_a_learner_that_was_suspended_finds_the_answer_that_has_come_meanwhile(tmp_path):
    """It is stopped while it waits, for longer than the deadline, and kills nobody when it goes on."""
    script = tmp_path / "suspended.py"
    script.write_text(textwrap.dedent(SUSPENDED))
    with Fifo(tmp_path) as fifo:
        command = [sys.executable, str(script), fifo.path]
        with (
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=script_environment()
            ) as learner,
            Lives([learner.pid]) as life,
        ):
            fifo.pids(1, seconds=30.0)  # the worker is in its step
            os.kill(learner.pid, signal.SIGSTOP)
            assert life.alive_after(1.5) == {learner.pid}
            os.kill(learner.pid, signal.SIGCONT)
            said, errors = learner.communicate(timeout=30.0)
    assert (said, errors, learner.returncode) == ("1.0\n", "", 0)
