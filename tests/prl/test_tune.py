"""Studies: what is searched, who runs which trial, when one is ended, and what comes of it."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import script_environment

from learner.settings import ConfigError
from prl.commands.main import dispatch
from prl.commands.tune import TuneFlags
from prl.config.command_line import parse
from prl.config.train_config import TrainConfig
from prl.run.files import WriteError
from prl.tuning import locks
from prl.tuning.locks import JournalLock, WaitingLock
from prl.tuning.pruning import Steps, below_median
from prl.tuning.space import NOT_SEARCHED, Choices, Range, Space, default_space, read_space
from workers.errors import WorkerError

ROOT = Path(__file__).parents[2]
CARTPOLE = TrainConfig(env_id="CartPole-v1")


def test_without_the_extra_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert dispatch(["tune", "--env-id", "CartPole-v1", "--study", str(tmp_path / "study")], "prl") == 2
    err = capsys.readouterr().err
    assert err.startswith('tune: tune needs the extra "tune": pip install "prl[tune]" (')
    assert err.count("\n") == 1
    assert not (tmp_path / "study").exists()


# ---- what is searched


def test_the_default_space_holds_what_the_study_begins_with():
    config = TrainConfig(env_id="CartPole-v1", actor_lr=0.5, gamma=0.123, num_epochs=77, ent_coef=0.7)
    space = default_space(config, ())
    assert space.params_of(config).keys() == space.settings.keys()
    assert space.settings_of(space.params_of(config)) == {
        name: getattr(config, name) for name in space.settings
    }
    assert space.settings["actor_lr"] == Range(3e-5, 0.5, log=True)
    assert not space.settings.keys() & NOT_SEARCHED


def test_the_amount_of_data_is_searched_as_rounds_count_it():
    steps = TrainConfig(env_id="CartPole-v1", rollout="steps")
    assert {"num_steps", "batch_size"} & default_space(steps, ()).settings.keys() == {"num_steps"}
    assert {"num_steps", "batch_size"} & default_space(CARTPOLE, ()).settings.keys() == {"batch_size"}


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        (["--gamma", "0.99"], {"gamma"}),
        (["--gamma=0.99", "--no-anneal-lr"], {"gamma", "anneal_lr"}),
        ([], set()),
    ],
)
def test_flags_are_fixed_even_if_they_are_the_default(flags, given):
    config = parse(TuneFlags, ["--env-id", "CartPole-v1", *flags], prog="prl tune")
    assert config.given == {"env_id"} | given
    searched = default_space(config, config.given).settings.keys()
    assert searched == default_space(CARTPOLE, ()).settings.keys() - given


def test_a_config_file_is_where_the_study_begins_and_fixes_nothing(tmp_path):
    (tmp_path / "start.yaml").write_text("env_id: CartPole-v1\ngamma: 0.5\n")
    config = parse(TuneFlags, ["--config", str(tmp_path / "start.yaml")], prog="prl tune")
    space = default_space(config.settings(), config.given)
    assert space.settings_of(space.params_of(config.settings()))["gamma"] == 0.5


def test_everything_fixed_is_an_error():
    with pytest.raises(ConfigError, match="nothing is left to search"):
        default_space(CARTPOLE, default_space(CARTPOLE, ()).settings)


def space_of(tmp_path, text, given=()):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return read_space(file, CARTPOLE, given)


def test_a_space_is_read_as_it_was_written(tmp_path):
    text = "actor_lr: {low: 1e-5, high: 1e-2, log: true}\nnum_epochs: {low: 2, high: 5}\n"
    text += "hidden_sizes: {choices: [[64, 64], [8]]}\ntarget_kl: {choices: [null, 0.02]}\n"
    space = space_of(tmp_path, text)
    assert space == Space(
        {
            "actor_lr": Range(1e-5, 1e-2, log=True),
            "num_epochs": Range(2, 5, whole=True),
            "hidden_sizes": Choices(([64, 64], [8])),
            "target_kl": Choices((None, 0.02)),
        }
    )
    assert space_of(tmp_path, space.to_yaml()) == space
    assert space_of(tmp_path, default_space(CARTPOLE, ()).to_yaml()) == default_space(CARTPOLE, ())
    # num_epochs 10 is not in it, so the first trial draws it.
    assert space.params_of(CARTPOLE) == {"actor_lr": 1e-3, "hidden_sizes": "[64, 64]", "target_kl": "None"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gama: {choices: [0.9]}", "space.yaml: unknown setting 'gama'; did you mean gamma?"),
        (
            "seed: {low: 1, high: 3}",
            "space.yaml: seed is the same in all trials; searched can be activation, ",
        ),
        ("gamma: {low: 0.9, high: 1.5}", "space.yaml: gamma must be between 0 and 1, got 1.5"),
        ("gamma: {low: 0.9, high: 0.8}", "gamma: low and high must be numbers, low < high, got 0.9 and 0.8"),
        ("num_epochs: {low: 1.5, high: 3}", "low and high must be integers, low < high, got 1.5 and 3"),
        ("ent_coef: {low: 0, high: 0.1, log: true}", "log must be true or false, and true needs a positive"),
        ("activation: {low: 1, high: 3}", "activation is no number, so it needs {choices: [...]}"),
        ("activation: {choices: [tanh, gelu]}", "activation must be tanh or relu, got 'gelu'"),
        ("gamma: {choices: [0.9, 0.9]}", "choices must be a list of different values, got [0.9, 0.9]"),
        ("gamma: {choices: []}", "choices must be a list of different values, got []"),
        ("gamma: 0.9", "space.yaml: gamma must have {low: ..., high: ...}, with log: true if you like, or"),
        ("gamma: {low: 0.9}", "space.yaml: gamma must have {low"),
        ("vf_coef: {low: 0.1, high: 1}", "space.yaml: vf_coef is to be searched, but --vf-coef fixes it"),
        ("[1, 2]", "space.yaml must hold a mapping of settings to {low"),
        ("a: [", "cannot read "),
    ],
)
def test_a_wrong_space_is_named_in_one_line(text, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        space_of(tmp_path, text, given={"vf_coef"})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--startup-trials", "-1"], "startup_trials must be 0 or more, got -1"),
        (["--run-folder", "x"], "run_folder is chosen by the study; --study takes a folder for all of it"),
        (["--num-envs", "auto"], "num_envs auto may take another number in every trial; give one"),
        (["--space", "none.yaml"], "cannot read none.yaml: "),
    ],
)
def test_wrong_flags_end_in_one_line(flags, message, capsys):
    pytest.importorskip("optuna")
    assert dispatch(["tune", "--env-id", "CartPole-v1", *flags], "prl") == 2
    assert capsys.readouterr().err.startswith(f"tune: {message}")


def test_an_env_that_cannot_be_made_leaves_no_study_behind(tmp_path, capsys):
    pytest.importorskip("optuna")
    assert dispatch(["tune", "--env-id", "CartPol-v1", "--study", str(tmp_path / "study")], "prl") == 2
    assert capsys.readouterr().err == "tune: unknown env id 'CartPol-v1'; did you mean 'CartPole-v1'?\n"
    assert not (tmp_path / "study").exists()


# ---- when a trial is ended


def test_evaluations_have_the_number_of_the_multiple_that_was_crossed():
    steps = Steps(total=1000, freq=300)
    assert steps.per_run == 4
    assert [steps.step(0, timesteps) for timesteps in (300, 450, 600, 999, 1000, 1300)] == [1, 1, 2, 3, 4, 4]
    assert [steps.step(2, timesteps) for timesteps in (300, 1000)] == [9, 12]
    assert [steps.decides(timesteps) for timesteps in (249, 250)] == [False, True]


def test_a_trial_is_ended_below_the_median_of_at_least_five():
    assert below_median(2.9, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert not below_median(3.0, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert not below_median(0.0, [1.0, 2.0, 3.0, 4.0])


# ---- locks


def test_the_journal_loses_a_line_that_was_not_finished_and_no_other(tmp_path):
    journal = tmp_path / "journal.log"
    for content, left in [
        (b'{"a": 1}\n{"b"', b'{"a": 1}\n'),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b"x" * 10_000 + b"\n" + b"y" * 9_000, b"x" * 10_000 + b"\n"),
        (b"half", b""),
        (b"", b""),
    ]:
        journal.write_bytes(content)
        lock = JournalLock(journal)
        assert lock.acquire()
        lock.release()
        assert journal.read_bytes() == left


def test_who_waits_too_long_for_a_lock_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_DEADLINE", 0.05)
    with WaitingLock(tmp_path / "lock"), pytest.raises(WriteError, match="lock is locked by a process that"):
        WaitingLock(tmp_path / "lock").acquire()
    with WaitingLock(tmp_path / "lock"):
        pass
    with pytest.raises(WriteError, match=r"cannot lock .*: No such file"):
        WaitingLock(tmp_path / "none" / "lock").acquire()


# ---- the trials of a study

optuna = pytest.importorskip("optuna")

from prl.tuning import runs as runs_module  # noqa: E402
from prl.tuning.outcome import as_table  # noqa: E402
from prl.tuning.runs import Plan, TrialRuns  # noqa: E402
from prl.tuning.study import Study  # noqa: E402
from prl.tuning.tune import Search, _say_what_is_searched, tune  # noqa: E402

SPACE = Space({"gamma": Choices((0.9, 0.99)), "actor_lr": Range(1e-4, 1e-2, log=True)})
START = SPACE.params_of(CARTPOLE)


def open_study(folder, about="same", seed=1):
    return Study(folder / "study", {"about": about}, SPACE, START, seed, startup_trials=2)


def kill(study):
    """All that is left of a process: the system takes its lock."""
    study._life.release()


def test_a_study_begins_with_what_it_is_given_and_ends_with_its_number_of_trials(tmp_path):
    with open_study(tmp_path) as study:
        first = study.ask(trials=2)
        assert first.params == START
        study.end(first, [1.0, 4.0], timesteps=10)
        second = study.ask(trials=2)
        study.end(second, [], 10, "pruned at 10 steps")
        assert study.ask(trials=2) is None
        assert study.ask(trials=3) is not None
        done = study.trials()
    assert [trial.value for trial in done][:1] == [2.5]
    assert [trial.state.name for trial in done] == ["COMPLETE", "PRUNED", "RUNNING"]
    assert list((tmp_path / "study" / "processes").iterdir()) == []


def drawn(folder, seed):
    with open_study(folder, seed=seed) as study:
        params = []
        for value in (1.0, 3.0, 2.0, 5.0):
            trial = study.ask(trials=9)
            params.append(trial.params)
            study.end(trial, [value], 1)
        return params


def test_what_is_drawn_depends_on_the_seed_and_the_results_alone(tmp_path):
    first = drawn(tmp_path / "1", seed=1)
    assert first == drawn(tmp_path / "2", seed=1)
    assert first != drawn(tmp_path / "3", seed=2)
    assert first[1:] != [START, START, START]


def test_processes_share_the_trials_and_draw_different_ones(tmp_path):
    with open_study(tmp_path) as one, open_study(tmp_path) as other:
        trials = [one.ask(3), other.ask(3), one.ask(3)]
        assert [trial.number for trial in trials] == [0, 1, 2]
        assert trials[1].params != trials[2].params
        assert other.ask(3) is None  # nobody is dead


def test_the_trial_of_a_killed_process_is_repeated_once(tmp_path):
    killed = open_study(tmp_path)
    with open_study(tmp_path) as living:
        lost = killed.ask(trials=3)
        drawn_there = killed.ask(trials=3)
        kill(killed)
        again = [living.ask(trials=3), living.ask(trials=3)]
        assert [trial.params for trial in again] == [lost.params, drawn_there.params]
        assert living.ask(trials=3).number == 4  # those of the dead do not count
        assert living.ask(trials=3) is None
        assert [trial.number for trial in living.trials()] == [2, 3, 4]


def test_a_process_that_was_killed_while_it_asked_loses_no_trial(tmp_path):
    killed = open_study(tmp_path)
    killed._study.ask()  # without a name
    kill(killed)
    with open_study(tmp_path) as living:
        assert living.ask(trials=1).params == START
        assert living.ask(trials=1) is None


def test_a_killed_process_that_was_repeating_a_trial_is_repeated(tmp_path):
    for _ in range(2):
        killed = open_study(tmp_path)
        assert killed.ask(trials=1).params == START
        kill(killed)
    with open_study(tmp_path) as living:
        assert living.ask(trials=1).params == START
        assert living.ask(trials=1) is None


def test_a_torn_journal_goes_on(tmp_path):
    with open_study(tmp_path) as study:
        study.end(study.ask(trials=2), [1.0], 1)
    journal = tmp_path / "study" / "journal.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"wor')
    with open_study(tmp_path) as study:
        study.end(study.ask(trials=2), [2.0], 1)
        assert [trial.value for trial in study.trials()] == [1.0, 2.0]


def test_values_are_compared_with_trials_that_have_ended(tmp_path):
    with open_study(tmp_path) as study:
        ended, running = study.ask(9), study.ask(9)
        study.report(ended, 3, 7.0)
        study.report(running, 3, 8.0)
        study.end(ended, [7.0], 1)
        assert study.values_at(3) == [7.0]
        assert study.values_at(4) == []


def test_another_study_or_something_else_in_the_folder_is_refused(tmp_path):
    open_study(tmp_path).__exit__()
    with pytest.raises(ConfigError, match=r"study .* was begun with about same, not other; give what it was"):
        open_study(tmp_path, about="other")
    (tmp_path / "run" / "study").mkdir(parents=True)
    (tmp_path / "run" / "study" / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"holds something else \(config.yaml\); choose another --study"):
        open_study(tmp_path / "run")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "study").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        open_study(tmp_path / "file")
    (tmp_path / "study" / "journal.log").write_text("nonsense\nnonsense\n")
    with pytest.raises(ConfigError, match=r"journal.log is damaged: "):
        open_study(tmp_path)


# ---- the runs of a trial

TINY = TrainConfig(
    env_id="CartPole-v1", num_workers=0, num_envs=4, total_timesteps=400, batch_size=100, num_epochs=1,
    hidden_sizes=(8,), eval_freq=100, eval_episodes=1, device="cpu",
)  # fmt: skip


def run_trial(study, settings, seeds=2, prune=True):
    runs = TrialRuns(study, study.ask(99), Plan(TINY, seeds, 2, prune), settings)
    runs.play()
    return runs


def with_others(study, step, value):
    """Five trials that had this value at a step."""
    for _ in range(5):
        trial = study.ask(99)
        study.report(trial, step, value)
        study.end(trial, [value], 1)


def summary_of(study, trial, seed):
    return json.loads((study.folder / "trials" / f"{trial:04}" / f"seed{seed}" / "summary.json").read_text())


def test_a_trial_is_ended_within_its_first_run(tmp_path):
    with open_study(tmp_path) as study:
        for step in (1, 2):  # the first update crosses one of them
            with_others(study, step, 1e6)
        runs = run_trial(study, {"gamma": 0.5})
        summary = summary_of(study, 10, seed=0)
    assert runs.reason.startswith(f"pruned at {summary['timesteps']:,} steps of seed 0, return ")
    assert runs.returns == []
    assert runs.timesteps == summary["timesteps"] < 400
    assert summary["status"] == "stopped"
    assert (study.folder / "trials" / "0010" / "seed0" / "weights" / "policy.safetensors").is_file()
    assert not (study.folder / "trials" / "0010" / "seed1").exists()


@pytest.mark.parametrize(("prune", "num_runs"), [(True, 1), (False, 2)])
def test_only_a_trial_above_the_median_gets_to_the_next_seed(prune, num_runs, tmp_path):
    with open_study(tmp_path) as study:
        with_others(study, 4, 1e6)
        runs = run_trial(study, {}, prune=prune)
    assert len(runs.returns) == num_runs
    assert (runs.reason is not None) == prune
    assert (study.folder / "trials" / "0005" / "seed1").exists() != prune


def test_the_last_evaluation_of_the_last_seed_ends_no_trial(tmp_path):
    with open_study(tmp_path) as study:
        with_others(study, 8, 1e6)
        runs = run_trial(study, {})
    assert runs.reason is None
    assert len(runs.returns) == 2


def test_settings_that_cannot_be_together_end_their_trial(tmp_path):
    with open_study(tmp_path) as study:
        runs = run_trial(study, {"num_groups": 5})
    assert runs.reason == "not possible: num_groups must be at most num_envs (4), got 5"


def test_a_choice_that_cannot_be_run_ends_its_trial_and_not_the_study(tmp_path):
    """What only shows when a run begins; the settings that a study begins with are another matter."""
    with open_study(tmp_path) as study:
        with pytest.raises(ConfigError, match="No module named 'nowhere'"):
            run_trial(study, {"encoder": "nowhere:Encoder"})
        runs = run_trial(study, {"encoder": "nowhere:Encoder"})
        study.end(runs._trial, [], 0, runs.reason)
        assert runs.reason.startswith("not possible: encoder 'nowhere:Encoder': ")
        assert isinstance(runs.failure, ConfigError)
        assert as_table(study.trials()) == ["2 trials: 1 not possible, 1 running"]


def test_what_is_searched_is_said(tmp_path):
    def said(settings, **base):
        lines = []
        config = dataclasses.replace(TINY, **base)
        _say_what_is_searched(Search(Plan(config, 1, 2, True), Space(settings), 1, 1), lines.append)
        return lines

    coefficient = {"rnd_coef": Range(0.5, 1.0)}
    without = "rnd_coef is searched, but changes nothing without rnd"
    assert said(coefficient) == ["1 setting is searched: rnd_coef", without]
    assert said(coefficient, rnd=True) == ["1 setting is searched: rnd_coef"]
    assert said({**coefficient, "rnd": Choices((False, True))}) == ["2 settings are searched: rnd_coef, rnd"]
    assert said({"num_steps": Choices((64, 32))})[1:] == [
        "num_steps 128 is not in the space, so the first trial draws another",
        "num_steps is searched, but changes nothing without rollout steps",
    ]


def test_failing_envs_end_a_trial_and_three_in_a_row_the_study(tmp_path, monkeypatch):
    outcomes = iter(["env 1", None, "env 2", "env 3", "env 4"])

    def train(config, sinks, **others):
        if (what := next(outcomes)) is not None:
            raise WorkerError(what, worker=0, env_ids=[0])
        sinks[0].write(400, {"eval/mean_reward": 5.0})
        return {"timesteps": 400}

    monkeypatch.setattr(runs_module, "train", train)
    monkeypatch.setattr("prl.tuning.outcome.load_config", lambda run: TINY)
    lines = []
    search = Search(Plan(TINY, 1, 2, True), SPACE, trials=9, startup_trials=2)
    with pytest.raises(WorkerError, match="env 4"):
        tune(tmp_path / "study", search, log=lines.append)
    assert lines[1:] == [
        "trial 0: failed: worker 0 (envs 0) env 1",
        "trial 1: mean return 5.0 (5.0); best is trial 1 with 5.0",
        "trial 2: failed: worker 0 (envs 0) env 2",
        "trial 3: failed: worker 0 (envs 0) env 3",
        "trial 4: failed: worker 0 (envs 0) env 4",
    ]
    assert [row["state"] for row in rows_of(tmp_path / "study")] == ["failed", "finished"] + 3 * ["failed"]


# ---- whole studies

FLAGS = (
    *("tune", "--env-id", "CartPole-v1", "--preset", "none", "--num-workers", "0", "--num-envs", "4"),
    *("--total-timesteps", "400", "--batch-size", "128", "--num-epochs", "2", "--hidden-sizes", "8"),
    *("--eval-freq", "200", "--eval-episodes", "2", "--device", "cpu", "--seed", "7", "--seeds", "2"),
)
# Waits in its second update until it is killed.
WAITS = """
    import sys
    import learner.ppo
    from prl.commands.main import dispatch

    original, calls = learner.ppo.PPOLearner.update, []

    def update(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            print("in the middle", flush=True)
            sys.stdin.read()
        return original(*args, **kwargs)

    learner.ppo.PPOLearner.update = update
    sys.exit(dispatch(sys.argv[1:], "prl"))
"""


def sha256(run):
    return json.loads((run / "summary.json").read_text())["weights_sha256"]


def rows_of(study):
    with (study / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_goes_on_when_one_of_two_processes_is_killed_and_its_best_trial_can_be_repeated(
    tmp_path, capsys
):
    study = tmp_path / "study"
    flags = [*FLAGS, "--trials", "3", "--study", str(study)]
    environment = script_environment()
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment['PYTHONPATH']}"
    script = [sys.executable, "-c", textwrap.dedent(WAITS), *flags]
    other = subprocess.Popen(
        script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    with other:
        assert other.stdout.readline() == b"in the middle\n"
        assert dispatch(flags, "prl") == 0  # leaves the other its trial
        assert [(row["trial"], row["state"]) for row in rows_of(study)] == [
            ("0", "running"),
            ("1", "finished"),
            ("2", "finished"),
        ]
        other.kill()
    assert dispatch(flags, "prl") == 0
    rows = rows_of(study)
    assert [(row["trial"], row["state"]) for row in rows] == [(str(n), "finished") for n in (1, 2, 3)]
    assert rows[2]["actor_lr"] == "0.001"  # what the study was to begin with
    best = max(rows, key=lambda row: float(row["mean_return"]))
    out = capsys.readouterr().out
    assert f"prl train --config {study / 'best.yaml'} repeats" in out
    train = ["train", "--config", str(study / "best.yaml"), "--run-folder", str(tmp_path / "run")]
    assert dispatch(train, "prl") == 0
    assert sha256(tmp_path / "run") == sha256(study / "trials" / f"{int(best['trial']):04}" / "seed7")
    assert (tmp_path / "run" / "checkpoints").is_dir()  # which the trial's runs do not have
    evaluations = tmp_path / "run" / "evaluations.csv"
    with evaluations.open(newline="") as file:
        means = [float(row["eval/mean_reward"]) for row in csv.DictReader(file)]
    returns = [float(value) for value in best["returns"].split()]
    assert sum(means[-5:]) / len(means[-5:]) == pytest.approx(returns[0])
    assert float(best["mean_return"]) == pytest.approx(sum(returns) / 2)
