"""One writer per run folder: the lock ends with its process, however that ends."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from learner.settings import ConfigError
from prl.run.lock import FolderLock
from prl.run.run_folder import ResumedFolder, RunFolder

ROOT = Path(__file__).parents[2]
HOLDER = """
    import sys
    from pathlib import Path
    from prl.run.lock import FolderLock
    lock = FolderLock(Path(sys.argv[1]))
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "command.txt").write_text("prl train\n")
    return tmp_path / "command.txt"


def test_a_second_writer_is_refused_until_the_first_is_done(file):
    first = FolderLock(file)
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=f"^run_folder {file.parent} is in use: another run writes to it$"
        ):
            FolderLock(file)
    first.release()
    first.release()
    FolderLock(file).release()
    assert file.read_text() == "prl train\n"


def test_a_killed_process_holds_no_lock(file):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match="is in use"):
            FolderLock(file)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        FolderLock(file).release()


def test_children_inherit_no_lock(file):
    """Workers and what envs start must not keep a folder locked that nobody writes to."""
    lock = FolderLock(file)
    command = [sys.executable, "-c", "print('runs', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        assert child.stdout.readline() == b"runs\n"
        lock.release()
        FolderLock(file).release()
        child.communicate(b"\n")


def test_a_file_that_is_removed_before_it_is_locked_locks_nothing(file, monkeypatch):
    def removes(fd, operation):
        file.unlink()

    monkeypatch.setattr("fcntl.flock", removes)
    with pytest.raises(ConfigError, match="is in use: another run writes to it"):
        FolderLock(file)


def test_a_file_system_without_locks_is_no_obstacle(file, monkeypatch):
    def unsupported(fd, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match="cannot be locked: Operation not supported"):
        lock = FolderLock(file)
    assert not lock.is_held
    lock.release()


def test_a_run_locks_its_folder_until_it_ends(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config("env_id: A\n")
        folder.keep()
        with pytest.raises(ConfigError, match="is in use"):
            ResumedFolder(tmp_path / "run")
    with ResumedFolder(tmp_path / "run"), pytest.raises(ConfigError, match="is in use"):
        ResumedFolder(tmp_path / "run")
    with ResumedFolder(tmp_path / "run"):
        pass


def test_nothing_changes_before_the_run_goes_on(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config("env_id: A\n")
        folder.write_summary({"status": "stopped"})
        folder.keep()
    command = (tmp_path / "run/command.txt").read_text()
    for goes_on in (False, True):
        with ResumedFolder(tmp_path / "run") as folder:
            folder.write_config("env_id: B\n")
            if goes_on:
                folder.keep()
        assert (tmp_path / "run/config.yaml").read_text() == ("env_id: B\n" if goes_on else "env_id: A\n")
        assert (tmp_path / "run/summary.json").exists() != goes_on
        assert (tmp_path / "run/command.txt").read_text() == command * (1 + goes_on)


def test_a_folder_that_is_read_only_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("env_id: A\n")

    def read_only(path, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", read_only)
    with pytest.raises(ConfigError, match=r"^cannot write run_folder .*: Read-only file system$"):
        ResumedFolder(tmp_path)
