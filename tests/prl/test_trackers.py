"""Experiment trackers: what they are told, that they go on with a run, and that none of them ends one."""

import contextlib
import csv
import dataclasses
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import tracker_stubs
from test_sinks import SMALL

from prl.async_ppo import AsyncPPO
from prl.cli import train_main
from prl.config.train_config import ConfigError, TrainConfig
from prl.quickstart import PPO
from prl.run.tracker_tools import finite, mlflow_name, mlflow_sink, name_of_run, summary_metrics
from prl.run.trackers import find_trackers, written_settings
from prl.run.train import train
from prl.tuning.runs import run_folder

TOOLS = sorted(tracker_stubs.TOOLS)


def run(folder, *names, resume=None, **settings):
    config = dataclasses.replace(SMALL, track=names, run_folder=folder, **settings)
    return train(config, resume=resume)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("name", TOOLS)
def test_a_tracker_gets_settings_metrics_evaluations_and_the_summary(name, tmp_path, monkeypatch, capsys):
    tool = tracker_stubs.install(monkeypatch, name)
    summary = run(tmp_path / "cartpole", name, track_project="walks", eval_freq=300, eval_episodes=1)
    [opened] = tool.opened
    assert opened["project"] == "walks"
    assert opened["name"].startswith("cartpole")
    assert opened["config"]["env_id"] == "CartPole-v1"
    assert opened["config"]["hidden_sizes"] in ([8], "[8]")
    assert opened["config"].keys() == written_settings(tmp_path / "cartpole").keys()
    rows = tool.calls("log")
    updates = [step for step, row in rows if "rollout/ep_rew_mean" in row]
    assert len(updates) == summary["iterations"] >= 2
    assert all(row["time/total_timesteps"] == step for step, row in rows if "time/total_timesteps" in row)
    assert {row["eval/timesteps"] for _, row in rows if "eval/timesteps" in row} <= set(updates)
    assert sorted(updates) == updates
    told = dict(tool.calls("summary")[0][0]) if name == "wandb" else rows[-1][1]
    assert told["summary/best_mean_return"] == summary["best_mean_return"]
    assert tool.calls("finish") == [[0]]
    assert capsys.readouterr().out == ""  # what tools print is no result


@pytest.mark.parametrize("name", TOOLS)
def test_a_run_that_goes_on_goes_on_in_the_same_run_of_the_tracker(name, tmp_path, monkeypatch):
    tool = tracker_stubs.install(monkeypatch, name)
    first = run(tmp_path / "run", name, total_timesteps=300)
    second = run(tmp_path / "run", name, total_timesteps=600, resume=tmp_path / "run")
    assert len(tool.opened) == 2
    [told] = tool.runs
    assert json.loads((tmp_path / f"run/trackers/{name}.json").read_text()) == {"run": told}
    updates = [step for step, row in tool.calls("log") if "rollout/ep_rew_mean" in row]
    assert updates == sorted(set(updates))
    assert (updates[-1], len(updates)) == (second["timesteps"], second["iterations"])
    assert first["timesteps"] in updates
    assert len(tool.calls("finish")) == 2


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        *((name, ("log", "summary", "finish")) for name in TOOLS),
        *((name, ("init",)) for name in ("wandb", "mlflow")),
        *((name, ("finish",)) for name in ("trackio", "mlflow")),
    ],
)
def test_a_tracker_that_raises_costs_one_line(name, fails, tmp_path, monkeypatch, expected):
    tracker_stubs.install(monkeypatch, name, fails)
    with pytest.warns(UserWarning, match=f"track {name} failed") as caught:
        summary = run(tmp_path / "run", name)
    [line] = [str(warning.message) for warning in caught]
    what = "failed to close" if fails == ("finish",) else "failed and is left out"
    assert line == f"track {name} {what}: ConnectionError: no answer to {fails[0]} at all"
    assert summary["weights_sha256"] == expected["weights_sha256"]
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


def test_a_run_that_fails_is_told_as_one(tmp_path, monkeypatch):
    class Ends:
        def write(self, timesteps, metrics):
            raise KeyboardInterrupt

        def close(self):
            pass

    tools = [tracker_stubs.install(monkeypatch, name) for name in TOOLS]
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(SMALL, track=TOOLS, run_folder=tmp_path / "run"), sinks=[Ends()])
    told = {name: tool.calls("finish") for name, tool in zip(TOOLS, tools, strict=True)}
    assert told == {"mlflow": [[1]], "swanlab": [[1]], "trackio": [[0]], "wandb": [[1]]}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    flags = ["--env-id", "CartPole-v1", "--run-folder", str(tmp_path / "run"), "--track", name]
    assert train_main(flags) == 2
    hint = f'train: track {name} needs the extra "track-{name}": pip install "prl[track-{name}]"\n'
    assert capsys.readouterr().err == hint
    assert not (tmp_path / "run").exists()


def test_a_folder_with_the_name_of_a_tool_is_no_tool(tmp_path, monkeypatch):
    """Weights & Biases writes into `wandb`, where a run is started."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="needs the extra"):
        find_trackers(["wandb"])


def test_an_unknown_name_lists_those_that_are_installed(monkeypatch):
    tracker_stubs.install(monkeypatch, "wandb")
    for name in ("mlflow", "trackio", "swanlab"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as error:
        find_trackers(["wandb", "wandbb"])
    assert str(error.value) == (
        "track must be wandb, mlflow, trackio, swanlab or an entry point of prl.sinks, got 'wandbb'; "
        "did you mean wandb?; installed are: wandb"
    )


GUIDE = (Path(__file__).parents[2] / "docs/guide.md").read_text(encoding="utf-8")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package of the guide, with a second entry point that leads nowhere."""
    [program] = re.findall(r"```python\n([^`]*class Notes:.*?)```", GUIDE, re.DOTALL)
    [entry_point] = re.findall(r"```toml\n\[project.entry-points.\"prl.sinks\"\]\n(notes = .*?)\n```", GUIDE)
    (tmp_path / "my_package.py").write_text(program)
    about = tmp_path / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = ["[prl.sinks]", entry_point.replace('"', ""), "broken = my_package:Nothing"]
    (about / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_package", None)


@pytest.mark.usefixtures("package")
def test_a_tracker_of_another_package_is_found_by_its_entry_point(tmp_path):
    summary = run(tmp_path / "run", "notes")
    first, *rows, last = (tmp_path / "run/notes.txt").read_text().splitlines()
    assert (first, last) == ("CartPole-v1", "finished")
    assert len(rows) == summary["iterations"]
    assert rows[-1].split()[0] == str(summary["timesteps"])


@pytest.mark.usefixtures("package")
def test_an_entry_point_that_cannot_be_imported_is_named():
    with pytest.raises(ConfigError, match="track broken: my_package:Nothing cannot be imported: module"):
        find_trackers(["broken"])


def test_a_list_of_names_is_wanted():
    with pytest.raises(ConfigError, match="track must be a list, each text, got 'wandb'"):
        TrainConfig(env_id="CartPole-v1", track="wandb")


def test_settings_that_yaml_cannot_hold_are_described(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "env_kwargs: {f: !not-written a function, t: !tuple [1]}\nseed: 1\n"
    )
    assert written_settings(tmp_path) == {"env_kwargs": {"f": "a function", "t": [1]}, "seed": 1}
    assert written_settings(tmp_path / "nowhere") == {}


def test_what_is_not_known_is_left_out():
    assert finite({"a": 1, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}
    assert summary_metrics({"status": "finished", "mean_return": None, "seed": 3}) == {"summary/seed": 3.0}


def test_mlflow_gets_no_row_twice_after_a_kill(tmp_path, monkeypatch):
    """A run that was killed goes on before the last rows that were logged."""
    tool = tracker_stubs.install(monkeypatch, "mlflow")
    settings = {"track_project": "prl", "env_id": "CartPole-v1"}
    for rows in ((100, 200), (200, 300)):
        sink = mlflow_sink(settings, tmp_path)
        for steps in rows:
            sink.write(steps, {"time/total_timesteps": steps})
            sink.write(steps, {"eval/timesteps": steps, "eval/mean_reward": 1.0})
    logged = [(step, len(row)) for step, row in tool.calls("log")]
    assert logged == [(100, 1), (100, 2), (200, 1), (200, 2), (300, 1), (300, 2)]


def test_runs_are_told_apart_by_their_names(tmp_path):
    assert name_of_run(tmp_path / "runs" / "cartpole") == "cartpole"
    assert name_of_run(run_folder(tmp_path / "tune-CartPole-v1", 7, 3)) == "tune-CartPole-v1-0007-seed3"
    assert name_of_run(Path("/cartpole")) == "cartpole"


def test_names_that_mlflow_would_refuse_are_changed():
    assert mlflow_name("rollout/info/x_position") == "rollout/info/x_position"
    assert mlflow_name("rollout/info/reward (total), @50%") == "rollout/info/reward _total__ _50_"
    assert mlflow_name("eval/info/../a//") == "eval/info/_/a/_/_"


def quick_run(folder, **settings):
    ppo = PPO(is_continuous=False, action_dim=2, observ_dim=4, batch_size=100, hidden_sizes=(8,))
    return AsyncPPO("CartPole-v1", ppo, num_envs=2, steps=300, num_workers=0, run_folder=folder, **settings)


def test_a_run_of_the_quick_start_is_tracked(tmp_path, monkeypatch):
    tool = tracker_stubs.install(monkeypatch, "trackio")
    summary = quick_run(tmp_path / "run", track=["trackio"], track_project="quick").run()
    [opened] = tool.opened
    assert opened["project"] == "quick"
    assert opened["config"] == written_settings(tmp_path / "run")
    assert opened["config"]["track"] == ["trackio"]
    *rows, last = tool.calls("log")
    assert len(rows) == summary["iterations"]
    assert last[1]["summary/mean_return"] == summary["mean_return"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"track": ["wandbb"]}, "track must be wandb, mlflow, .* got 'wandbb'"),
        ({"track": "wandb"}, "track must be a list, each text, got 'wandb'"),
        ({"track": ["trackio"], "track_project": ""}, "track_project must be a name, got ''"),
        ({"track": ["trackio"], "folder": None}, "track needs a run_folder"),
    ],
)
def test_what_the_quick_start_cannot_track_is_told_before_anything_starts(
    settings, message, tmp_path, monkeypatch
):
    tool = tracker_stubs.install(monkeypatch, "trackio")
    with pytest.raises(ConfigError, match=message):
        quick_run(**({"folder": tmp_path / "run"} | settings))
    assert not tool.opened
    assert not (tmp_path / "run").exists()


def of_mlflow(folder):
    """Steps and settings that MLflow has, read with MLflow."""
    code = """
import json
from mlflow import MlflowClient
client = MlflowClient()
[run] = client.search_runs([client.get_experiment_by_name("prl").experiment_id])
rows = client.get_metric_history(run.info.run_id, "rollout/ep_rew_mean")
assert run.info.status == "FINISHED"
print(json.dumps([sorted(row.step for row in rows), run.data.params["env_id"]]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout)


def of_trackio(folder):
    """Steps and settings that Trackio has; it has no way to ask for them in Python."""
    with contextlib.closing(sqlite3.connect(folder / "prl.db")) as base:
        rows = base.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
        [[settings]] = base.execute("SELECT config FROM configs").fetchall()
    steps = [step for step, metrics in rows if "rollout/ep_rew_mean" in json.loads(metrics)]
    return [steps, json.loads(settings)["env_id"]]


def of_files(folder):
    """Tools that write for a later upload: they have no way to be asked."""
    return None


REAL = {"mlflow": of_mlflow, "trackio": of_trackio, "wandb": of_files, "swanlab": of_files}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOOLS if importlib.util.find_spec(name) is not None])
def test_the_real_tools_without_a_network(name, tmp_path):
    surroundings = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "TRACKIO_DIR": str(tmp_path)}
    begin = "--env-id CartPole-v1 --num-workers 0 --num-envs 4 --batch-size 200 --run-folder run --track"
    for flags in (f"{begin} {name} --total-timesteps 600", "--resume run --total-timesteps 1200"):
        done = subprocess.run(
            [sys.executable, "-m", "prl", "train", *flags.split()],
            cwd=tmp_path,
            env={**os.environ, **surroundings},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert f"track {name}" not in done.stderr, done.stderr
        assert done.stdout.startswith("CartPole-v1: "), done.stdout
        assert done.stdout.count("\n") == 1
    with (tmp_path / "run/progress.csv").open() as file:
        steps = [int(float(row["time/total_timesteps"])) for row in csv.DictReader(file)]
    assert REAL[name](tmp_path) in ([steps, "CartPole-v1"], None)
    assert (tmp_path / f"run/trackers/{name}.json").is_file()
