"""A run that its env ends keeps what has led there, in a file that its error names and that repeats it."""

import dataclasses
import re
from pathlib import Path

import pytest

from prl.cli import train_main
from prl.commands.main import dispatch
from prl.config.train_config import TrainConfig
from prl.run.crash_file import read_crash
from prl.run.periodic_evaluation import evaluation_seeds
from prl.run.train import train
from workers.errors import WorkerError
from workers.seeding import episode_seed

pytestmark = pytest.mark.filterwarnings("ignore:worker .* it is started again")
FLAGS = (
    *("--env-id", "doctor_envs:doctor/Faulty-v0", "--preset", "none", "--device", "cpu", "--seed", "5"),
    *("--num-envs", "4", "--num-groups", "2", "--batch-size", "60", "--total-timesteps", "900"),
    *("--hidden-sizes", "8", "--num-epochs", "1"),
)
INLINE = ("--num-workers", "0")
FAIL = ("--num-workers", "2", "--on-worker-failure", "fail")
WAYS = {
    "no workers": INLINE,
    "the learner acts": (*FAIL, "--acting", "learner"),
    "the learner acts, pipes": (*FAIL, "--acting", "learner", "--transport", "pipe"),
    "workers act": (*FAIL, "--acting", "worker"),
}
STEPS = ("--rollout", "steps", "--num-steps", "4")
STARTED = episode_seed(5, 2, 1)  # the second episode of env 2


def fails(run, capsys, flags, kwargs):
    """Train until the env ends the run; its error, the crash file that it names, and the replay's output."""
    assert train_main([*FLAGS, *flags, "--run-folder", str(run), "--env-kwargs", *kwargs]) == 1
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("train: "))
    [path] = re.findall(r"; prl replay (\S+) shows it$", error)
    assert dispatch(["replay", path], "prl") == 1
    return error, read_crash(Path(path)), capsys.readouterr().out.splitlines()[-1]


MODES = [
    ("no workers", ()),
    ("no workers", STEPS),
    ("the learner acts", STEPS),
    ("the learner acts, pipes", ()),
    ("workers act", ()),
    ("workers act", STEPS),
]


@pytest.mark.parametrize(("way", "rollout"), MODES)
def test_a_step_in_the_middle_of_an_episode(way, rollout, tmp_path, capsys):
    """With fixed steps, the episode was begun two rounds before the one in which it fails."""
    error, crash, last = fails(tmp_path / "run", capsys, (*WAYS[way], *rollout), ("fault=raise", "at_step=9"))
    assert "step 9: step(" in error
    assert len(crash.actions) == 9
    assert last == "failed as in the run after 8 steps"


@pytest.mark.parametrize(("way", "rollout"), MODES[1:5])
def test_a_reset(way, rollout, tmp_path, capsys):
    kwargs = ("fault=raise", "stage=reset", f"seed={STARTED}")
    error, crash, last = fails(tmp_path / "run", capsys, (*WAYS[way], *rollout), kwargs)
    assert f"env 2, seed {STARTED}, step 0: reset(seed={STARTED}) raised ValueError: boom" in error
    assert (crash.env, crash.seed, len(crash.actions)) == (2, STARTED, 0)
    assert last == "failed as in the run after 0 steps"


def test_a_reset_that_fails_three_times(tmp_path, capsys):
    flags = ("--num-workers", "1", "--acting", "worker")
    kwargs = ("fault=raise", "stage=reset", f"seed={STARTED}")
    _, crash, last = fails(tmp_path / "run", capsys, flags, kwargs)
    assert (crash.env, crash.seed) == (2, STARTED)
    assert last == "failed as in the run after 0 steps"


def test_an_evaluation(tmp_path, capsys):
    seed = evaluation_seeds(5, 3)[2]
    flags = (*INLINE, "--eval-freq", "60", "--eval-episodes", "3")
    error, crash, last = fails(
        tmp_path / "run", capsys, flags, ("fault=obs_nan", "at_step=2", f"seed={seed}")
    )
    assert error.startswith("train: in the evaluation, worker 0")
    assert (crash.env, crash.seed, len(crash.actions)) == (2, seed, 2)
    assert last == "failed as in the run after 1 steps"


# ---- envs that calls have changed

CONFIG = TrainConfig(
    env_id="changing_envs:failing/Hardens-v0",
    preset="none",
    device="cpu",
    num_envs=2,
    num_groups=2,
    batch_size=20,
    total_timesteps=900,
    hidden_sizes=(8,),
    num_epochs=1,
    rollout="steps",
    num_steps=10,
    num_workers=0,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_workers": 1, "on_worker_failure": "fail", "acting": "worker"},
        {"num_workers": 1, "acting": "learner", "max_restarts": 3},  # it ends soon, too
    ],
    ids=["no workers", "workers act", "recovering"],
)
@pytest.mark.filterwarnings("ignore:an episode of env .* is lost")
def test_the_calls_are_kept_too(changes, tmp_path, capsys):
    """After each update, 10 steps of an episode of 30: the second one leads to the failure."""
    config = dataclasses.replace(CONFIG, run_folder=tmp_path / "run", **changes)
    with pytest.raises(WorkerError, match=r"too hard.*; prl replay"):
        train(config, on_update=lambda trainer, report: trainer.call_envs("harden"))
    path = tmp_path / "run/crashes/crash-01.json"
    crash = read_crash(path)
    assert (len(crash.actions), [place for place, _ in crash.calls]) == (21, [10, 20])
    assert dispatch(["replay", str(path)], "prl") == 1
    assert "failed as in the run after 20 steps" in capsys.readouterr().out
