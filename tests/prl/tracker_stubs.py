"""Stand-ins for experiment trackers, with the signatures of the tools."""

import sys
import types
from importlib.machinery import ModuleSpec
from types import SimpleNamespace


class Tool:
    """What a stand-in was told.

    Attributes:
        runs: by id, a list of (call, arguments), in order.
        opened: arguments of each time a run was opened.
        fails: names of calls that raise.
    """

    def __init__(self, fails=()):
        self.runs, self.opened, self.fails = {}, [], fails

    def tell(self, run, call, *args):
        if call in self.fails:
            raise ConnectionError(f"no answer to {call}\nat all")
        self.runs.setdefault(run, []).append((call, *args))

    def calls(self, call, run=None):
        return [args for name, *args in self.runs[run or next(iter(self.runs))] if name == call]

    def open(self, known, arguments):
        if "init" in self.fails:
            raise ConnectionError("no answer to init\nat all")
        self.opened.append(arguments)
        run = known or f"run{len(self.runs)}"
        self.runs.setdefault(run, [])
        return run


class Run:
    """A run of a tool with the verbs of Weights & Biases."""

    def __init__(self, tool, run):
        self.id = self.name = run
        self._tool = tool

    def log(self, data, step=None):
        assert all(type(value) is float for value in data.values())
        self._tool.tell(self.id, "log", step, dict(data))


class WandbRun(Run):
    @property
    def summary(self):
        return SimpleNamespace(update=lambda values: self._tool.tell(self.id, "summary", dict(values)))

    def finish(self, exit_code=None):
        self._tool.tell(self.id, "finish", exit_code)


class TrackioRun(Run):
    def finish(self):
        self._tool.tell(self.id, "finish", 0)


class SwanlabRun(Run):
    def finish(self, state="success", error=None):
        self._tool.tell(self.id, "finish", {"success": 0}.get(state, 1))


def wandb(tool):
    def init(*, project, name, group, config, dir, id, resume, allow_val_change, reinit):
        assert resume == "allow"
        return WandbRun(tool, tool.open(id, {"project": project, "name": name, "config": config}))

    return {"wandb": {"init": init}}


def trackio(tool):
    def init(project, name=None, group=None, config=None, resume="never", embed=True):
        assert resume == ("allow" if name in tool.runs else "never")
        print("* Trackio project initialized")  # noqa: T201 - as the tool does
        return TrackioRun(tool, tool.open(name, {"project": project, "name": name, "config": config}))

    return {"trackio": {"init": init}}


def swanlab(tool):
    def init(*, log_dir=None, project=None, name=None, group=None, id=None, resume=None, config=None):
        assert resume == (None if id is None else "allow")
        return SwanlabRun(tool, tool.open(id, {"project": project, "name": name, "config": config}))

    return {"swanlab": {"init": init}}


def mlflow(tool):
    """Its client, and the entities that it takes."""

    class MlflowClient:
        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return name

        def create_run(self, experiment_id, run_name=None, tags=None):
            run = tool.open(None, {"project": experiment_id, "name": run_name, "config": {}})
            return SimpleNamespace(info=SimpleNamespace(run_id=run))

        def update_run(self, run_id, status=None):
            tool.open(run_id, dict(tool.opened[0]))

        def get_run(self, run_id):
            last = {name: value for _, row in tool.calls("log", run_id) for name, value in row.items()}
            return SimpleNamespace(data=SimpleNamespace(metrics=last))

        def log_batch(self, run_id, metrics=(), params=(), tags=()):
            assert len(params) <= 100
            tool.opened[0]["config"].update({param.key: param.value for param in params})
            if metrics:
                [step] = {metric.step for metric in metrics}
                tool.tell(run_id, "log", step, {metric.key: metric.value for metric in metrics})
            if tags:
                tool.tell(run_id, "summary", {tag.key: tag.value for tag in tags})

        def set_terminated(self, run_id, status=None):
            tool.tell(run_id, "finish", {"FINISHED": 0}.get(status, 1))

    entities = {
        "Metric": lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
        "Param": lambda key, value: SimpleNamespace(key=key, value=value),
        "RunTag": lambda key, value: SimpleNamespace(key=key, value=value),
    }
    return {"mlflow": {"MlflowClient": MlflowClient}, "mlflow.entities": entities}


TOOLS = {"wandb": wandb, "mlflow": mlflow, "trackio": trackio, "swanlab": swanlab}


def install(monkeypatch, name, fails=()):
    """Put the stand-in of a tool in its place."""
    tool = Tool(fails)
    for module, names in TOOLS[name](tool).items():
        stub = types.ModuleType(module)
        stub.__spec__ = ModuleSpec(module, None, origin="a stand-in")
        vars(stub).update(names)
        monkeypatch.setitem(sys.modules, module, stub)
    return tool
