"""`prl replay`: the failure of a crash file comes again, with its traceback, in this process."""

import json
import pdb
import signal
import subprocess
import sys
import traceback

import gymnasium as gym
import numpy as np
import pytest

from prl.commands.main import dispatch
from prl.config.train_config import TrainConfig
from prl.run import crash_file as crash_files
from prl.run import crash_replay
from prl.run.build import build_factory
from prl.run.crash_file import CrashFolder, read_crash
from prl.run.crash_replay import Replay
from workers.env_call import EnvCall
from workers.envs import env_factory
from workers.errors import WorkerEnvFailed
from workers.failed_episode import FORGOTTEN, FailedEpisode
from workers.inline_pool import InlinePool
from workers.rows import pack
from workers.testing import CompositeProbe, FaultWrapper, ProbeEnv

SEED = 9  # of an episode of 12 steps
ACTIONS = np.array([1, 2, 3], np.int64)
FAULTY = "test/Faulty-v0"


def faulty(fault="raise", **where):
    return FaultWrapper(ProbeEnv(), fault, **{"at_step": 3} | where)


class DrawsGlobally(gym.Env):
    """Fails when a number of NumPy's global generator is large, which prl seeds for each episode."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        number = np.random.uniform()  # noqa: NPY002
        if number > 0.8:
            raise ValueError(f"drew {number}")
        return np.zeros(2, np.float32), 0.0, False, False, {}


class CompositeFault(gym.Wrapper):
    def __init__(self):
        super().__init__(CompositeProbe())

    def step(self, action):
        raise ValueError(f"cannot {int(action['kind'])}")


class Hardens(gym.Wrapper):
    """Fails at its level, which calls raise."""

    level = steps = 0

    def __init__(self):
        super().__init__(ProbeEnv())

    def reset(self, **options):
        self.steps = 0
        return self.env.reset(**options)

    def step(self, action):
        self.steps += 1
        if self.level >= 3:
            raise ValueError(f"too hard in step {self.steps}")
        return self.env.step(action)

    def harden(self, by):
        self.level += by


@pytest.fixture(autouse=True)
def registered():
    envs = {
        FAULTY: faulty,
        "test/Draws-v0": DrawsGlobally,
        "test/Composite-v0": CompositeFault,
        "test/Hardens-v0": Hardens,
    }
    for name, entry_point in envs.items():
        gym.register(name, entry_point, max_episode_steps=100)
    yield
    for name in envs:
        del gym.registry[name]


def failed(actions, calls=None):
    steps = FORGOTTEN if actions is None else len(actions)
    episode = FailedEpisode(
        env=2, seed=SEED, steps=steps, actions=None if actions is None else np.array(actions)
    )
    return episode if calls is None else episode.with_calls(*calls)


BOOM = "step(3) raised ValueError: boom"


def crash_file(folder, fault="raise", actions=ACTIONS, config=None, error=BOOM, calls=None, **where):
    config = config or TrainConfig(env_id=FAULTY, env_kwargs={"fault": fault, **where})
    return CrashFolder(folder, config).keep(failed(actions, calls), f"env 2: {error}")


def replay(path, *flags):
    return dispatch(["replay", str(path), *flags], "prl")


# ---- the failure comes


def test_the_traceback_of_the_env_comes_again(tmp_path, capsys):
    path = crash_file(tmp_path)
    assert replay(path) == 1
    out = capsys.readouterr()
    assert out.out.splitlines() == [
        f"replay: {FAULTY}, env 2, seed {SEED}, 3 actions",
        "in the run: env 2: step(3) raised ValueError: boom",
        "now the call that failed in the run",
        "failed as in the run after 2 steps",
    ]
    lines = out.err.splitlines()
    assert lines[0] == f"replay: env 2, seed {SEED}, step 3: step(3) raised ValueError: boom"
    assert lines[-1] == "ValueError: boom"
    assert any("testing.py" in line for line in lines)


@pytest.mark.parametrize(
    ("fault", "where", "actions", "message"),
    [
        ("raise", {"stage": "reset", "seed": SEED}, [], "step 0: reset(seed=9) raised ValueError: boom"),
        ("raise_awkward", {}, ACTIONS, "step 3: step(3) raised AwkwardError: left and right"),
        ("system_exit", {}, ACTIONS, "step 3: step(3) raised SystemExit: 3"),
        ("obs_nan", {}, ACTIONS, "step 3: returned an observation that is not finite as float32"),
        ("reward_none", {}, ACTIONS, "step 3: returned the reward None, which is not a number"),
        ("raise", {"at_step": 2}, ACTIONS, "step 2: step(2) raised ValueError: boom"),
    ],
)
def test_whatever_it_was(fault, where, actions, message, tmp_path, capsys):
    assert replay(crash_file(tmp_path, fault, actions, error="it died", **where)) == 1
    out = capsys.readouterr()
    assert f"replay: env 2, seed {SEED}, {message}" in out.err
    assert "failed after" in out.out  # and not as in the run, which said something else


def play_on(pool, actions):
    while True:
        actions.append(np.int64(1))
        pool.send(np.arange(1), np.array([1]))
        pool.recv()


def test_what_an_env_draws_from_global_generators_is_as_in_the_run(tmp_path, capsys):
    config = TrainConfig(env_id="test/Draws-v0")
    actions = []
    with InlinePool(build_factory(config), 1) as pool:
        pool.reset(np.arange(1), [SEED])
        pool.recv()
        with pytest.raises(WorkerEnvFailed) as caught:
            play_on(pool, actions)
    np.random.seed(1)  # noqa: NPY002
    episode = caught.value.episode.with_actions(np.array(actions))
    path = CrashFolder(tmp_path, config).keep(episode, str(caught.value), caught.value.traceback)
    assert len(actions) == episode.steps > 1
    assert replay(path) == 1
    assert f"failed as in the run after {len(actions) - 1} steps" in capsys.readouterr().out


def test_nested_actions_are_taken_apart(tmp_path, capsys):
    config = TrainConfig(env_id="test/Composite-v0")
    space = build_factory(config).action_space
    space.seed(1)
    action = space.sample() | {"kind": 4}
    row = pack(space, action)[None]
    assert replay(crash_file(tmp_path, actions=row, config=config)) == 1
    assert "raised ValueError: cannot 4" in capsys.readouterr().err


def test_a_step_that_hangs_is_interrupted_and_says_where(tmp_path, monkeypatch, capsys):
    before, setitimer, timers = signal.getsignal(signal.SIGALRM), signal.setitimer, []

    def only_the_fifth(which, seconds):  # after the constructor, the reset and two steps, however slow
        timers.extend([seconds] if seconds else [])
        setitimer(which, 0.1 if seconds and len(timers) == 5 else 0.0)

    monkeypatch.setattr(crash_replay.signal, "setitimer", only_the_fifth)
    assert replay(crash_file(tmp_path, "hang")) == 1
    assert timers == [60.0] * 5
    err = capsys.readouterr().err
    assert "step 3: step(3) raised TimeoutError: it took longer than 60 s" in err
    assert "threading.Event().wait()" in err
    assert signal.getsignal(signal.SIGALRM) == before


def test_an_env_that_ends_the_process_does_so_after_a_last_line(tmp_path):
    path = crash_file(tmp_path, config=TrainConfig(env_id="Ends-v0"))
    code = (
        "import sys, gymnasium as gym\n"
        "from workers.testing import FaultWrapper, ProbeEnv\n"
        "make = lambda: FaultWrapper(ProbeEnv(), 'os_exit', at_step=3)\n"
        "gym.register('test/Ends-v0', make, max_episode_steps=9)\n"
        "from prl.cli import main\n"
        f"sys.exit(main('replay', [{str(path)!r}, '--env-id', 'test/Ends-v0']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stdout.splitlines()[-1] == "now the call that failed in the run"


def test_the_debugger_begins_where_it_failed(tmp_path, monkeypatch, capsys):
    seen = []

    def post_mortem(trace):
        *_, (frame, _) = traceback.walk_tb(trace)
        seen.append((frame.f_code.co_name, str(frame.f_locals["error"])))

    monkeypatch.setattr(pdb, "post_mortem", post_mortem)
    assert replay(crash_file(tmp_path), "--pdb") == 1
    assert seen == [("_raise", "boom")]
    # A value that is refused has no exception of the env's: the debugger begins where it is refused.
    monkeypatch.setattr(pdb, "post_mortem", lambda trace: seen.append(trace is not None))
    assert replay(crash_file(tmp_path, "obs_nan"), "--pdb") == 1
    assert seen[1:] == [True]


# ---- it does not come


def test_a_failure_that_does_not_come_is_no_failure(tmp_path, capsys):
    path = crash_file(tmp_path, at_step=4)
    assert replay(path, "--pdb") == 0
    out = capsys.readouterr()
    assert out.out.splitlines()[-1].startswith("all 3 actions were repeated, and nothing failed this time")
    assert out.err == ""


def test_an_episode_that_ends_too_early_is_another_one(tmp_path, capsys):
    assert replay(crash_file(tmp_path, actions=np.ones(20, np.int64), at_step=50)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("the episode ended after 12 of 20 actions, and nothing failed")


def test_other_versions_are_named(tmp_path, capsys):
    path = crash_file(tmp_path)
    content = json.loads(path.read_text())
    content["versions"] |= {"numpy": "0.9", "nowhere": "1"}
    path.write_text(json.dumps(content))
    assert replay(path) == 1
    assert f"the run had numpy 0.9, here is {np.__version__}" in capsys.readouterr().out


def test_another_env_may_be_named(tmp_path, capsys):
    path = CrashFolder(tmp_path).keep(failed(ACTIONS), "env 2: boom")
    assert replay(path) == 2
    assert "was handed over in Python: name it with --env-id" in capsys.readouterr().err
    assert replay(path, "--env-id", FAULTY) == 1
    assert replay(path, "--env-id", FAULTY, "--env-kwargs", "at_step=4") == 0


def test_an_argument_that_no_file_holds_is_asked_for(tmp_path, capsys):
    config = TrainConfig(env_id=FAULTY, env_kwargs={"fault": "raise", "seed": np.arange(3)})
    path = crash_file(tmp_path, config=config)
    assert replay(path) == 2
    assert (
        "env_kwargs.seed was an object that a file cannot hold (array([0, 1, 2]))" in capsys.readouterr().err
    )
    assert replay(path, "--env-kwargs", f"seed={SEED}") == 1


def test_settings_of_other_versions_are_passed_over(tmp_path):
    path = crash_file(tmp_path)
    content = json.loads(path.read_text())
    content["config"] = [*content["config"], "a_setting_of_tomorrow: 3"]
    path.write_text(json.dumps(content))
    assert replay(path) == 1


# ---- calls that changed the env


HARDER = [EnvCall("method", "harden", [1]), EnvCall("set", "level", [2]), EnvCall("method", "harden", [1])]


def test_calls_are_repeated_between_the_same_steps(tmp_path, capsys):
    config = TrainConfig(env_id="test/Hardens-v0")
    path = crash_file(tmp_path, config=config, error="too hard in step 3", calls=(HARDER, [0, 2]))
    assert replay(path) == 1
    out = capsys.readouterr()
    assert "with 3 calls that changed the env" in out.out.splitlines()
    assert "failed after 2 steps" in out.out
    assert "too hard in step 3" in out.err
    path = crash_file(tmp_path, config=config, calls=(HARDER[:2], [0]))
    assert replay(path) == 0


def test_calls_that_are_not_in_the_file_are_told_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(crash_files, "_MAX_CALLS", 1)
    config = TrainConfig(env_id="test/Hardens-v0")
    assert replay(crash_file(tmp_path, config=config, calls=(HARDER, []))) == 0
    assert "3 calls that changed the env are not in the file" in capsys.readouterr().out


def test_a_call_that_cannot_be_repeated_is_one_line(tmp_path, capsys):
    config = TrainConfig(env_id="test/Hardens-v0")
    path = crash_file(tmp_path, config=config, calls=([EnvCall("method", "gone")], []))
    assert replay(path) == 2
    err = capsys.readouterr().err
    assert err.startswith("replay: the calls of the run cannot be repeated: env 2: gone() raised")
    assert len(err.splitlines()) == 1


# ---- bad input


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (None, "its actions were too many to be kept"),
        (np.zeros((3, 2), np.float32), "they are float32 of shape (2,), its own are int64 of shape ()"),
    ],
)
def test_actions_that_cannot_be_repeated_are_refused(actions, message, tmp_path, capsys):
    assert replay(crash_file(tmp_path, actions=actions)) == 2
    assert message in capsys.readouterr().err


def test_bad_input_ends_in_one_line(tmp_path, capsys):
    path = crash_file(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(json.loads(path.read_text()) | {"config": ["[a"]}))
    for flags in (
        [tmp_path / "gone.json"],
        [broken],
        [path, "--step-timeout", "0"],
        [path, "--env-id", "Gone-v0"],
    ):
        assert replay(*flags) == 2
        err = capsys.readouterr().err
        assert (err.startswith("replay: "), len(err.splitlines())) == (True, 1)


def test_the_env_is_closed(tmp_path):
    closed = tmp_path / "closed"

    class Closes(ProbeEnv):
        def close(self):
            with closed.open("a") as file:
                file.write("x")

    crash = read_crash(crash_file(tmp_path))
    factory = env_factory(Closes, ends_by_itself=True)
    with Replay(crash, factory) as again:
        before = closed.read_text()  # the trial env's
        assert again.run().steps == 3
        assert closed.read_text() == before
    assert closed.read_text() == before + "x"
