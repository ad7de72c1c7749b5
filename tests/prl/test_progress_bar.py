"""The progress bar: what it says, where it is seen, and that nothing tears it."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import types
import warnings

import pytest

from prl.run.progress_bar import ProgressBar

METRICS = {
    "rollout/ep_rew_mean": 21.5,
    "time/iteration_fps": 1234.0,
    "time/fps": 1000.0,
    "rollout/occupancy": 0.5,
}


class Terminal:
    """A stderr that says it is a terminal, or not, and keeps what is written."""

    def __init__(self, is_terminal):
        self.text, self.encoding = "", "utf-8"
        self.isatty = lambda: is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def as_stderr(monkeypatch, is_terminal=True):
    """No fixture: pytest sets its own stderr after those."""
    terminal = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_it_says_what_is_known(monkeypatch):
    terminal = as_stderr(monkeypatch)
    bar = ProgressBar(1000)
    bar.write(500, METRICS | {"rollout/success_rate": 0.25})
    bar.close()
    last = terminal.text.split("\r")[-1]
    assert "500/1.00k steps" in last
    assert "return 21.5, success 25%, 1,234 steps/s, mean 1,000 steps/s, occupancy 50%" in last


def test_it_is_silent_about_what_is_not_known_yet(monkeypatch):
    terminal = as_stderr(monkeypatch)
    bar = ProgressBar(1000)
    bar.write(500, METRICS | {"rollout/ep_rew_mean": float("nan")})
    bar.close()
    assert "nan" not in terminal.text
    assert ", 1,234 steps/s" in terminal.text


@pytest.mark.parametrize(("columns", "count"), [(60, 0), (80, 2), (100, 3), (120, 4)])
def test_a_narrow_terminal_gets_what_there_is_room_for(columns, count, monkeypatch):
    terminal = as_stderr(monkeypatch)
    terminal.fileno = lambda: 2
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((columns, 24)))
    bar = ProgressBar(1000)
    bar.write(500, METRICS)
    bar.close()
    parts = terminal.text.split("\r")[-1].strip().removesuffix("]").split(", ")[1:]
    assert parts == ["return 21.5", "1,234 steps/s", "mean 1,000 steps/s", "occupancy 50%"][:count]


def test_it_never_goes_past_its_end(monkeypatch):
    terminal = as_stderr(monkeypatch)
    bar = ProgressBar(1000, done=400)
    bar.write(1100, METRICS)
    bar.close()
    assert " 40%|" in terminal.text
    assert terminal.text.split("\r")[-1].startswith("100%|")


@pytest.mark.parametrize("is_seen", [True, False])
def test_it_is_seen_in_notebooks(is_seen, monkeypatch):
    """Where stderr is no terminal, but a kernel shows it."""
    stderr = as_stderr(monkeypatch, is_terminal=False)
    shell = types.SimpleNamespace(**({"kernel": 1} if is_seen else {}))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    bar = ProgressBar(1000)
    bar.write(500, METRICS)
    bar.close()
    assert ("500/1.00k steps" in stderr.text) == is_seen


def test_a_warning_is_written_above_it_and_others_are_as_before(monkeypatch):
    terminal, shown = as_stderr(monkeypatch), []
    monkeypatch.setattr(warnings, "showwarning", lambda *args: shown.append((str(args[0]), terminal.text)))
    before = warnings.showwarning
    bar = ProgressBar(1000)
    bar.write(500, METRICS)
    warnings.showwarning(UserWarning("the disk is full"), UserWarning, "file.py", 1)
    bar.close()
    [(message, text)] = shown
    assert message == "the disk is full"
    assert text.endswith("\r")  # the bar was cleared, and is drawn again afterwards
    assert warnings.showwarning is before
    assert "50%|" in terminal.text.removeprefix(text)


TALKS = """
import gymnasium as gym, numpy as np

class Talks(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        Talks.steps += 1
        if Talks.steps % 100 == 0:
            print("the env says", Talks.steps, flush=True)
        return np.zeros(1, np.float32), 1.0, Talks.steps % 10 == 0, False, {}

gym.register("Talks-v0", Talks, max_episode_steps=20)
"""


def on_screen(text):
    """The lines that a terminal shows after a text."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_what_envs_print_does_not_tear_it_in_a_terminal(tmp_path):
    (tmp_path / "talks.py").write_text(TALKS)
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # else it has no columns
    flags = "--env-id talks:Talks-v0 --num-workers 2 --num-envs 4 --total-timesteps 2000 --batch-size 200"
    with subprocess.Popen(
        [sys.executable, "-m", "prl", "train", *flags.split(), "--run-folder", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        lines = on_screen(read_all(mine))
    assert process.returncode == 0
    said = [line for line in lines if "the env says" in line]
    assert said
    assert all(line.removeprefix("the env says ").isdigit() for line in said), said
    bars = [line for line in lines if "steps [" in line]
    assert len(bars) == 1, lines
    assert bars[0].startswith("100%|")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


def read_all(terminal):
    parts = []
    try:
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    except OSError:  # on Linux, the other end is closed
        pass
    os.close(terminal)
    return b"".join(parts).decode()
