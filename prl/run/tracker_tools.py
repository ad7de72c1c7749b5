"""Weights & Biases, MLflow, Trackio and SwanLab as sinks.

Where they write, and as whom, is up to the tools' own settings (WANDB_MODE, MLFLOW_TRACKING_URI, ...).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prl.run.files import replace_json
from prl.run.sinks import Sink

_FOLDER = "trackers"
_PARAMS_AT_ONCE = 100  # MLflow's limit
_LONGEST_PARAM = 500  # characters; the limit of older servers


class RunSink:
    """A run of a tool with the verbs of Weights & Biases: `log` and `finish`.

    Args:
        run: what the tool's `init` has returned.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._timesteps = 0
        self._status = "failed"  # unless a summary says something else

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._timesteps = timesteps
        self._run.log(finite(metrics), step=timesteps)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Log the numbers of a run's summary as `summary/NAME`, at the last step."""
        self._status = str(summary["status"])
        self._run.log(summary_metrics(summary), step=self._timesteps)

    def close(self) -> None:
        """See `Sink`."""
        with _stdout_to_stderr():
            self._run.finish()


class WandbSink(RunSink):
    """A run of Weights & Biases."""

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Set the summary of the run."""
        self._status = str(summary["status"])
        self._run.summary.update({f"summary/{name}": value for name, value in summary.items()})

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish(exit_code=int(self._status != "finished"))


class SwanlabSink(RunSink):
    """A run of SwanLab."""

    def close(self) -> None:
        """See `Sink`."""
        states = {"finished": "success", "stopped": "aborted"}
        with _stdout_to_stderr():
            self._run.finish(state=states.get(self._status, "crashed"))


class MlflowSink:
    """A run of MLflow.

    Args:
        client: an `MlflowClient`.
        run_id: of the run, which exists.
        seen: steps of the last row that the run has, by the name of the metric that says it.
    """

    def __init__(self, client: Any, run_id: str, seen: Mapping[str, float]) -> None:
        from mlflow.entities import Metric, RunTag  # an extra

        self._client = client
        self._run_id = run_id
        self._seen = dict(seen)
        self._metric, self._tag = Metric, RunTag
        self._status = "failed"

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`. Rows that the run has already are left out: MLflow would keep both."""
        if any(metrics[name] <= last for name, last in self._seen.items() if name in metrics):
            return
        self._log(timesteps, finite(metrics))

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Log the numbers of a run's summary as `summary/NAME`, and the texts as tags."""
        self._status = str(summary["status"])
        texts = [
            self._tag(f"summary/{name}", text) for name, text in summary.items() if isinstance(text, str)
        ]
        self._client.log_batch(self._run_id, tags=texts)
        self._log(int(summary["timesteps"]), summary_metrics(summary))

    def _log(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [self._metric(mlflow_name(name), value, now, timesteps) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=rows)

    def close(self) -> None:
        """See `Sink`."""
        states = {"finished": "FINISHED", "stopped": "KILLED"}
        self._client.set_terminated(self._run_id, states.get(self._status, "FAILED"))


def mlflow_name(name: str) -> str:
    """A metric's name as MLflow takes it: a relative path of letters, digits and a few signs."""
    parts = re.sub(r"[^\w\-. /]", "_", name).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def wandb_sink(settings: Mapping[str, Any], folder: Path) -> Sink:
    """A new run of Weights & Biases, or the one that the folder had; its files are in the folder, too."""
    import wandb  # an extra

    run = wandb.init(
        project=settings["track_project"],
        name=name_of_run(folder),
        group=settings["env_id"],
        config=dict(settings),
        dir=str(folder),
        id=_run_id(folder, "wandb"),
        resume="allow",
        allow_val_change=True,  # a run that goes on may have a larger total
        reinit="create_new",
    )
    _keep_run_id(folder, "wandb", run.id)
    return WandbSink(run)


def trackio_sink(settings: Mapping[str, Any], folder: Path) -> Sink:
    """A new run of Trackio, or the one that the folder had."""
    import trackio  # an extra

    known = _run_id(folder, "trackio")
    with _stdout_to_stderr():
        run = trackio.init(
            project=settings["track_project"],
            name=known
            or f"{name_of_run(folder)}-{time.strftime('%Y%m%d-%H%M%S')}",  # Trackio knows runs by name
            group=settings["env_id"],
            config=dict(settings),
            resume="never" if known is None else "allow",
            embed=False,
        )
    _keep_run_id(folder, "trackio", run.name)
    return RunSink(run)


def swanlab_sink(settings: Mapping[str, Any], folder: Path) -> Sink:
    """A new run of SwanLab, or the one that the folder had; its files are in the folder, too."""
    import swanlab  # an extra

    known = _run_id(folder, "swanlab")
    with _stdout_to_stderr():
        run = swanlab.init(
            project=settings["track_project"],
            name=name_of_run(folder),
            group=settings["env_id"],
            config=dict(settings),
            log_dir=str(folder / "swanlog"),
            **({} if known is None else {"id": known, "resume": "allow"}),
        )
    _keep_run_id(folder, "swanlab", run.id)
    return SwanlabSink(run)


def mlflow_sink(settings: Mapping[str, Any], folder: Path) -> Sink:
    """A new run of MLflow in the experiment of the project, or the run that the folder had."""
    from mlflow import MlflowClient  # an extra

    client = MlflowClient()
    known = _run_id(folder, "mlflow")
    if known is not None:
        client.update_run(known, status="RUNNING")
        last = client.get_run(known).data.metrics
        return MlflowSink(client, known, {name: last[name] for name in _STEPS if name in last})
    project = settings["track_project"]
    experiment = client.get_experiment_by_name(project)
    experiment_id = client.create_experiment(project) if experiment is None else experiment.experiment_id
    run = client.create_run(experiment_id, run_name=name_of_run(folder), tags={"env_id": settings["env_id"]})
    _keep_run_id(folder, "mlflow", run.info.run_id)
    _log_params(client, run.info.run_id, settings)
    return MlflowSink(client, run.info.run_id, {})


_STEPS = ("time/total_timesteps", "eval/timesteps")


def _log_params(client: Any, run_id: str, settings: Mapping[str, Any]) -> None:
    from mlflow.entities import Param  # an extra

    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    params = iter([Param(name, text[:_LONGEST_PARAM]) for name, text in texts.items()])
    while some := list(itertools.islice(params, _PARAMS_AT_ONCE)):
        client.log_batch(run_id, params=some)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are known: tools differ in what they make of NaN."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def summary_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run's summary, as metrics `summary/NAME`."""
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    return finite({f"summary/{name}": value for name, value in numbers.items()})


def name_of_run(folder: Path) -> str:
    """What trackers call a run: its folder, and for a run of `prl tune` the study and the trial, too."""
    *_, study, trials, trial, name = ("", "", "", *folder.absolute().parts)
    return f"{study}-{trial}-{name}" if trials == "trials" else name


def _run_id(folder: Path, tool: str) -> str | None:
    """What the tool calls the run of a folder; None if it does not know it."""
    path = folder / _FOLDER / f"{tool}.json"
    return str(json.loads(path.read_text())["run"]) if path.exists() else None


def _keep_run_id(folder: Path, tool: str, run: str) -> None:
    replace_json(folder / _FOLDER / f"{tool}.json", {"run": run})


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What tools print is no result of a command."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
