"""What process pools do when something breaks: typed errors, in bounded time, and nothing left behind."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest
from helpers import (
    AT_ONCE,
    Babbling,
    Expected,
    Fifo,
    Garbled,
    Lives,
    Short,
    Torn,
    children,
    context_of,
    factory_of,
    faulty,
    run_python,
    script_environment,
)

from workers import spawning
from workers.envs import env_factory
from workers.errors import WorkerDied, WorkerEnvFailed, WorkerError, WorkerTimeout
from workers.process_pool import ProcessPool
from workers.testing import FaultWrapper, ProbeEnv
from workers.worker_set import WorkerSet

pytestmark = pytest.mark.usefixtures("carried_by_value", "leaves_nothing")

ALL = np.arange(3, dtype=np.int64)  # env 0 on worker 0, envs 1 and 2 on worker 1
SEEDS = (50, 51, 52)
ZEROS = np.zeros(3, np.int64)


def pool_of(factory, **options):
    return ProcessPool(factory, 3, 2, **{"step_timeout": 20.0} | options)


def play(pool, steps=2):
    pool.reset(ALL, SEEDS)
    pool.recv()
    for _ in range(steps):
        step(pool)


def step(pool, env_ids=ALL):
    pool.send(env_ids, ZEROS[: len(env_ids)])
    return pool.recv()


@contextlib.contextmanager
def takes(at_least, less_than):
    start = time.monotonic()
    yield
    assert at_least <= time.monotonic() - start < less_than


# --- an env or a worker breaks ------------------------------------------------------------------------------

BREAKS = [
    # fault, error, exit code, what the child's traceback says, transport
    ("raise", WorkerEnvFailed, None, "ValueError: boom", "pipe"),
    ("raise_awkward", WorkerEnvFailed, None, "AwkwardError: left and right", "shared"),
    ("system_exit", WorkerEnvFailed, None, "SystemExit: 3", "shared"),
    ("os_exit", WorkerDied, 7, "", "shared"),
    ("sigkill", WorkerDied, -signal.SIGKILL, "", "pipe"),
]


@pytest.mark.parametrize(("fault", "kind", "exitcode", "text", "transport"), BREAKS)
def test_a_worker_that_breaks_in_a_step(fault, kind, exitcode, text, transport):
    with pool_of(faulty(fault, at_step=2, seed=52), transport=transport) as pool:
        play(pool, steps=1)
        pool.send(ALL, ZEROS)
        with takes(0.0, AT_ONCE), pytest.raises(kind) as caught:
            pool.recv()
    assert_tells(caught.value, kind, exitcode, text, "step")
    assert caught.value.worker == 1
    assert caught.value.env_ids == (1, 2)


@pytest.mark.parametrize("stage", ["init", "reset"])
@pytest.mark.parametrize(("fault", "kind", "exitcode", "text", "transport"), BREAKS)
def test_a_worker_that_breaks_before_the_first_step(fault, kind, exitcode, text, transport, stage):
    with pytest.raises(kind) as caught, pool_of(faulty(fault, stage=stage), transport=transport) as pool:
        play(pool)
    assert_tells(caught.value, kind, exitcode, text, "start" if stage == "init" else "reset")


def assert_tells(error, kind, exitcode, text, command):
    assert type(error) is kind
    assert error.last_command == command
    assert text in error.traceback
    assert bool(error.traceback) == bool(text)
    if kind is WorkerDied:
        assert error.exitcode == exitcode
        words = "signal SIGKILL" if exitcode < 0 else f"exit code {exitcode}"
        assert f"died with {words} during '{command}'" in str(error)
    else:
        assert error.exitcode in (None, 1)  # its report may come before its end
        assert text in str(error)
    first, last = error.env_ids[0], error.env_ids[-1]
    span = str(first) if first == last else f"{first}..{last}"
    assert str(error).startswith(f"worker {error.worker} (envs {span}) ")


def test_a_report_is_not_lost_when_the_worker_is_gone_before_the_next_command():
    """Double-buffering: the worker reports env 1, ends, and the learner sends to env 2 before it reads."""
    with pool_of(faulty("raise", seed=51)) as pool, Lives(pool.worker_pids[1:]) as worker:
        pool.reset(ALL, SEEDS)
        pool.recv()
        pool.send(ALL[1:2], ZEROS[:1])
        assert not worker.alive_after(5.0)
        with pytest.raises(WorkerEnvFailed, match=r"env 1, .*boom"):
            step(pool, ALL[2:3])


def test_a_death_is_noticed_while_another_worker_hangs():
    def build():
        return FaultWrapper(FaultWrapper(ProbeEnv(), "hang", seed=50), "sigkill", seed=51)

    with pool_of(factory_of(build)) as pool:
        play(pool, steps=0)
        pool.send(ALL, ZEROS)
        with takes(0.0, AT_ONCE), pytest.raises(WorkerDied) as caught:
            pool.recv()
    assert caught.value.worker == 1


def test_a_worker_that_is_killed_while_idle():
    with pool_of(env_factory(ProbeEnv)) as pool, Lives(pool.worker_pids[:1]) as victim:
        play(pool)
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        assert not victim.alive_after(5.0)
        with takes(0.0, AT_ONCE), pytest.raises(WorkerDied, match="signal SIGKILL") as caught:
            step(pool)
    assert caught.value.worker == 0
    assert caught.value.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_while_the_learner_waits_for_it(tmp_path, signum):
    killed_at = []

    def kill(fifo):
        (pid,) = fifo.pids(1)
        killed_at.append(time.monotonic())
        os.kill(pid, signum)

    with Fifo(tmp_path) as fifo, pool_of(faulty("hang", seed=50, announce=fifo.path)) as pool:
        killer = threading.Thread(target=kill, args=(fifo,))
        killer.start()
        with pytest.raises(WorkerDied, match=f"signal {signum.name} during 'step'"):
            play(pool)
        noticed_after = time.monotonic() - killed_at[0]
        killer.join()
    assert noticed_after < AT_ONCE


# --- a worker hangs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hang", "hang_gil", "sigstop"])
def test_a_worker_that_hangs_is_killed_at_the_deadline(fault):
    with (
        pool_of(faulty(fault, at_step=2, seed=51), step_timeout=0.5) as pool,
        Lives(pool.worker_pids) as workers,
    ):
        play(pool, steps=1)
        pool.send(ALL, ZEROS)
        with (
            takes(0.5, AT_ONCE),
            pytest.raises(WorkerTimeout, match=r"'step' within 0.5 s and was killed") as caught,
        ):
            pool.recv()
        assert workers.alive_after(0.0) == {pool.worker_pids[0]}
    assert caught.value.worker == 1
    assert caught.value.exitcode == -signal.SIGKILL
    assert caught.value.last_command == "step"


def test_recv_takes_a_deadline_of_its_own():
    with pool_of(faulty("hang", seed=52)) as pool:
        play(pool, steps=0)
        pool.send(ALL, ZEROS)
        with takes(0.2, AT_ONCE), pytest.raises(WorkerTimeout, match=r"within 0.2 s"):
            pool.recv(timeout=0.2)


def test_a_slow_worker_is_left_alone():
    """Three envs of 0.3 s each, in three workers: slower than the deadline together, but no worker is."""
    with ProcessPool(faulty("slow"), 3, 3, step_timeout=0.8) as pool, takes(0.3, AT_ONCE):
        play(pool, steps=2)


def test_a_worker_that_does_not_read():
    """A command that does not fit into the pipe has a deadline too."""
    factory = env_factory(lambda: Wide("hang"))
    with ProcessPool(factory, 2, 1, transport="pipe", step_timeout=0.5) as pool:
        pool.reset(np.arange(2), (50, 51))
        pool.recv()
        pool.send(np.array([0]), np.zeros((1, WIDTH), np.float32))
        with takes(0.5, AT_ONCE):
            pool.send(np.array([1]), np.zeros((1, WIDTH), np.float32))
        with pytest.raises(WorkerTimeout):
            pool.recv()


def test_large_commands_and_large_answers_that_meet():
    """The worker writes an answer that nobody reads yet, the learner a command that nobody reads yet."""
    shape = (500, 500, 3)
    expected = Expected(2, shape, "uint8")
    factory = env_factory(lambda: Wide("slow", shape=shape, dtype="uint8"))
    with ProcessPool(factory, 2, 1, transport="pipe", step_timeout=5.0) as pool:
        pool.reset(np.arange(2), (51, 50))
        expected.check_reset(pool.recv(), range(2), (51, 50))
        actions = np.linspace(-1.0, 1.0, 2 * WIDTH, dtype=np.float32).reshape(2, 1, WIDTH)
        for env in (0, 1):
            pool.send(np.array([env]), actions[env])
        for env in (0, 1):
            expected.check_step(pool.recv(), [env], actions[env])


WIDTH = 500_000


class Wide(FaultWrapper):
    """Takes two megabytes of action."""

    def __init__(self, fault, **probe):
        super().__init__(ProbeEnv(box_action=True, **probe), fault, seed=50)
        self.action_space = type(self.env.action_space)(-1.0, 1.0, (WIDTH,), np.float32)


# --- frames -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_stale_and_duplicated_frames_are_dropped_and_counted(transport):
    expected = Expected(3)
    with pool_of(env_factory(ProbeEnv), transport=transport, context=context_of(Babbling)) as pool:
        pool.reset(ALL, SEEDS)
        expected.check_reset(pool.recv(), range(3), SEEDS)
        for t in range(3):
            actions = (ALL + t) % 5
            pool.send(ALL, actions)
            expected.check_step(pool.recv(), range(3), actions)
        # From each of two workers: one with READY, two with each of four answers; and one with the frame
        # in which the worker of two envs says that the first of them is there.
        assert pool.stale_frames == 2 * (1 + 4 * 2) + 1


@pytest.mark.parametrize(
    ("process", "transport", "message"),
    [
        (Garbled, "shared", "bytes that make no sense: not a frame: kind 255"),
        (Torn, "pipe", "died with signal SIGKILL during 'step'"),
        (Short, "pipe", "bytes that make no sense: payload of"),
        (Short, "shared", "bytes that make no sense: payload of"),
    ],
)
def test_broken_answers(process, transport, message):
    with pool_of(env_factory(ProbeEnv), transport=transport, context=context_of(process)) as pool:
        play(pool, steps=0)
        pool.send(ALL, ZEROS)
        with takes(0.0, AT_ONCE), pytest.raises(WorkerDied, match=message) as caught:
            pool.recv()
        assert caught.value.last_command == "step"


# --- start and end ------------------------------------------------------------------------------------------


def test_start_is_all_or_nothing(tmp_path):
    """One constructor of three hangs: the others' workers are ended as well (see `leaves_nothing`)."""
    factory = faulty("hang", stage="init", once=str(tmp_path / "once"))
    with (
        takes(1.0, 1.0 + AT_ONCE),
        pytest.raises(WorkerTimeout, match=r"did not construct env \d within 1 s") as caught,
    ):
        pool_of(factory, start_timeout=1.0)
    # At once, not only when the error and with it the half-built pool is forgotten.
    assert multiprocessing.active_children() == []
    del caught


def test_a_worker_whose_envs_are_slow_to_build_is_left_alone():
    """Twelve envs of 0.3 s each: slower than the deadline together, but each of them is there in time."""
    factory = faulty("slow", stage="init")
    with takes(3.6, 3.6 + AT_ONCE), ProcessPool(factory, 12, 1, start_timeout=3.5) as pool:
        assert pool.stale_frames == 0


def test_the_env_that_was_not_built_in_time_is_named(tmp_path):
    gate = tmp_path / "gate"

    def build():
        if gate.exists():
            threading.Event().wait()
        gate.touch()
        return ProbeEnv()

    message = (
        "did not construct env 1 within 3 s and was killed; if its constructor is slow, raise start_timeout"
    )
    with pytest.raises(WorkerTimeout, match=message) as caught:
        ProcessPool(factory_of(build), 3, 1, start_timeout=3.0)
    assert caught.value.last_command == "start"


def test_a_step_that_takes_too_long_says_how_many_envs_shared_the_time():
    with pool_of(faulty("hang", at_step=1, seed=51), step_timeout=0.5) as pool:
        play(pool, steps=0)
        pool.send(ALL, ZEROS)
        advice = "its 2 envs take turns in this time: raise step_timeout, or use more workers"
        with pytest.raises(WorkerTimeout, match=f"'step' within 0.5 s and was killed; {advice}$"):
            pool.recv()


def _start_pool(answers):
    try:
        pool_of(env_factory(ProbeEnv))
    except RuntimeError as error:
        answers.put(str(error))


def test_a_daemonic_process_cannot_have_workers():
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_start_pool, args=(answers,), daemon=True)
    process.start()
    process.join(30.0)
    assert answers.get() == (
        "worker processes cannot be started inside a daemonic process, like those of multiprocessing.Pool: "
        "use num_workers=0, or start this process by concurrent.futures.ProcessPoolExecutor"
    )
    answers.close()


def test_start_is_interrupted(monkeypatch):
    """Whatever is raised in the middle, Ctrl-C included, the workers started so far are ended."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkerSet, "_await_start", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        pool_of(env_factory(ProbeEnv))
    assert multiprocessing.active_children() == []
    del caught


def test_close_of_a_healthy_pool_is_quick():
    pool = pool_of(env_factory(ProbeEnv), close_timeout=20.0)
    play(pool)
    with takes(0.0, AT_ONCE):
        pool.close()


@pytest.mark.parametrize(("fault", "stage"), [("hang", "close"), ("hang_gil", "step")])
def test_close_is_bounded(fault, stage):
    """Both workers hang, in `env.close` or in a step that nobody waits for."""
    pool = pool_of(faulty(fault, stage=stage))
    with Lives(pool.worker_pids) as workers:
        pool.reset(ALL, SEEDS)
        pool.recv()
        if stage == "step":
            pool.send(ALL, ZEROS)
        words = pytest.warns(UserWarning, match=r"worker [01] .*not close within 2 s and was killed")
        with takes(0.0, 2.0 + AT_ONCE), words if stage == "close" else contextlib.nullcontext():
            pool.close()
        assert not workers.alive_after(0.0)


def test_the_deadline_of_close_is_a_setting():
    pool = ProcessPool(faulty("hang", stage="close"), 1, 1, close_timeout=0.2)
    with (
        takes(0.2, AT_ONCE),
        pytest.warns(UserWarning, match=r"worker 0 \(env.* within 0.2 s .*close_timeout"),
    ):
        pool.close()


def test_a_slow_close_has_its_time(tmp_path):
    path = tmp_path / "closed"

    def build():
        return FaultWrapper(ProbeEnv(), "slow", stage="close", announce=str(path))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool_of(factory_of(build), close_timeout=30.0).close()
    assert len(path.read_text().splitlines()) == 3


def test_close_after_an_error_is_bounded():
    """The env that failed hangs in its close."""

    def build():
        return FaultWrapper(FaultWrapper(ProbeEnv(), "hang", stage="close"), "raise")

    pool = pool_of(factory_of(build))
    with pytest.raises(WorkerEnvFailed):
        play(pool)
    with takes(0.0, 2.0 + AT_ONCE):
        pool.close()


def test_a_pool_outlives_the_thread_that_made_it():
    """The kernel's signal for the death of a parent comes with the end of the *thread* that started us."""
    pools = []
    thread = threading.Thread(target=lambda: pools.append(pool_of(env_factory(ProbeEnv))))
    thread.start()
    thread.join()
    with pools[0] as pool:
        play(pool)


def test_a_forgotten_pool_is_closed():
    pool = pool_of(env_factory(ProbeEnv))
    with Lives(pool.worker_pids) as workers:
        del pool
        gc.collect()
        assert not workers.alive_after(0.0)


class Parent(ProbeEnv):
    """Starts a process of its own, in a session of its own if it likes, and never ends it."""

    def __init__(self, announce, new_session=False):
        super().__init__()
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "import signal; signal.pause()"], start_new_session=new_session
        )
        with open(announce, "a", encoding="ascii") as file:
            file.write(f"{child.pid}\n")
        child.returncode = 0  # or Popen's destructor would warn


@pytest.mark.parametrize(
    ("end", "new_session"),
    [("close", False), ("close", True), ("kill", False), ("kill", True), ("hang", True), ("raise", True)],
)
def test_processes_of_the_envs_end_with_their_worker(tmp_path, end, new_session):
    with Fifo(tmp_path) as fifo:
        path = fifo.path
        fault = end if end in ("hang", "raise") else "slow"
        factory = factory_of(lambda: FaultWrapper(Parent(path, new_session), fault, seed=50))
        with pool_of(factory, step_timeout=0.5) as pool:
            with Lives(fifo.pids(3)) as grandchildren:
                assert len(grandchildren.alive_after(0.0)) == 3
                if end == "kill":
                    with Lives(pool.worker_pids) as workers:
                        for pid in pool.worker_pids:
                            os.kill(pid, signal.SIGKILL)
                        assert not workers.alive_after(5.0)
                if end in ("hang", "raise"):
                    with pytest.raises(WorkerError):
                        play(pool)
                pool.close()
                assert not grandchildren.alive_after(AT_ONCE)


# --- the learner dies ---------------------------------------------------------------------------------------

LEARNER = """
    import sys
    import numpy as np
    from helpers import faulty
    from workers.process_pool import ProcessPool

    fault, stage, fifo = sys.argv[1:]
    pool = ProcessPool(faulty(fault, stage=stage, announce=fifo), 2, 2)
    ids = np.arange(2)
    while True:
        pool.reset(ids, [1, 2])
        pool.recv()
        pool.send(ids, np.zeros(2, int))
        pool.recv()
"""


@pytest.fixture
def learner(tmp_path):
    """Starts a learner with two workers; gives its process and, once they are where `fault` is, their ids."""
    script = tmp_path / "learner.py"
    script.write_text(textwrap.dedent(LEARNER))
    started = []

    def start(fault, stage, fifo):
        process = subprocess.Popen(
            [sys.executable, str(script), fault, stage, fifo.path],
            env=script_environment(),
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process, set(fifo.pids(2))

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        ("hang", "init"),
        ("hang", "step"),
        ("hang_gil", "step"),
        ("sigstop", "step"),
        ("slow", "step"),  # goes on stepping
    ],
)
def test_no_worker_outlives_a_killed_learner(learner, tmp_path, fault, stage):
    with Fifo(tmp_path) as fifo:
        process, workers = learner(fault, stage, fifo)
        assert len(workers) == 2
        with Lives(children(process.pid)) as descendants:  # the resource tracker of multiprocessing too
            assert workers <= descendants.alive_after(0.0)
            process.kill()
            assert not descendants.alive_after(2.0)


OWNER = """
    import signal, sys
    from helpers import factory_of
    from test_faults import Parent
    from workers.process_pool import ProcessPool

    path = sys.argv[1]
    pool = ProcessPool(factory_of(lambda: Parent(path, new_session=True)), 2, 2)
    print(*pool.worker_pids, flush=True)
    signal.pause()
"""


def test_no_process_of_an_env_outlives_a_killed_learner(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER))
    environment = script_environment()
    environment["PYTHONPATH"] += os.pathsep + os.path.dirname(__file__)
    with (
        Fifo(tmp_path) as fifo,
        subprocess.Popen(
            [sys.executable, str(script), fifo.path], stdout=subprocess.PIPE, text=True, env=environment
        ) as process,
    ):
        workers = [int(pid) for pid in process.stdout.readline().split()]
        with Lives([*workers, *fifo.pids(2), *children(process.pid)]) as descendants:
            assert len(descendants.alive_after(0.0)) > 4
            process.kill()
            assert not descendants.alive_after(2.0)


def test_a_worker_that_cannot_be_started(monkeypatch):
    """The second of two: the first is ended, and one line says why."""
    start = spawning.start

    def fails_once(process):
        if process.name.endswith("-1"):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(process)

    monkeypatch.setattr(spawning, "start", fails_once)
    with pytest.raises(WorkerError) as caught:
        pool_of(env_factory(ProbeEnv))
    assert str(caught.value) == (
        "worker 1 (envs 1..2) could not be started: [Errno 11] Resource temporarily unavailable"
    )
    assert multiprocessing.active_children() == []


def test_no_idle_worker_outlives_a_killed_learner(tmp_path):
    script = tmp_path / "idle.py"
    script.write_text(
        textwrap.dedent("""
        import signal
        from workers.envs import env_factory
        from workers.process_pool import ProcessPool
        from workers.testing import ProbeEnv

        pool = ProcessPool(env_factory(ProbeEnv), 2, 2)
        print(*pool.worker_pids, flush=True)
        signal.pause()
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        with Lives(pids) as workers:
            assert workers.alive_after(0.0) == set(pids)
            process.kill()
            assert not workers.alive_after(2.0)


@pytest.mark.parametrize("fault", ["slow", "hang"])
def test_a_learner_that_forgets_to_close_ends_all_the_same(tmp_path, fault):
    """multiprocessing's own exit handler would wait for the workers for ever."""
    script = tmp_path / "forgetful.py"
    script.write_text(
        textwrap.dedent(f"""
        import numpy as np
        from helpers import faulty
        from workers.process_pool import ProcessPool

        pool = ProcessPool(faulty({fault!r}), 2, 2)
        pool.reset(np.arange(2), [1, 2])
        pool.recv()
        pool.send(np.arange(2), np.zeros(2, int))
        print(*pool.worker_pids, flush=True)
        """)
    )
    with takes(0.0, 3 * AT_ONCE):
        (line,) = run_python([str(script)], env=script_environment())
    for pid in line.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_kill_and_start_again_many_times():
    """Descriptors, threads and memory segments stay as they are (see `leaves_nothing`)."""
    for _ in range(5):
        with pool_of(env_factory(ProbeEnv)) as pool:
            os.kill(pool.worker_pids[0], signal.SIGKILL)
            with pytest.raises(WorkerDied):
                play(pool)
