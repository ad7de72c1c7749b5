"""Signals: the first ends a run in good order, wherever it arrives; the second at once."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers import Fifo, Lives, children
from test_sinks import SMALL

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.run.run_folder import RunFolder
from prl.run.signals import Interrupted, Signals, Stopped, stop_on_signals
from prl.run.sinks import CsvSink, FaultTolerantSink
from prl.run.train import run_training, train
from prl.training.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _hangup_ends_a_process():
    """As it does, unless the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    ("signum", "kind", "code"),
    [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Stopped, 143), (signal.SIGHUP, Stopped, 129)],
)
def test_a_signal_is_raised_where_it_arrives(signum, kind, code):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as caught, stop_on_signals():
        send(signum)
    assert type(caught.value) is kind
    assert caught.value.exit_code == code
    assert signal.getsignal(signum) is before


def test_a_signal_that_is_held_waits_for_the_end_of_the_outermost_block():
    done = []

    def work(signals):
        with signals.held():
            with signals.held():
                send()
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(Stopped, match="stopped by SIGTERM"), stop_on_signals() as signals:
        work(signals)
    assert done == ["inner", "outer"]


class Deaf(gym.Env):
    """Its constructor ignores Ctrl-C."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_an_env_in_this_process_cannot_turn_signals_off(tmp_path):
    class Stopping:
        def write(self, timesteps, metrics):
            send(signal.SIGINT)

        def close(self):
            pass

    gym.register("test/Deaf-v0", Deaf, max_episode_steps=5)
    before = signal.getsignal(signal.SIGINT)
    try:
        config = dataclasses.replace(SMALL, env_id="test/Deaf-v0", num_workers=0, run_folder=tmp_path / "run")
        with pytest.raises(Interrupted):
            train(config, sinks=[Stopping()])
    finally:
        signal.signal(signal.SIGINT, before)
        del gym.registry["test/Deaf-v0"]
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"


def test_it_is_raised_once():
    with stop_on_signals() as signals:
        with pytest.raises(Stopped):
            send()
        with signals.held():
            pass  # what is tidied up afterwards is not interrupted again


def test_nothing_is_raised_without_a_signal():
    with stop_on_signals() as signals, signals.held():
        pass
    with Signals().held():
        pass


def test_a_second_signal_does_not_wait():
    code = """
        import os, signal
        from prl.run.signals import stop_on_signals
        with stop_on_signals() as signals, signals.held():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            print("still there", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (143, b"")


def test_blocks_in_blocks_have_the_same_signals():
    handler = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as outer:
        with pytest.raises(Stopped), stop_on_signals() as inner:
            send()
        assert inner is outer
        assert signal.getsignal(signal.SIGTERM) == outer.handle  # a second one still ends the process
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_forked_process_has_the_signals_that_were_there_before():
    """A library's workers print a traceback otherwise when they are ended."""
    reading, writing = os.pipe()
    with stop_on_signals():
        if (child := os.fork()) == 0:
            signal.alarm(5)
            os.write(writing, b"!")
            signal.pause()
            os._exit(0)
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_the_end_of_a_terminal_may_be_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


COMMAND = "import sys; from prl.cli import train_main; sys.exit(train_main(sys.argv[1:]))"


def start_train(folder, *arguments):
    """`prl train` with the modules of a folder."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_torch_is_imported(tmp_path, signum, code):
    """In a callback of the import system, which would swallow an exception."""
    (tmp_path / "torch.py").write_text(
        textwrap.dedent(f"""
        import os, weakref

        class Lock: pass

        lock = Lock()
        callback = weakref.ref(lock, lambda gone: os.kill(os.getpid(), {int(signum)}))
        del lock
        """)
    )
    with start_train(tmp_path, "--env-id", "CartPole-v1") as process:
        text = process.communicate(timeout=60)[1]
    assert (process.returncode, text) == (code, f"train: stopped by {signum.name}\n")


SLOW = """
    import os, subprocess, sys, threading
    import gymnasium as gym
    from workers.testing import ProbeEnv

    class Slow(ProbeEnv):
        # Takes for ever to be built: the first one, or the second.
        def __init__(self, fifo, hangs):
            super().__init__()
            if hangs == "trial" or os.path.exists("tried"):
                program = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
                engine = subprocess.Popen(program, start_new_session=True, stderr=subprocess.DEVNULL)
                with open(fifo, "a") as file:
                    file.write(str(engine.pid) + chr(10))
                threading.Event().wait()
            open("tried", "w").close()

    gym.register("Slow-v0", Slow, max_episode_steps=9)
"""


@pytest.mark.parametrize(
    ("hangs", "signum", "code"), [("trial", signal.SIGINT, 130), ("pool", signal.SIGTERM, 143)]
)
def test_a_signal_while_envs_are_built(tmp_path, hangs, signum, code):
    (tmp_path / "slow_env.py").write_text(textwrap.dedent(SLOW))
    with (
        Fifo(tmp_path) as fifo,
        start_train(
            tmp_path, "--env-id", "slow_env:Slow-v0", "--num-envs", "2", "--num-workers", "1",
            "--env-kwargs", f"fifo={fifo.path}", f"hangs={hangs}",
        ) as process,
    ):  # fmt: skip
        engines = fifo.pids(1, seconds=60.0)
        with Lives([*engines, *children(process.pid)]) as lives:
            process.send_signal(signum)
            text = process.communicate(timeout=60)[1]
            assert not lives.alive_after(2.0)
    lines = [line for line in text.splitlines() if "preset" not in line]
    assert (process.returncode, lines[-1]) == (code, f"train: stopped by {signum.name}")
    assert len(lines) <= 3
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


class Interrupting:
    """A sink in which a signal arrives halfway through `where`."""

    def __init__(self, where):
        self.where = where
        self.log = []

    def write(self, timesteps, metrics):
        self._do("write")

    def close(self):
        self._do("close")

    def _do(self, what):
        self.log.append(f"{what} begins")
        if what == self.where:
            self.where = None
            send()
        self.log.append(f"{what} ends")


@pytest.mark.parametrize("where", ["write", "close"])
def test_a_sink_is_never_left_halfway_and_the_folder_is_complete(where, tmp_path):
    sink = Interrupting(where)
    factory = env_factory("CartPole-v1")
    policy = ActorCritic(factory.observation_space, factory.action_space, (8,))
    folder = RunFolder(tmp_path / "run")
    with InlinePool(factory, 2) as pool:
        trainer = Trainer(
            pool, PPOLearner(policy, PPOConfig(num_epochs=1)), batch_size=1, total_timesteps=50, seed=1
        )
        with pytest.raises(Stopped), stop_on_signals() as signals:
            run_training(trainer, 50, folder, "CartPole-v1", signals=signals, sinks=[sink])
    assert sink.log[-2:] == ["close begins", "close ends"]
    assert sink.log[0::2] == [f"{line.split()[0]} begins" for line in sink.log[1::2]]
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["status"] == ("stopped" if where == "write" else "finished")
    assert summary["timesteps"] > 0
    assert (folder.path / "weights/policy.safetensors").is_file()


def test_a_row_of_a_csv_file_is_written_whole(tmp_path):
    class Row(CsvSink):
        def write(self, timesteps, metrics):
            send()
            super().write(timesteps, metrics)

    with stop_on_signals() as signals:
        sink = FaultTolerantSink(Row(tmp_path / "rows.csv"), signals.held)
        with pytest.raises(Stopped):
            sink.write(5, {"a": 1.0, "b": 2.0})
        sink.close()
    assert (tmp_path / "rows.csv").read_text().splitlines() == ["a,b", "1,2"]
