"""The folder of a run: taken by one run only, found from any directory, removed if the run never began."""

import contextlib
import dataclasses
import json
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from test_files import largest_file
from test_sinks import SMALL

from learner.fingerprint import fingerprint
from learner.settings import ConfigError
from prl.cli import play_main, train_main
from prl.run.run_files import load_config
from prl.run.run_folder import ResumedFolder, RunFolder, make_run_folder
from prl.run.saved_run import evaluate_run
from prl.run.train import train


def test_runs_that_start_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda _: make_run_folder(tmp_path / "runs", "a:b/C-v0", 3), range(40)))
    assert len(set(paths)) == 40
    assert {path.parent for path in paths} == {tmp_path / "runs"}
    assert all(path.name.startswith("a_b_C-v0-seed3-") and path.is_dir() for path in paths)


def test_the_default_folder_of_a_run_is_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(SMALL)
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all((folder / "summary.json").is_file() for folder in folders)


def test_no_place_for_the_default_folder_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot make a run folder in .*runs: "):
        train(SMALL)


def test_a_folder_is_kept_or_discarded(tmp_path):
    with contextlib.suppress(ZeroDivisionError), RunFolder(tmp_path / "a") as folder:
        folder.write_config("env_id: A\n")
        assert (tmp_path / "a/config.yaml").is_file()
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with RunFolder(tmp_path / "b") as folder:
        folder.keep()
        folder.write_summary({})
    assert sorted(os.listdir(tmp_path / "b")) == ["command.txt", "summary.json", "versions.json"]
    assert json.loads((tmp_path / "b/versions.json").read_text())["fingerprint"] == fingerprint()
    with pytest.raises(ConfigError, match="holds a run already"):
        RunFolder(tmp_path / "b")


def left(folder, file=None, text="x"):
    """What a run leaves that is killed as it begins; and something more, which it has recorded."""
    with RunFolder(folder) as run:
        run.write_config("env_id: A\n")
        run.keep()
    if file is not None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    return folder


@pytest.mark.parametrize("file", [None, "progress.csv", "checkpoints/.0.tmp", "tensorboard/events", "notes"])
def test_where_nothing_is_recorded_a_run_can_begin(file, tmp_path):
    folder = left(tmp_path / "run", file, "" if file == "progress.csv" else "x")
    with ResumedFolder(folder) as run:
        assert not run.holds_results
    command = (folder / "command.txt").read_text()
    with RunFolder(folder) as run:
        run.keep()
    assert (folder / "command.txt").read_text() == command


@pytest.mark.parametrize(
    "file",
    ["progress.csv", "summary.json", "checkpoints/0", "checkpoints/8.damaged", "weights/a", "best/a"],
)
def test_what_is_recorded_is_not_lost(file, tmp_path):
    folder = left(tmp_path / "run", file)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match="holds a run already; choose another, remove it, or go on"):
        RunFolder(folder)
    assert sorted(folder.rglob("*")) == before
    with ResumedFolder(folder) as run:
        assert run.holds_results


def test_files_of_others_are_not_taken_for_those_of_a_run(tmp_path):
    (tmp_path / "command.txt").write_text("dial 0")
    with pytest.raises(ConfigError, match="holds a run already"):
        RunFolder(tmp_path)
    assert (tmp_path / "command.txt").read_text() == "dial 0"


def test_a_folder_in_which_a_run_has_just_begun_is_in_use(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(ConfigError, match="is in use: another run writes to it"):
        RunFolder(tmp_path / "run")


def test_of_runs_that_begin_at_once_in_what_a_killed_one_has_left_one_gets_the_folder(tmp_path):
    folder = left(tmp_path / "run")
    barrier = threading.Barrier(8)

    def begin(_):
        barrier.wait()
        with contextlib.suppress(ConfigError):
            return RunFolder(folder)

    with ThreadPoolExecutor(8) as pool:
        got = [run for run in pool.map(begin, range(8)) if run is not None]
    assert len(got) == 1
    got[0].discard()
    assert not folder.exists()


def test_without_locks_nobody_takes_what_may_be_in_use(tmp_path, monkeypatch):
    def unsupported(fd, operation):
        raise OSError(95, "Operation not supported")

    folder = left(tmp_path / "run")
    monkeypatch.setattr("fcntl.flock", unsupported)
    with (
        pytest.warns(UserWarning, match="cannot be locked"),
        pytest.raises(ConfigError, match="holds a run already"),
    ):
        RunFolder(folder)
    assert (folder / "config.yaml").exists()


def test_other_files_in_a_discarded_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with contextlib.suppress(ZeroDivisionError), RunFolder(tmp_path):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("size", [10, 150])  # not even the first file fits, or the second does not
def test_a_folder_that_cannot_be_written_is_left_as_it_was(size, tmp_path):
    with largest_file(size), pytest.raises(ConfigError, match=r"cannot write run_folder .*: File too large"):
        with RunFolder(tmp_path / "run") as folder:
            folder.write_config("x" * 200)
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write run_folder .*: File name too long$"):
        RunFolder(tmp_path / ("x" * 300))


class Wandering(gym.Env):
    """Changes the working directory wherever it can."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        os.chdir(tempfile.gettempdir())

    def reset(self, *, seed=None, options=None):
        os.chdir("/")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_relative_paths_mean_what_they_meant_at_the_start(tmp_path, monkeypatch, capsys):
    gym.register("test/Wandering-v0", Wandering, max_episode_steps=5)
    small = ("--num-envs", "2", "--num-workers", "0", "--total-timesteps", "50", "--batch-size", "20")
    try:
        monkeypatch.chdir(tmp_path)
        flags = (*small, "--eval-freq", "20", "--eval-episodes", "1", "--run-folder", "runs/a")
        assert train_main(["--env-id", "test/Wandering-v0", *flags]) == 0
        for file in ("summary.json", "weights/policy.safetensors", "best/policy.safetensors"):
            assert (tmp_path / "runs/a" / file).is_file()
        os.chdir(tmp_path)
        assert play_main(["runs/a", "--episodes", "1"]) == 0
        os.chdir(tmp_path)
        assert evaluate_run("runs/a", 2, best=True)[0].length == 5
        os.chdir(tmp_path)
        assert train_main(["--env-id", "test/Wandering-v0", *small]) == 0
    finally:
        del gym.registry["test/Wandering-v0"]
    assert len(list((tmp_path / "runs").iterdir())) == 2


class Shaped(gym.Env):
    """Takes an object that YAML cannot hold."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, bonus=None):
        self.bonus = bonus

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0 if self.bonus is None else self.bonus(action), False, False, {}


def test_arguments_that_yaml_cannot_hold_train_and_are_named(tmp_path):
    gym.register("test/Shaped-v0", Shaped, max_episode_steps=5)
    folder, lines = tmp_path / "run", []
    config = dataclasses.replace(
        SMALL, env_id="test/Shaped-v0", env_kwargs={"bonus": lambda action: 2.0}, run_folder=folder
    )
    try:
        summary = train(config, log=lines.append)
    finally:
        del gym.registry["test/Shaped-v0"]
    assert summary["mean_return"] == 10.0
    [line] = lines
    assert line.startswith("env_kwargs.bonus cannot be written to config.yaml")
    assert "<lambda>" in line
    with pytest.raises(
        ConfigError, match=r"config\.yaml: env_kwargs\.bonus was an object .*<lambda>"
    ) as error:
        load_config(folder)
    assert "\n" not in str(error.value)
    assert Path(folder / "config.yaml").read_text().count("\n") > 30  # all other settings are there
