"""What a person at the command line sees: results, one clear line per mistake, and no process left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers import Lives

from prl.cli import play_main, train_main

ROOT = Path(__file__).parents[2]
SMALL = ("--num-envs", "4", "--num-workers", "0", "--total-timesteps", "300", "--batch-size", "128")
SUMMARY = {
    *("status", "env_id", "seed", "timesteps", "iterations", "episodes", "mean_return", "steps_per_second"),
    *("wall_seconds", "num_workers", "num_envs", "torch_threads", "lost_episodes", "weights_sha256"),
    *("worker_restarts", "checkpoint", "failed_checkpoints"),
    *("eval_mean_return", "best_mean_return", "best_timesteps"),
}


def train_small(folder, *flags, env_id="CartPole-v1"):
    return train_main(["--env-id", env_id, *SMALL, "--run-folder", str(folder), *flags])


def test_a_run_writes_its_folder(tmp_path, capsys):
    assert train_small(tmp_path / "run", "--seed", "4") == 0
    out = capsys.readouterr()
    assert out.err == ""  # stderr is no terminal here: no bar
    assert out.out.startswith("CartPole-v1: ")
    assert len(out.out.splitlines()) == 1
    folder = tmp_path / "run"
    assert out.out.endswith(f"; {folder}\n")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() == SUMMARY
    assert (summary["status"], summary["seed"], summary["num_envs"]) == ("finished", 4, 4)
    assert summary["timesteps"] >= 300
    assert summary["eval_mean_return"] is summary["best_mean_return"] is summary["best_timesteps"] is None
    rows = (folder / "progress.csv").read_text().splitlines()
    assert len(rows) == summary["iterations"] + 1
    header, last = rows[0].split(","), rows[-1].split(",")
    assert float(last[header.index("time/total_timesteps")]) == summary["timesteps"]
    assert float(last[header.index("rollout/ep_rew_mean")]) == pytest.approx(summary["mean_return"], abs=1e-3)
    assert {"train/approx_kl", "train/clip_fraction", "train/entropy_loss", "train/value_loss"} <= set(header)
    assert "seed: 4\n" in (folder / "config.yaml").read_text()
    assert json.loads((folder / "versions.json").read_text())["gymnasium"] == gym.__version__
    assert (folder / "command.txt").read_text().strip()
    assert (folder / "weights/policy.safetensors").is_file()


def test_a_setting_without_effect_is_named(tmp_path, capsys):
    flags = ("--num-steps", "64", "--rnd-coef", "0.1", "--eval-episodes", "3")
    assert train_small(tmp_path / "run", *flags) == 0
    assert capsys.readouterr().err.splitlines() == [
        "train: num_steps has no effect without rollout steps",
        "train: rnd_coef has no effect without rnd",
        "train: eval_episodes has no effect without eval_freq",
    ]


def test_nor_is_one_named_that_has_its_effect_or_comes_from_a_preset(tmp_path, capsys):
    flags = ("--rollout", "steps", "--num-steps", "64", "--rnd", "--rnd-coef", "0.1")
    assert train_small(tmp_path / "run", *flags) == 0
    assert "effect" not in capsys.readouterr().err
    # The preset's rollout is overruled; its num_steps is nothing that the user has asked for.
    assert train_small(tmp_path / "other", "--rollout", "episodes", env_id="Pendulum-v1") == 0
    assert "effect" not in capsys.readouterr().err


def test_a_run_folder_is_never_overwritten(tmp_path, capsys):
    assert train_small(tmp_path / "run") == 0
    before = (tmp_path / "run/summary.json").read_bytes()
    assert train_small(tmp_path / "run", "--seed", "9") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "run/summary.json").read_bytes() == before


class BuiltOnce(gym.Env):
    """The trial env can be built, but Ctrl-C arrives while the pool's first env is."""

    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)
    built = 0

    def __init__(self):
        type(self).built += 1
        if self.built > 1:
            raise KeyboardInterrupt

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path):
    gym.register("test/BuiltOnce-v0", BuiltOnce, max_episode_steps=5)
    try:
        assert train_small(tmp_path / "run", env_id="test/BuiltOnce-v0") == 130
    finally:
        del gym.registry["test/BuiltOnce-v0"]
    assert BuiltOnce.built == 2
    assert not (tmp_path / "run").exists()


def test_play_repeats_itself_and_differs_by_seed(tmp_path, capsys):
    train_small(tmp_path / "run")
    capsys.readouterr()

    def played(*flags):
        assert play_main([str(tmp_path / "run"), "--episodes", "3", *flags]) == 0
        return capsys.readouterr().out

    first = played()
    assert first.count("return") == 4
    assert first.splitlines()[-1].startswith("mean return ")
    assert played() == first
    assert played("--seed", "5") != first
    assert played("--no-deterministic") != first


class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, where="constructor"):
        self.where = where
        if where == "constructor":
            raise RuntimeError("no licence")

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        if self.where == "step":
            raise KeyError("door")
        size = 2 if self.where == "shape" else 3
        return np.zeros(size, np.float32), 0.0, False, False, {}


class Odd(Broken):
    action_space = gym.spaces.Text(3)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    gym.register("test/Broken-v0", Broken, max_episode_steps=5)
    gym.register("test/Endless-v0", Broken, kwargs={"where": "nowhere"})
    gym.register("test/Odd-v0", Odd, kwargs={"where": "nowhere"}, max_episode_steps=5)
    yield
    for name in ("Broken", "Endless", "Odd"):
        del gym.registry[f"test/{name}-v0"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--env-id", "CartPol-v1"], "train: unknown env id 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        (["--env-id", "no_such_module:X-v0"], "train: cannot import 'no_such_module' of the env id"),
        (
            ["--env-id", "CartPole-v1", "--num-wrokers", "2"],
            "train: unknown flag --num-wrokers; did",
        ),
        (["--env-id", "CartPole-v1", "--gamma", "1.5"], "train: gamma must be between 0 and 1, got 1.5"),
        (
            ["--env-id", "CartPole-v1", "--device", "quantum"],
            "train: device must be auto, cpu, cuda",
        ),
        (
            ["--env-id", "test/Endless-v0"],
            "has no time limit, so an episode might never end; set one with",
        ),
        (["--env-id", "test/Odd-v0"], "Text"),
        (["--env-id", "CartPole-v1", "--env-kwargs", "colour=red"], "colour"),
    ],
)
def test_bad_input_ends_in_one_line(argv, message, tmp_path, capsys):
    assert train_main([*argv, "--run-folder", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert message in err
    if "colour" not in message:  # there the env's own traceback follows
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d", raising=False)
    assert train_small(tmp_path / "run", env_id="LunarLander-v3") == 2
    err = capsys.readouterr().err
    assert "LunarLander-v3 needs a package that is not installed" in err
    assert "box2d" in err
    assert len(err.splitlines()) == 1


def test_a_constructor_that_raises_shows_its_traceback(tmp_path, capsys):
    assert train_small(tmp_path / "run", env_id="test/Broken-v0") == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "train: the constructor of test/Broken-v0 raised RuntimeError: no licence"
    assert 'raise RuntimeError("no licence")' in "\n".join(err[1:])


@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("step", "step 1: step(0) raised KeyError: 'door'"),
        ("shape", "returned an observation of shape (2,), its space says (3,)"),
    ],
)
def test_a_failing_env_is_named_with_its_traceback(where, message, num_workers, tmp_path, capsys):
    flags = ("--env-kwargs", f"where={where}", "--num-workers", num_workers, "--num-envs", "1")
    failing = ("--on-worker-failure", "fail")
    assert train_small(tmp_path / "run", *flags, *failing, env_id="test/Broken-v0") == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("train: worker 0 (envs 0) failed: env 0, seed ")
    assert message in err[0].replace("step(1)", "step(0)")
    # A wrong value is named in the line; only the env's own exception has a traceback that helps.
    assert any("Traceback" in line for line in err[1:]) == (where == "step")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "play: nowhere is not the folder of a run: it has no config.yaml"),
        ([], "play:"),
        (["x", "--episodes", "0"], "play: episodes must be at least 1, got 0"),
        (["x", "--render", "ascii"], "play: render must be human, got 'ascii'"),
    ],
)
def test_play_ends_bad_input_in_one_line(argv, message, capsys):
    assert play_main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert len(err.splitlines()) == 1


# A run that tells its parent when it has made an update, and who its workers are.
TALKING = """
    import multiprocessing, sys
    from prl.cli import train_main
    from prl.run.sinks import CsvSink

    write = CsvSink.write

    def tell(self, timesteps, metrics):
        write(self, timesteps, metrics)
        workers = sorted(multiprocessing.active_children(), key=lambda child: child.name)
        print(timesteps, *(worker.pid for worker in workers), flush=True)

    CsvSink.write = tell
    sys.exit(train_main(sys.argv[1:]))
"""


@pytest.fixture
def run(tmp_path, request):
    """A run in another process that would take for ever, after its first update; and its workers' pids."""
    (tmp_path / "talking.py").write_text(textwrap.dedent(TALKING))
    flags = (
        *("--num-envs", "8", "--num-workers", "2", "--total-timesteps", "100000000"),
        *("--on-worker-failure", getattr(request, "param", "recover")),
    )
    process = subprocess.Popen(
        [sys.executable, "talking.py", "--env-id", "CartPole-v1", *flags, "--run-folder", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    pids = [int(pid) for pid in process.stdout.readline().split()[1:]]
    assert len(pids) == 2
    with Lives(pids) as workers:
        yield process, pids, workers
    process.kill()
    process.communicate(timeout=10)


def test_nothing_outlives_a_killed_learner(run):
    process, _, workers = run
    process.kill()
    assert not workers.alive_after(2.0)


@pytest.mark.parametrize("run", ["fail"], indirect=True)
def test_a_killed_worker_ends_the_run_with_a_typed_error_if_that_is_wanted(run, tmp_path):
    process, pids, workers = run
    os.kill(pids[1], signal.SIGKILL)
    _, err = process.communicate(timeout=20)  # below any deadline of a step
    assert process.returncode == 1
    checkpoint, error = err.splitlines()
    assert checkpoint.startswith("train: checkpoint at ")
    assert error.startswith("train: worker 1 (envs 4..7) died with signal SIGKILL during ")
    assert not workers.alive_after(2.0)
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_good_order(run, tmp_path, signum, code):
    process, _, workers = run
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    *checkpoint, stopped = err.splitlines()  # none, if the first update was still being recorded
    words = r"train: checkpoint at [\d,]+ steps; --resume \S+/run goes on from there"
    assert len(checkpoint) <= 1
    assert all(re.fullmatch(words, line) for line in checkpoint)
    assert stopped == f"train: stopped by {signum.name}"
    assert not workers.alive_after(2.0)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["timesteps"] > 0
    assert play_main([str(tmp_path / "run"), "--episodes", "1"]) == 0


def test_the_scripts_run():
    """One after the other in one process, in which torch is imported once."""
    code = """
        import runpy, sys

        for script in sys.argv[1:]:
            sys.argv = [script, "--help"]
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                assert not end.code
    """
    names = ("train", "play", "benchmark")
    scripts = [ROOT / "scripts" / f"{name}.py" for name in names]
    command = [sys.executable, "-c", textwrap.dedent(code), *scripts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.findall(r"^usage: (\w+)\.py ", done.stdout, re.MULTILINE) == list(names)


def test_the_package_itself_imports_without_torch():
    code = "import sys, prl, workers.child; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
