"""Other libraries' tests, run on prl's classes, and the long comparison with Gymnasium's vector env."""

import subprocess
import sys
from pathlib import Path

import pytest
import vector_env_equality

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "checks" / "foreign_tests.py"
TESTS = """
import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv

def test_it_is_ours():
    env = AsyncVectorEnv([lambda: gym.make("CartPole-v1")], num_workers=0)
    assert env.reset(seed=1)[0].shape == (1, 4)
    env.close()

def test_nothing_of_ours():
    assert True

def test_custom_worker_with_semaphore():
    raise AssertionError("left out")
"""


def run(folder, *options):
    command = [sys.executable, str(SCRIPT), "gymnasium", str(folder), "--only", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "tests" / "vector"
    place.mkdir(parents=True)
    (place / "test_some.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def test_tests_find_our_class_and_some_are_left_out(folder):
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 1 skipped" in done.stdout
    assert "left out: worker processes are prl's own" in done.stdout
    assert "1 tests passed that build prl.VectorEnv in place of AsyncVectorEnv" in done.stdout


def test_a_test_that_fails_is_told_by_the_exit_code(folder):
    with open(folder / "tests" / "vector" / "test_some.py", "a", encoding="utf-8") as file:
        file.write("\ndef test_more():\n    assert AsyncVectorEnv.__module__ == 'gymnasium.vector'\n")
    done = run(folder, "-k", "more")
    assert done.returncode == 1
    assert "1 failed, 3 deselected" in done.stdout


def test_a_folder_without_tests_is_named(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path} has none of tests/vector/test_*.py, ")


def test_the_long_comparison_names_what_differs(monkeypatch, capsys):
    arguments = ["--kinds", "tuple", "--pools", "local", "--steps", "3"]
    assert vector_env_equality.main(arguments) == 0
    assert "tuple: equal on local" in capsys.readouterr().out

    def differs(kind, pools, steps):
        raise AssertionError(f"{pools[0]}[2]")

    monkeypatch.setattr("adapter_equality.check_equal", differs)
    assert vector_env_equality.main(arguments) == 1
    assert "tuple: DIFFERS at local[2] among local" in capsys.readouterr().out
