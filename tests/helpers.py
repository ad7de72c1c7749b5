"""Small things that several test files need. Importable in worker processes: no pytest here."""

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnContext, SpawnProcess

import cloudpickle
import gymnasium as gym
import numpy as np

from workers.channel import Channel
from workers.envs import env_factory
from workers.frames import HEADER, Frame, Kind
from workers.testing import FaultWrapper, ProbeEnv, probe_length, probe_obs, probe_reward

AT_ONCE = 5.0
"""Seconds that what waits for no deadline may take at most, on a machine that others use, too."""


def factory_of(build):
    """A factory of envs like `ProbeEnv()` that `build` makes: without a trial env, which might break too."""
    return dataclasses.replace(env_factory(ProbeEnv), payload=cloudpickle.dumps(build))


def faulty(fault, **where):
    """A factory of `ProbeEnv`s with a fault; the arguments of `FaultWrapper`."""
    return factory_of(lambda: FaultWrapper(ProbeEnv(), fault, **where))


class Expected:
    """What N `ProbeEnv`s must answer: the reference with which every row of a batch is compared."""

    def __init__(self, num_envs, shape=(8,), dtype="float32", lengths=(3, 12)):
        self.shape, self.dtype, self.lengths = shape, dtype, lengths
        self.seeds = [0] * num_envs
        self.actions = [[] for _ in range(num_envs)]

    def obs(self, env):
        return probe_obs(self.seeds[env], self.actions[env], self.shape, self.dtype)

    def check_reset(self, batch, env_ids, seeds):
        for env, seed in zip(env_ids, seeds, strict=True):
            self.seeds[env], self.actions[env] = seed, []
        self._check(batch, env_ids, [0.0] * len(env_ids), [False] * len(env_ids))

    def check_step(self, batch, env_ids, actions):
        rewards = []
        for env, action in zip(env_ids, actions, strict=True):
            rewards.append(probe_reward(self.obs(env), action))
            self.actions[env].append(action)
        ended = [len(self.actions[env]) == probe_length(self.seeds[env], *self.lengths) for env in env_ids]
        self._check(batch, env_ids, rewards, ended)

    def _check(self, batch, env_ids, rewards, ended):
        even = np.array([self.seeds[env] % 2 == 0 for env in env_ids], bool)
        want = {
            "env_ids": np.asarray(env_ids, np.int64),
            "obs": np.array([self.obs(env) for env in env_ids], self.dtype).reshape(-1, *self.shape),
            "reward": np.array(rewards, np.float32),
            "terminated": np.array(ended, bool) & even,
            "truncated": np.array(ended, bool) & ~even,
            "lost": np.zeros(len(env_ids), bool),
            "ended": np.array(ended, bool),
        }
        for name, value in want.items():
            found = getattr(batch, name)
            assert found.dtype == value.dtype, name
            np.testing.assert_array_equal(found, value, err_msg=name)


def same_fields(left, right):
    """Two dataclasses of one kind, bit for bit, nested ones included."""
    assert type(left) is type(right)
    for field in dataclasses.fields(left):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if dataclasses.is_dataclass(one):
            same_fields(one, other)
        elif isinstance(one, np.ndarray):
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        else:
            assert one == other, field.name


def children(pid):
    """Process ids of the children of a process, zombies included."""
    found = set()
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # not a process, or gone meanwhile
            continue
        if parent == pid:
            found.add(int(entry))
    return found


class Forgetful(gym.Wrapper):
    """Shows how often it was built: the number of lines in a file. No function of its seed."""

    def __init__(self, path):
        super().__init__(ProbeEnv())
        with open(path, "a+", encoding="ascii") as file:
            file.write("built\n")
            file.seek(0)
            self._built = len(file.readlines())

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return self._mark(obs), info

    def step(self, action):
        obs, *others = self.env.step(action)
        return self._mark(obs), *others

    def _mark(self, obs):
        marked = obs.copy()
        marked[-1] = self._built
        return marked


class Lives:
    """Processes to be watched until they end, whoever their parent is.

    A pidfd becomes readable when its process ends, even if nobody collects the zombie.
    """

    def __init__(self, pids):
        self._fds = {os.pidfd_open(pid): pid for pid in pids}

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc_info):
        for fd in self._fds:
            if kind is not None:  # a failed test leaves no orphans on the machine
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)

    def alive_after(self, seconds):
        """The processes that still live after so many seconds; returns as soon as there are none."""
        deadline = time.monotonic() + seconds
        left = dict(self._fds)
        while left:
            ended = select.select(list(left), [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ended:
                break
            for fd in ended:
                del left[fd]
        return set(left.values())


class Fifo:
    """A named pipe through which an env tells the test that it has come to a certain place."""

    def __init__(self, folder):
        self.path = str(folder / "fifo")
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._keep = os.open(self.path, os.O_WRONLY)  # or the end of the last writer would look like news

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        os.close(self._fd)
        os.close(self._keep)

    def pids(self, count, seconds=60.0):
        """The numbers on the next `count` lines."""
        deadline = time.monotonic() + seconds
        text = b""
        while text.count(b"\n") < count:
            ready = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"{count} lines were expected, {text!r} came"
            text += os.read(self._fd, 4096)
        return [int(line) for line in text.split()]


def script_environment():
    """Of a script that imports these helpers."""
    path = [os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def run_python(arguments, **options):
    """Run a Python script to its end; its output as lines."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class Babbling(SpawnProcess):
    """Says wrong things before each answer: something as another incarnation, and its last answer again."""

    def run(self):
        said = []

        def copies(frame):
            nonsense = b"\xff" * len(frame.payload)
            before = [frame._replace(incarnation=frame.incarnation + 1, payload=nonsense), *said[-1:]]
            said.append(frame)
            return [*before, frame]

        _patch_send(copies)
        super().run()


class Garbled(SpawnProcess):
    """A worker that answers its second command with bytes that are no frame."""

    def run(self):
        _patch_write(lambda fd, data: os.write(fd, b"\xff" * HEADER.size))
        super().run()


class Torn(SpawnProcess):
    """A worker that dies when half of its answer to the second command is written."""

    def run(self):
        def half(fd, data):
            os.write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        _patch_write(half)
        super().run()


class Short(SpawnProcess):
    """A worker whose answer to the second command lacks a row."""

    def run(self):
        def shortened(fd, data):
            frame = Frame(Kind.ROWS, 0, 2, data[HEADER.size : -1])
            os.write(fd, frame.encode())

        _patch_write(shortened)
        super().run()


def _patch_send(copies):
    send = Channel.send

    def patched(channel, frame, *args, **kwargs):
        for copy in copies(frame):
            send(channel, copy, *args, **kwargs)

    Channel.send = patched


def _patch_write(write):
    send = Channel.send

    def patched(channel, frame, *args, **kwargs):
        if frame.sequence == 2:
            write(channel.fileno(), frame.encode())
        else:
            send(channel, frame, *args, **kwargs)

    Channel.send = patched


def context_of(process):
    """A spawn context whose processes are of another class."""

    class Context(SpawnContext):
        Process = process

    return Context()
