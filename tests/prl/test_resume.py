"""A run that goes on from a checkpoint: the same bits and the same metrics as if it had never ended."""

import csv
import dataclasses
import json
import os
import shutil
import struct

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_sinks import SMALL, Recording

from learner.settings import ConfigError
from prl.cli import train_main
from prl.run.checkpoint_files import read_checkpoint, to_files
from prl.run.periodic_evaluation import Evaluation, EvaluationsSoFar
from prl.run.rewinding import rewind_csv, rewind_events
from prl.run.run_files import load_config
from prl.run.run_folder import here_and_now
from prl.run.saved_run import evaluate_run
from prl.run.train import train
from prl.training.evaluate import Episode

# Every update writes a checkpoint and all are kept, so that a copy of the folder without the later ones is
# what a run leaves that was killed: metrics of later updates are there, too.
BASE = dataclasses.replace(
    SMALL,
    num_envs=6,
    num_groups=2,
    total_timesteps=1500,
    batch_size=250,
    num_epochs=2,
    hidden_sizes=(16,),
    actor_lr=1e-2,
    max_episode_steps=40,
    seed=5,
    checkpoint_every=1,
    keep_checkpoints=100,
)
NORMALIZED = {"normalize_obs": True, "normalize_reward": True}
STEPS = {"rollout": "steps", "num_steps": 25}
MODES = {
    "episodes": {"eval_freq": 400, "eval_episodes": 2, "anneal_lr": True},
    "steps, normalised": {**STEPS, **NORMALIZED, "eval_freq": 700, "eval_episodes": 2},
    "episodes, overlap, normalised, rnd": {"overlap": True, "rnd": True, **NORMALIZED},
    "steps, overlap, rnd": {**STEPS, "overlap": True, "rnd": True, "anneal_clip_range": True},
}
TIMES = ("time/", "checkpoint/")


def settings_of(mode):
    return dataclasses.replace(BASE, **MODES[mode])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """For each mode the folder of a run that was never interrupted, and its summary."""
    runs = {}

    def of(mode):
        if mode not in runs:
            folder = tmp_path_factory.mktemp("whole") / "run"
            runs[mode] = folder, train(dataclasses.replace(settings_of(mode), run_folder=folder))
        return runs[mode]

    return of


def checkpoints_of(run):
    """Of updates."""
    return sorted(int(name) for name in os.listdir(run / "checkpoints") if name != "0")


def killed_after(run, timesteps, to):
    """A copy of a run as it was left when it was killed after the checkpoint of so many steps."""
    shutil.copytree(run, to)
    for later in checkpoints_of(to):
        if later > timesteps:
            shutil.rmtree(to / "checkpoints" / str(later))
    (to / "summary.json").unlink()
    return to


def rows_of(file):
    """The rows of a CSV file of metrics, without what depends on the time."""
    with file.open(newline="") as rows:
        return [
            {
                name: value
                for name, value in row.items()
                if not name.startswith(TIMES) or name == "time/iterations"
            }
            for row in csv.DictReader(rows)
        ]


def assert_same(run, summary, whole, expected):
    """What came of a run that went on is what came of the undisturbed one."""
    names = (
        "status",
        "timesteps",
        "iterations",
        "episodes",
        "mean_return",
        "weights_sha256",
        "best_timesteps",
    )
    assert {name: summary[name] for name in names} == {name: expected[name] for name in names}
    assert rows_of(run / "progress.csv") == rows_of(whole / "progress.csv")
    weights = "weights/policy.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    if (whole / "best").exists():
        assert (run / "evaluations.csv").read_text() == (whole / "evaluations.csv").read_text()
        assert (run / "best/policy.safetensors").read_bytes() == (
            whole / "best/policy.safetensors"
        ).read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_run_goes_on_to_the_same_bits(mode, undisturbed, tmp_path):
    whole, expected = undisturbed(mode)
    moments = checkpoints_of(whole)
    assert len(moments) >= 5
    for moment in (0, *moments[1:-1:2]):
        run = killed_after(whole, moment, tmp_path / str(moment))
        assert_same(run, train(resume=run), whole, expected)


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("episodes", {"num_workers": 2, "acting": "worker"}),
        ("steps, normalised", {"num_workers": 1, "acting": "learner", "transport": "pipe"}),
        ("steps, overlap, rnd", {"num_workers": 2, "acting": "worker"}),
    ],
)
def test_it_may_go_on_in_other_processes(mode, changes, undisturbed, tmp_path):
    whole, expected = undisturbed(mode)
    run = killed_after(whole, checkpoints_of(whole)[1], tmp_path / "run")
    config = dataclasses.replace(settings_of(mode), **changes)
    assert_same(run, train(config, resume=run), whole, expected)
    assert load_config(run).num_workers == changes["num_workers"]


def test_steps_by_autograd_go_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("learner.fused_step.fits", lambda policy: False)
    monkeypatch.setattr("learner.fused_rnd.fits", lambda networks: False)
    config = dataclasses.replace(BASE, rnd=True, total_timesteps=900)
    expected = train(dataclasses.replace(config, run_folder=tmp_path / "whole"))
    run = killed_after(tmp_path / "whole", checkpoints_of(tmp_path / "whole")[1], tmp_path / "run")
    assert_same(run, train(resume=run), tmp_path / "whole", expected)


def test_a_run_of_a_gpu_goes_on_with_steps_by_hand(tmp_path, monkeypatch):
    """Its optimisers are PyTorch's; on the CPU they go on by hand, to nearly the same weights."""
    config = dataclasses.replace(BASE, rnd=True, total_timesteps=900, device="auto")
    with monkeypatch.context() as patch:
        patch.setattr("learner.fused_step.fits", lambda policy: False)
        patch.setattr("learner.fused_rnd.fits", lambda networks: False)
        train(dataclasses.replace(config, run_folder=tmp_path / "whole"))
    run = killed_after(tmp_path / "whole", checkpoints_of(tmp_path / "whole")[1], tmp_path / "run")
    rewrite(run, about={"device": "cuda"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with (
        pytest.warns(UserWarning, match="device cuda is not there; the run goes on on the CPU"),
        pytest.warns(UserWarning, match=r"last bits .* will differ from here on: device cpu \(was cuda\)"),
    ):
        train(resume=run)
    ours, theirs = (rows_of(folder / "progress.csv") for folder in (run, tmp_path / "whole"))
    assert len(ours) == len(theirs) == 3
    for name in ("train/policy_loss", "train/value_loss", "train/rnd_loss", "rollout/ep_rew_mean"):
        assert float(ours[2][name]) == pytest.approx(float(theirs[2][name]), rel=1e-2), name


def rewrite(run, about=None, state=lambda state: None):
    """Change what the newest checkpoint of a run says, and seal it again."""
    path = run / "checkpoints" / str(checkpoints_of(run)[-1])
    found = read_checkpoint(path)
    state(found.state)
    changed = dataclasses.replace(found, about={**found.about, **(about or {})})
    for name, content in to_files(changed).items():
        (path / name).write_bytes(content)


# ---- the end of a run


def test_a_raised_total_gives_what_a_longer_run_gives(tmp_path):
    config = dataclasses.replace(settings_of("episodes"), eval_freq=0, anneal_lr=False)
    expected = train(dataclasses.replace(config, run_folder=tmp_path / "whole"))
    train(dataclasses.replace(config, total_timesteps=600, run_folder=tmp_path / "run"))
    summary = train(config, resume=tmp_path / "run")
    assert_same(tmp_path / "run", summary, tmp_path / "whole", expected)
    assert load_config(tmp_path / "run").total_timesteps == 1500


def test_overlapped_runs_can_be_made_longer_too(tmp_path):
    config = dataclasses.replace(settings_of("steps, overlap, rnd"), anneal_clip_range=False)
    expected = train(dataclasses.replace(config, run_folder=tmp_path / "whole"))
    train(dataclasses.replace(config, total_timesteps=700, run_folder=tmp_path / "run"))
    assert train(config, resume=tmp_path / "run")["weights_sha256"] == expected["weights_sha256"]


class Stopping(Recording):
    """Ends the run while an update is recorded: it goes back to the one before."""

    def __init__(self, update):
        super().__init__()
        self.update = update

    def write(self, timesteps, metrics):
        super().write(timesteps, metrics)
        if metrics.get("time/iterations") == self.update:
            raise KeyboardInterrupt


def test_a_run_that_is_stopped_writes_a_checkpoint_of_its_last_whole_update(undisturbed, tmp_path):
    whole, expected = undisturbed("episodes")
    run, lines = tmp_path / "run", []
    config = dataclasses.replace(settings_of("episodes"), run_folder=run, checkpoint_every="1000s")
    with pytest.raises(KeyboardInterrupt):
        train(config, sinks=[Stopping(4)], log=lines.append)
    third = checkpoints_of(whole)[2]
    assert max(checkpoints_of(run)) == third
    assert lines == [f"checkpoint at {third:,} steps; --resume {run} goes on from there"]
    assert json.loads((run / "summary.json").read_text())["checkpoint"] == third
    assert_same(run, train(resume=run), whole, expected)


def test_a_run_that_fails_can_go_on(undisturbed, tmp_path):
    whole, expected = undisturbed("episodes")

    class Failing(gym.Wrapper):
        resets = 0

        def reset(self, **options):
            Failing.resets += 1
            if Failing.resets == 60:
                raise OSError("the simulator's licence has ended")
            return super().reset(**options)

    gym.register("test/Failing-v0", lambda: Failing(gym.make("CartPole-v1")))
    run = tmp_path / "run"
    config = dataclasses.replace(settings_of("episodes"), env_id="test/Failing-v0", run_folder=run)
    try:
        with pytest.raises(RuntimeError, match="licence"):
            train(config)
        assert json.loads((run / "summary.json").read_text())["status"] == "failed"
        assert_same(run, train(resume=run), whole, expected)
    finally:
        del gym.registry["test/Failing-v0"]


def test_a_run_that_is_done_writes_its_summary_again(undisturbed, tmp_path):
    whole, expected = undisturbed("episodes")
    run = killed_after(whole, 10**9, tmp_path / "run")
    sink, lines = Recording(), []
    summary = train(resume=run, sinks=[sink], log=lines.append)
    assert_same(run, summary, whole, expected)
    assert (sink.calls, sink.closed) == ([], 1)
    assert lines == ["all of its 1,500 steps are done; with a larger total_timesteps it goes on"]
    assert (run / "summary.json").is_file()


def test_the_time_before_counts(undisturbed, tmp_path):
    whole, _ = undisturbed("episodes")
    run = killed_after(whole, checkpoints_of(whole)[1], tmp_path / "run")
    rewrite(run, state=lambda state: state.update(seconds=1000.0))
    assert 1000.0 < train(resume=run)["wall_seconds"] < 2000.0


def test_without_checkpoints_there_is_nothing_to_go_on_from(tmp_path):
    run = tmp_path / "run"
    summary = train(dataclasses.replace(SMALL, checkpoint_every=0, run_folder=run))
    assert summary["checkpoint"] is None
    assert not (run / "checkpoints").exists()
    with pytest.raises(
        ConfigError, match=r"run has no checkpoint to go on from; --config .*run/config\.yaml"
    ):
        train(resume=run)


# ---- what may differ


def test_other_settings_are_named(undisturbed, tmp_path):
    whole, _ = undisturbed("episodes")
    run = killed_after(whole, checkpoints_of(whole)[1], tmp_path / "run")
    config = dataclasses.replace(settings_of("episodes"), gamma=0.9, clip_range=0.1, num_workers=0)
    with pytest.warns(UserWarning, match="goes on with other settings") as caught:
        train(config, resume=run)
    [line] = [str(warning.message) for warning in caught]
    assert line.startswith(f"{run} goes on with other settings than it began with: ")
    assert line.endswith("with: gamma 0.9 (was 0.99), clip_range 0.1 (was 0.2)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "Acrobot-v1"}, "cannot go on with other spaces: its env had Box"),
        ({"hidden_sizes": (8,)}, r"checkpoint \d+: learner/policy/actor\.0\.weight is \(16, 4\)"),
        ({"num_envs": 4}, "6 elements, not 4|num_envs 6, not 4"),
        ({"seed": 6}, "seed 5, not 6"),
        ({"rnd": True}, "learner/exploration is of another kind"),
        ({"run_folder": "elsewhere"}, "a run goes on in its own folder: run_folder cannot be elsewhere"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*goes on with other settings")
def test_what_cannot_go_on_is_one_line_and_changes_nothing(changes, message, undisturbed, tmp_path):
    whole, _ = undisturbed("episodes")
    run = killed_after(whole, checkpoints_of(whole)[1], tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=message):
        train(dataclasses.replace(settings_of("episodes"), **changes), resume=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_another_machine_or_version_is_said(undisturbed, tmp_path):
    whole, expected = undisturbed("episodes")
    run = killed_after(whole, checkpoints_of(whole)[1], tmp_path / "run")
    rewrite(run, about={"made_by": {**here_and_now(), "fingerprint": "0123", "torch": "1.0"}})
    with pytest.warns(UserWarning, match="last bits of weights will differ from here on") as caught:
        assert_same(run, train(resume=run), whole, expected)
    assert "fingerprint" in str(caught[0].message)
    assert "(was 1.0)" in str(caught[0].message)


class Unseeded(gym.Env):
    """Shows how many steps this process has made, whatever it is reset with."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.full(2, Unseeded.steps, np.float32), {}

    def step(self, action):
        Unseeded.steps += 1
        return np.full(2, Unseeded.steps, np.float32), 1.0, False, False, {}


def test_envs_that_cannot_be_brought_back_lose_their_episodes(tmp_path):
    gym.register("test/Unseeded-v0", Unseeded, max_episode_steps=70)
    config = dataclasses.replace(BASE, **STEPS, env_id="test/Unseeded-v0", run_folder=tmp_path / "run")
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, sinks=[Stopping(3)])
        with pytest.warns(
            UserWarning, match="6 running episodes cannot be brought back and are lost; others"
        ):
            summary = train(resume=tmp_path / "run")
    finally:
        del gym.registry["test/Unseeded-v0"]
    assert (summary["status"], summary["lost_episodes"]) == ("finished", 6)
    assert [row["time/iterations"] for row in rows_of(tmp_path / "run/progress.csv")] == list("12345")


class Dropping(torch.nn.Module):
    """An encoder that draws from torch's own generator."""

    def __init__(self, space):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3))

    def forward(self, obs):
        return self.layers(obs.float())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_an_encoder_draws_goes_on_too(tmp_path):
    config = dataclasses.replace(BASE, encoder="test_resume:Dropping", total_timesteps=800)
    expected = train(dataclasses.replace(config, run_folder=tmp_path / "whole"))
    run = killed_after(tmp_path / "whole", checkpoints_of(tmp_path / "whole")[0], tmp_path / "run")
    assert_same(run, train(resume=run), tmp_path / "whole", expected)


# ---- the folder


def test_a_killed_run_has_weights_to_play(tmp_path):
    run = tmp_path / "run"

    class Peeking(Recording):
        """Looks at the weights when an update is recorded: those of the checkpoint before."""

        def write(self, timesteps, metrics):
            if metrics.get("time/iterations") == 3:
                self.episodes = evaluate_run(run, 1)

    sink = Peeking()
    train(dataclasses.replace(settings_of("episodes"), run_folder=run), sinks=[sink])
    assert len(sink.episodes) == 1


def test_metrics_after_the_checkpoint_are_dropped_and_sinks_go_on(undisturbed, tmp_path):
    whole, _ = undisturbed("episodes")
    moment = checkpoints_of(whole)[2]
    run = killed_after(whole, moment, tmp_path / "run")
    with (run / "progress.csv").open("ab") as file:
        file.write(b"1,2,3")  # half a row
    sink = Recording()
    train(resume=run, sinks=[sink])
    updates = [metrics["time/iterations"] for _, metrics in sink.calls if "time/iterations" in metrics]
    assert updates == [4.0, 5.0, 6.0][: len(updates)]
    assert rows_of(run / "progress.csv") == rows_of(whole / "progress.csv")


def test_a_file_of_metrics_that_is_gone_begins_anew(undisturbed, tmp_path):
    whole, _ = undisturbed("episodes")
    run = killed_after(whole, checkpoints_of(whole)[2], tmp_path / "run")
    (run / "progress.csv").unlink()
    train(resume=run)
    assert rows_of(run / "progress.csv") == rows_of(whole / "progress.csv")[3:]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a,steps\r\n1,100\r\n2,200\r\n3,300\r\n", "a,steps\r\n1,100\r\n2,200\r\n"),
        ("a,steps\r\n1,100\r\n2,2", "a,steps\r\n1,100\r\n"),
        ("a,steps\r\n1,100\r\n2", "a,steps\r\n1,100\r\n"),
        ("a,steps\r\n1,100\r\nx,y\r\n2,200\r\n", "a,steps\r\n1,100\r\n"),
        ("a,steps\r\n1,300\r\n", "a,steps\r\n"),
        ("a,st", ""),
        ("other,column\r\n1,2\r\n", ""),
        ("", ""),
    ],
)
def test_rows_of_a_csv_file(text, kept, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text(text, newline="")
    assert rewind_csv(file, "steps", 250) == (["a", "steps"] if kept else [])
    assert file.read_bytes().decode() == kept


def test_steps_are_compared_with_the_digits_that_are_written(tmp_path):
    file = tmp_path / "rows.csv"
    steps = 1_234_567_890_123
    file.write_text(f"steps\n{steps:.8g}\n{steps + 10**6:.8g}\n")
    rewind_csv(file, "steps", steps)
    assert file.read_text() == f"steps\n{steps:.8g}\n"


def event(step):
    """A record of TensorBoard's as it is written: wall time, step, and a summary of one number."""
    digits, number = [], step
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    body = (
        bytes([0x09]) + struct.pack("<d", 1.5) + bytes([0x10, *digits, number]) + bytes([0x2A, 2, 0x10, 99])
    )
    return struct.pack("<QI", len(body), 0) + body + b"\0\0\0\0"


def test_events_of_tensorboard(tmp_path):
    first = struct.pack("<QI", 9, 0) + bytes([0x09]) + struct.pack("<d", 1.5) + b"\0\0\0\0"  # has no step
    early, late = (event(step) for step in (300, 100_000))
    (tmp_path / "events.out.tfevents.1").write_bytes(first + early + late + early)
    (tmp_path / "events.out.tfevents.2").write_bytes(first + early + late[:-3])
    (tmp_path / "notes.txt").write_bytes(late)
    rewind_events(tmp_path, 99_999)
    for number in (1, 2):
        assert (tmp_path / f"events.out.tfevents.{number}").read_bytes() == first + early
    assert (tmp_path / "notes.txt").read_bytes() == late
    rewind_events(tmp_path / "nowhere", 5)


def test_tensorboard_itself_reads_what_is_left(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from prl.run.sinks import TensorBoardSink

    for after, steps in ((None, (100, 200, 300)), (200, (250, 300))):
        if after is not None:
            rewind_events(tmp_path, after)
        sink = TensorBoardSink(tmp_path, after)
        for number in steps:
            sink.write(number, {"a": float(number)})
        sink.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [scalar.step for scalar in board.Scalars("a")] == [100, 200, 250, 300]


def test_evaluations_as_numbers():
    best = Evaluation(300, (Episode(1.5, 7), Episode(-2.0, 9)))
    so_far = EvaluationsSoFar(900, best, Evaluation(600, (Episode(0.1 + 0.2, 1),)))
    assert EvaluationsSoFar.of_numbers(json.loads(json.dumps(so_far.as_numbers()))) == so_far
    assert EvaluationsSoFar.of_numbers(EvaluationsSoFar().as_numbers()) == EvaluationsSoFar()
    with pytest.raises(ValueError, match="finite returns"):
        Evaluation.of_numbers({"timesteps": 1, "episodes": [[float("nan"), 3]]})
    with pytest.raises(ValueError, match="at least one episode"):
        Evaluation.of_numbers({"timesteps": 1, "episodes": []})


# ---- the command


def test_the_command_goes_on(undisturbed, tmp_path, capsys):
    whole, expected = undisturbed("episodes")
    run = killed_after(whole, checkpoints_of(whole)[1], tmp_path / "run")
    assert train_main(["--resume", str(run), "--num-workers", "0", "--checkpoint-every", "60s"]) == 0
    found = json.loads((run / "summary.json").read_text())
    assert_same(run, found, whole, expected)
    assert len((run / "command.txt").read_text().splitlines()) == 2
    assert load_config(run).checkpoint_every == "60s"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--gamma", "0.5"],
            "--gamma cannot be changed by --resume (RUN has 0.99); allowed are --total-timesteps,",
        ),
        (
            ["--total-timesteps", "100"],
            "--total-timesteps can only be raised by --resume: RUN has 1500, got 100",
        ),
        (
            ["--config", "x.yaml"],
            "--resume goes on with the settings of RUN, so --config x.yaml has no place",
        ),
        (["--env-id", "Acrobot-v1"], "--env-id cannot be changed by --resume (RUN has 'CartPole-v1')"),
        (["--run-folder", "x"], "--run-folder cannot be changed by --resume (RUN has None)"),
    ],
)
def test_flags_that_have_no_place(flags, message, undisturbed, capsys):
    whole, _ = undisturbed("episodes")
    assert train_main(["--resume", str(whole), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"train: {message}".replace("RUN", str(whole)))


def test_what_is_no_run_is_named(tmp_path, capsys):
    assert train_main(["--resume", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == f"train: --resume {tmp_path}: not the folder of a run, it has no config.yaml\n"
    )
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        train(resume=tmp_path)
    with pytest.raises(ConfigError, match="train needs a config, or the folder of a run to resume"):
        train()
