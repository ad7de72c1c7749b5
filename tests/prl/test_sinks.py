"""Sinks of a run and of the caller: what they get, and that their failures stay theirs."""

import csv
import dataclasses
import json
import math
import os
import sys
import threading
from types import SimpleNamespace

import pytest
from test_files import largest_file

import prl
from prl.config.train_config import ConfigError, TrainConfig
from prl.run.files import WriteError
from prl.run.progress_bar import ProgressBar
from prl.run.sinks import CsvSink, FaultTolerantSink, TensorBoardSink, open_sink
from prl.run.train import train

SMALL = TrainConfig(
    env_id="CartPole-v1",
    num_envs=4,
    num_workers=0,
    total_timesteps=600,
    batch_size=200,
    hidden_sizes=(8,),
    device="cpu",
    preset="none",
)


class Recording:
    """Keeps what it gets, and raises in the method that `fails` names."""

    def __init__(self, fails=None):
        self.fails = fails
        self.calls, self.closed = [], 0

    def write(self, timesteps, metrics):
        self.calls.append((timesteps, dict(metrics)))
        if self.fails == "write":
            raise ConnectionError("server gone\naway")

    def close(self):
        self.closed += 1
        if self.fails == "close":
            raise KeyError("session")


class Greedy(Recording):
    """Changes the metrics that it gets."""

    def write(self, timesteps, metrics):
        metrics.clear()


def test_a_sink_of_the_caller_gets_updates_and_evaluations(tmp_path):
    sink: prl.Sink = Recording()
    config = dataclasses.replace(SMALL, eval_freq=300, eval_episodes=2, run_folder=tmp_path / "run")
    summary = prl.train(config, sinks=[sink])
    updates = [(steps, metrics) for steps, metrics in sink.calls if "train/approx_kl" in metrics]
    evaluations = [(steps, metrics) for steps, metrics in sink.calls if "eval/mean_reward" in metrics]
    assert len(updates) + len(evaluations) == len(sink.calls)
    assert len(updates) == summary["iterations"] >= 2
    with (tmp_path / "run/progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time/total_timesteps"]) for row in rows] == [steps for steps, _ in updates]
    assert len(evaluations) == len((tmp_path / "run/evaluations.csv").read_text().splitlines()) - 1
    assert [metrics["eval/timesteps"] for _, metrics in evaluations] == [steps for steps, _ in evaluations]
    assert evaluations[-1][0] == summary["timesteps"]
    assert sink.closed == 1


@pytest.mark.parametrize(
    ("sinks", "got"),
    [
        (Recording(), "got one Recording; a single sink is sinks=[sink]"),
        ([Recording(), len], "got one builtin_function_or_method in it"),
        ([Recording], "got the class Recording in it"),
    ],
)
def test_what_is_no_list_of_sinks_is_refused_before_anything_is_written(sinks, got, tmp_path):
    with pytest.raises(ConfigError, match=r"^sinks must be a list of objects with ") as error:
        train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=sinks)
    assert str(error.value).endswith(got)
    assert not (tmp_path / "run").exists()


def test_an_object_that_is_passed_twice_is_one_sink(tmp_path):
    sink = Recording()
    summary = train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=[sink, sink])
    assert len(sink.calls) == summary["iterations"]
    assert sink.closed == 1


def test_a_run_that_ends_while_its_sinks_are_opened_is_summarised(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("prl.run.recorder.open_sink", interrupted)
    sink = Recording()
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=[sink])
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"
    assert (tmp_path / "run/weights/policy.safetensors").is_file()
    assert (sink.calls, sink.closed) == ([], 1)


def test_a_failing_sink_is_left_out_and_changes_nothing(tmp_path):
    expected = train(dataclasses.replace(SMALL, run_folder=tmp_path / "a"))
    broken, greedy, after = Recording("write"), Greedy(), Recording()
    with pytest.warns(UserWarning, match="failed and is left out") as caught:
        summary = train(dataclasses.replace(SMALL, run_folder=tmp_path / "b"), sinks=[broken, greedy, after])
    lines = sorted(str(warning.message) for warning in caught)
    assert len(lines) == 2
    assert lines[0].startswith("Greedy failed and is left out: AttributeError: ")  # metrics are read only
    assert lines[1] == "Recording failed and is left out: ConnectionError: server gone away"
    assert len(broken.calls) == 1
    assert (broken.closed, greedy.closed, after.closed) == (1, 1, 1)
    assert len(after.calls) == summary["iterations"]
    assert "rollout/ep_rew_mean" in after.calls[-1][1]
    assert summary["weights_sha256"] == expected["weights_sha256"]


def test_a_sink_that_fails_to_close_does_not_keep_the_summary_from_being_written(tmp_path):
    with pytest.warns(UserWarning, match="Recording failed to close: KeyError: 'session'"):
        train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=[Recording("close")])
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


def test_a_sink_is_closed_when_the_run_fails(tmp_path):
    class Stops(Recording):
        def write(self, timesteps, metrics):
            raise KeyboardInterrupt

    sink = Recording()
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=[Stops(), sink])
    assert sink.closed == 1
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"


def test_tensorboard_gets_both_kinds_of_metrics_and_is_closed_once(tmp_path, monkeypatch):
    opened = []

    class Board(Recording):
        def __init__(self, folder, settings):
            super().__init__()
            self.folder, self.settings = folder, settings
            opened.append(self)

        @staticmethod
        def available():
            return True

    monkeypatch.setattr("prl.run.recorder.TensorBoardSink", Board)
    train(dataclasses.replace(SMALL, eval_freq=600, eval_episodes=1, run_folder=tmp_path / "run"))
    [board] = opened
    assert board.folder == tmp_path / "run/tensorboard"
    assert (board.settings["env_id"], board.settings["hidden_sizes"]) == ("CartPole-v1", [8])
    assert {"rollout/ep_rew_mean", "eval/mean_reward"} <= {name for _, found in board.calls for name in found}
    assert board.closed == 1


def test_a_bar_needs_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    bar = ProgressBar(5)
    bar.write(5, {})
    bar.close()


def test_a_metric_that_joins_later_gets_a_column(tmp_path):
    sink = CsvSink(tmp_path / "rows.csv")
    sink.write(1, {"a": 1.0, "b, c": 2.0})
    sink.write(2, {"a": 3.0, "b, c": 4.0, "late": 0.5})
    sink.write(3, {"late": 0.25, "b, c": 6.0})
    sink.close()
    sink = CsvSink(tmp_path / "rows.csv", ["a", "b, c", "late"])
    sink.write(4, {"a": 7.0, "later": 8.0})
    sink.close()
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines == ['a,"b, c",late,later', "1,2,,", "3,4,0.5,", ",6,0.25,", "7,,,8"]
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_a_metric_that_joins_while_the_disk_is_full_joins_later(tmp_path, monkeypatch):
    def fails(path, content):
        raise WriteError(f"cannot write {path}: No space left on device")

    sink = CsvSink(tmp_path / "rows.csv")
    sink.write(1, {"a": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr("prl.run.sinks.replace_file", fails)
        sink.write(2, {"a": 2.0, "late": 0.5})
    sink.write(3, {"a": 3.0, "late": 0.25})
    sink.close()
    assert (tmp_path / "rows.csv").read_text().splitlines() == ["a,late", "1,", "2,", "3,0.25"]


def test_a_sink_that_cannot_be_opened_is_left_out(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    with pytest.warns(UserWarning, match=r"rows\.csv cannot be written and is left out: Is a directory"):
        assert open_sink(CsvSink, tmp_path / "rows.csv") == []
    [sink] = open_sink(CsvSink, tmp_path / "others.csv")
    sink.write(1, {"a": math.nan})
    sink.close()
    assert (tmp_path / "others.csv").read_text().split() == ["a", "nan"]


def test_training_continues_when_the_disk_is_full(tmp_path):
    """Metrics, checkpoints and best weights are left out with a warning; the last weights are an error."""
    config = dataclasses.replace(SMALL, hidden_sizes=(64, 64), eval_freq=300, eval_episodes=1)
    expected = train(dataclasses.replace(config, run_folder=tmp_path / "a"))
    folder = tmp_path / "b"
    with (
        pytest.warns(UserWarning, match="a checkpoint is not saved, older ones are kept: cannot write"),
        pytest.warns(UserWarning, match="the best policy is not saved") as caught,
        pytest.raises(WriteError) as error,
        largest_file(4000),
    ):
        train(dataclasses.replace(config, run_folder=folder))
    assert str(error.value) == f"cannot write {folder}/weights/policy.safetensors: File too large"
    lines = [str(warning.message) for warning in caught]
    assert (
        f"the best policy is not saved: cannot write {folder}/best/policy.safetensors: File too large"
        in lines
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["weights_sha256"] == expected["weights_sha256"]
    assert summary["failed_checkpoints"] >= 1
    assert not list(folder.rglob("*.tmp"))


def test_a_guarded_sink_passes_on_what_is_no_error_of_its_own():
    class Ends(Recording):
        def write(self, timesteps, metrics):
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        FaultTolerantSink(Ends()).write(1, {})


def test_rows_that_do_not_fit_on_the_disk_wait_until_they_do(tmp_path):
    [sink] = open_sink(CsvSink, tmp_path / "rows.csv")

    def write_much():
        for timesteps in range(100):
            sink.write(timesteps, {"a": timesteps, "b": 0.5})

    with largest_file(100), pytest.warns(UserWarning, match=r"rows\.csv cannot be written") as caught:
        write_much()
    assert [str(warning.message) for warning in caught] == [
        f"{tmp_path}/rows.csv cannot be written, its rows wait: File too large"
    ]
    assert (tmp_path / "rows.csv").stat().st_size == 100
    sink.write(100, {"a": 100, "b": 0.5})
    rows = [f"{number},0.5" for number in range(101)]
    assert (tmp_path / "rows.csv").read_text().split() == ["a,b", *rows]
    with largest_file(100), pytest.warns(UserWarning, match=r"rows\.csv cannot be written"):
        sink.write(101, {"a": 101, "b": 0.5})
    sink.close()
    assert (tmp_path / "rows.csv").read_text().split() == ["a,b", *rows, "101,0.5"]


def test_rows_do_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("prl.run.sinks._MOST_WAITING", 500)
    [sink] = open_sink(CsvSink, tmp_path / "rows.csv")

    def write_much():
        for timesteps in range(200):
            sink.write(timesteps, {"a": timesteps, "b": 0.5})

    with (
        largest_file(100),
        pytest.warns(UserWarning, match=r"rows\.csv cannot be written"),
        pytest.warns(UserWarning, match=r"rows\.csv failed and is left out: OSError: "),
    ):
        write_much()
    sink.close()
    assert (tmp_path / "rows.csv").read_text().startswith("a,b\n0,0.5\n1,0.5\n")


class _AsyncWriterThread(threading.Thread):
    """Fails as TensorBoard's thread does when the disk is full."""

    def run(self):
        raise OSError("No space left on device")


def test_the_thread_of_tensorboard_fails_without_a_traceback(tmp_path, monkeypatch):
    closed, seen = [], []
    board = SimpleNamespace(SummaryWriter=lambda folder: SimpleNamespace(close=lambda: closed.append(folder)))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(threading, "excepthook", seen.append)
    mine = threading.excepthook
    sink = TensorBoardSink(tmp_path)
    other = threading.Thread(target=lambda: 1 / 0)
    for thread in (_AsyncWriterThread(), other):
        thread.start()
        thread.join()
    assert [failure.thread for failure in seen] == [other]
    sink.close()
    assert threading.excepthook is mine
    assert closed == [str(tmp_path)]


class Events:
    """A SummaryWriter without TensorBoard."""

    def __init__(self, folder, **options):
        self.folder, self.options, self.parts, self.scalars = folder, options, [], []
        self.file_writer = SimpleNamespace(add_summary=self.parts.append)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        pass


@pytest.fixture
def events(monkeypatch):
    opened = []
    board = SimpleNamespace(
        SummaryWriter=lambda *args, **kw: opened.append(Events(*args, **kw)) or opened[-1]
    )
    summary = SimpleNamespace(hparams=lambda settings, metrics: (settings, metrics, "end"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.summary", summary)
    return opened


def test_tensorboard_gets_settings_once_and_what_runs_are_compared_by(events, tmp_path):
    settings = {
        "env_id": "X",
        "seed": 1,
        "rnd": False,
        "hidden_sizes": [8, 8],
        "env_kwargs": {},
        "rnd_lr": 0.1,
    }
    for after in (None, 20):
        sink = TensorBoardSink(tmp_path, after, settings)
        sink.write(30, {"rollout/ep_rew_mean": 5.0})
        sink.summarize({"status": "finished", "mean_return": 7.5, "best_mean_return": None, "seed": 1})
        sink.close()
    begun, resumed = events
    assert begun.parts[0] == settings | {"hidden_sizes": "[8, 8]", "env_kwargs": "{}"}
    assert {"rollout/ep_rew_mean", "summary/mean_return"} <= begun.parts[1].keys()
    assert (resumed.parts, resumed.options) == ([], {"purge_step": 21})
    expected = [("rollout/ep_rew_mean", 5.0, 30), ("summary/mean_return", 7.5, 30)]
    assert begun.scalars == resumed.scalars == expected


def test_a_sink_that_takes_the_summary_gets_it_before_it_is_closed(tmp_path):
    class Takes(Recording):
        def summarize(self, summary):
            self.summary = dict(summary)
            assert self.closed == 0

    takes = Takes()
    summary = train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=[takes, Recording()])
    assert takes.summary | {"run_folder": summary["run_folder"]} == summary
    assert takes.closed == 1


def test_a_sink_that_cannot_take_the_summary_is_closed_all_the_same(tmp_path):
    class Takes(Recording):
        def summarize(self, summary):
            raise KeyError("status")

    takes = Takes()
    with pytest.warns(UserWarning, match="Takes failed to take the summary: KeyError: 'status'"):
        train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"), sinks=[takes])
    assert takes.closed == 1


def test_the_table_of_hyperparameters_is_in_the_file_of_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(dataclasses.replace(SMALL, run_folder=tmp_path / "run"))
    [path] = (tmp_path / "run/tensorboard").iterdir()
    found = EventAccumulator(str(path)).Reload()
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= found.summary_metadata.keys()
    assert {"rollout/ep_rew_mean", "summary/mean_return"} <= set(found.Tags()["scalars"])
