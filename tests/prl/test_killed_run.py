"""A training process is killed or stopped: it leaves nothing behind, and its run goes on to the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import Lives, script_environment

from prl.cli import train_main
from prl.run.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
FLAGS = (
    *("--env-id", "CartPole-v1", "--preset", "none", "--num-workers", "2", "--num-envs", "6"),
    *("--num-groups", "2", "--rollout", "steps", "--num-steps", "25", "--batch-size", "250"),
    *("--num-epochs", "2", "--hidden-sizes", "16", "--total-timesteps", "1800", "--seed", "5"),
    *("--device", "cpu", "--overlap"),
)
# Sends itself a signal at a call of a function; the pids of its workers come first.
SCRIPT = """
    import os, signal, sys
    import learner.ppo, prl.run.files
    from helpers import children
    from prl.cli import train_main

    place, number, signum = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    holder = {"update": learner.ppo.PPOLearner, "optimize": learner.ppo.PPOLearner, "fsync": os}[place]
    original, calls = getattr(holder, place), []

    def called(*args, **kwargs):
        calls.append(place)
        if len(calls) == number:
            print(*children(os.getpid()), flush=True)
            os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    setattr(holder, place, called)
    sys.exit(train_main(sys.argv[4:]))
"""


def train_until(place, number, signum, run, *flags):
    """Train in a process that gets a signal; its exit code, lines on stderr, and workers that it leaves."""
    script = textwrap.dedent(SCRIPT)
    command = [sys.executable, "-c", script, place, str(number), str(int(signum)), *FLAGS, *flags]
    environment = script_environment()
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment['PYTHONPATH']}"
    done = subprocess.run(
        [*command, "--run-folder", str(run)],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    pids = [int(pid) for pid in done.stdout.split() if os.path.exists(f"/proc/{pid}")]
    with Lives(pids) as workers:
        return done.returncode, done.stderr.splitlines(), workers.alive_after(2.0)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The weights of the undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train_main([*FLAGS, "--num-workers", "0", "--run-folder", str(run)]) == 0
    return json.loads((run / "summary.json").read_text())["weights_sha256"]


@pytest.mark.parametrize(("place", "number"), [("update", 4), ("fsync", 25)])
def test_a_killed_run_leaves_nothing_and_goes_on(place, number, expected, tmp_path):
    run = tmp_path / "run"
    code, _, workers = train_until(place, number, signal.SIGKILL, run, "--checkpoint-every", "1")
    assert (code, workers) == (-signal.SIGKILL, set())
    assert len(Checkpoints(run / "checkpoints", 2).newest_first()) == 2
    assert not (run / "summary.json").exists()
    assert train_main(["--resume", str(run), "--num-workers", "0"]) == 0
    assert json.loads((run / "summary.json").read_text())["weights_sha256"] == expected


@pytest.mark.parametrize(
    ("place", "number", "holds"),
    [
        ("fsync", 1, "command"),
        ("fsync", 3, "settings"),
        ("fsync", 5, "settings"),
        ("update", 1, "checkpoint"),
    ],
)
def test_a_run_that_is_killed_as_it_begins_goes_on_or_begins_again(
    place, number, holds, expected, tmp_path, capsys
):
    run, copy = tmp_path / "run", tmp_path / "copy"
    code, _, workers = train_until(place, number, signal.SIGKILL, run)
    assert (code, workers) == (-signal.SIGKILL, set())
    assert (run / "config.yaml").exists() == (holds != "command")
    found = Checkpoints(run / "checkpoints", 2).newest_first()
    assert [each.name for each in found] == (["0"] if holds == "checkpoint" else [])
    shutil.copytree(run, copy)
    for folder, flags in ((run, ["--resume", str(run), "--num-workers", "0"]), (copy, begin(copy))):
        code = train_main(flags)
        err = capsys.readouterr().err
        if holds == ("command" if folder == run else "checkpoint"):
            assert (code, len(err.splitlines())) == (2, 1)
            continue
        summary = json.loads((folder / "summary.json").read_text())
        assert (code, summary["weights_sha256"]) == (0, expected)
        assert list(folder.glob("*.tmp")) == []
        begins = f"{run} was interrupted before its first checkpoint: it begins at its beginning" in err
        assert begins == (holds == "settings" and folder == run)


def begin(run):
    return [*FLAGS, "--num-workers", "0", "--run-folder", str(run)]


def test_a_run_that_is_stopped_in_an_update_writes_a_checkpoint_first(expected, tmp_path):
    run = tmp_path / "run"
    code, lines, workers = train_until("optimize", 4, signal.SIGTERM, run)
    assert (code, workers) == (143, set())
    newest, _ = Checkpoints(run / "checkpoints", 2).newest_first()
    steps = int(newest.name)
    assert lines == [
        f"train: checkpoint at {steps:,} steps; --resume {run} goes on from there",
        "train: stopped by SIGTERM",
    ]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"], summary["iterations"]) == ("stopped", steps, 3)
    assert train_main(["--resume", str(run), "--num-workers", "0"]) == 0
    assert json.loads((run / "summary.json").read_text())["weights_sha256"] == expected
