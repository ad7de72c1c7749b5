"""The benchmark counts env steps honestly and reports consistent numbers. Nothing here is about speed."""

import json
import multiprocessing
import os
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest

from learner.settings import ConfigError
from prl.cli import benchmark_main
from prl.commands.benchmark import (
    BenchmarkConfig,
    benchmark,
    format_table,
    make_task,
    measure,
    write_json,
)
from prl.commands.steppers import STEPPERS, end_async_vector_env, gymnasium_steps
from workers.cores import usable_cores
from workers.errors import EnvError

N = 5
OWN_ENVS = [
    name for name in STEPPERS if name not in ("envpool", "loops")
]  # built-in envs; loops in independent processes
every_stepper = pytest.mark.parametrize("name", OWN_ENVS)


class TallyEnv(gym.Env):
    """Leaves one byte in a file per `step`, whichever process it lives in. Episode k has 1 + k % 4 steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, file, fails_after=None):
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._episode = -1
        self._left_to_fail = fails_after

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self._episode += 1
        self._left = 1 + self._episode % 4
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self._left > 0, "a step after the end of the episode"
        if self._left_to_fail is not None:
            self._left_to_fail -= 1
            if self._left_to_fail < 0:
                raise ValueError("this env\nhas had enough")
        os.write(self._file, b"x")
        self._left -= 1
        ended = self._left == 0
        return np.zeros(2, np.float32), 0.0, ended and bool(self._episode % 2), ended, {}

    def close(self):
        if self._file is not None:
            os.close(self._file)
            self._file = None


@pytest.fixture(scope="module", autouse=True)
def _registered():
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # or worker processes would import this file, and torch
    gym.register("Tally-v0", entry_point=TallyEnv)
    yield
    del gym.registry["Tally-v0"]
    cloudpickle.unregister_pickle_by_value(module)


def config_for(tmp_path, **settings):
    settings = {"num_envs": N, "num_workers": 2, "seconds": 0.02, **settings}
    return BenchmarkConfig("Tally-v0", {"file": str(tmp_path / "tally")}, **settings)


def stepper(name):
    if not STEPPERS[name].installed:
        pytest.skip(f"{STEPPERS[name].package} is not installed")
    return STEPPERS[name]


def start(name, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline's own warnings at its start
        return stepper(name).start(make_task(config))


@every_stepper
def test_every_counted_step_was_a_step(name, tmp_path, leaves_nothing):
    """What is counted equals the calls of `env.step`: no reset row is among them, and no step is missing."""
    with start(name, config_for(tmp_path)) as steps:
        counts = [next(steps) for _ in range(23)]
    assert sum(counts) == (tmp_path / "tally").stat().st_size > 0


def test_a_reset_takes_the_place_of_a_step_in_gymnasium(tmp_path):
    """Episodes of 1, 2, 3, 4, 1, ... steps; the row after each episode's last is a reset in all envs."""
    playing = [1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0]
    with start("sync", config_for(tmp_path)) as steps:
        counts = [next(steps) for _ in playing]
    assert counts == [N * step for step in playing]


@pytest.mark.parametrize("name", ["inline", "shared", "dummy", "loop"])
def test_steppers_that_reset_within_a_step_count_every_row(name, tmp_path):
    with start(name, config_for(tmp_path)) as steps:
        assert [next(steps) for _ in range(9)] == [N] * 9


class Spy:
    """Counts the steps of an EnvPool, which says itself which rows were resets: 0 steps so far."""

    num_envs = N
    real_steps = 0

    def __init__(self, env):
        self._env = env

    def reset(self, seed):
        return self._env.reset()

    def step(self, actions):
        answer = self._env.step(actions)
        self.real_steps += np.count_nonzero(answer[4]["elapsed_step"])
        return answer


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_envpool_resets_are_not_counted():
    envpool = pytest.importorskip("envpool")
    with closing(envpool.make_gymnasium("CartPole-v1", num_envs=N, num_threads=1)) as env:
        spy = Spy(env)
        steps = gymnasium_steps(spy, np.ones((1, N), np.int32))  # always to the right: about ten steps
        counts = [next(steps) for _ in range(60)]
    assert sum(counts) == spy.real_steps < 60 * N


@every_stepper
def test_a_failing_stepper_says_so_in_one_line(name, tmp_path):
    config = config_for(tmp_path, only=[name])
    config.env_kwargs["fails_after"] = 2
    stepper(name)
    result = benchmark(config)
    assert set(result["results"]) == set()
    assert result["skipped"][name].startswith("failed: ")
    assert "\n" not in result["skipped"][name]
    assert result["skipped"][name] in format_table(result)


def test_measure_takes_its_time_and_counts():
    def steps():
        for count in (3, 0, 4):
            time.sleep(0.02)
            yield count

    assert 7 / 0.5 < measure(steps(), 0.05) <= 7 / 0.06


def test_the_result_is_consistent_and_saved(tmp_path):
    file = tmp_path / "new" / "out.json"
    only = ["inline", "sync", "async", "loop", "envpool"]
    result = benchmark(config_for(tmp_path, json=file, only=only))
    assert json.loads(file.read_text()) == result
    assert result["env_id"] == "Tally-v0"
    assert (result["num_envs"], result["num_workers"], result["repeats"]) == (N, 2, 3)
    assert result["cores"] == usable_cores()
    assert {"prl", "gymnasium", "python"} <= set(result["versions"])
    assert result["skipped"]["envpool"] in ("not installed", "failed: LookupError: has no Tally-v0")
    assert set(result["results"]) == {"inline", "sync", "async", "loop", "limit"}
    rates = {name: row["steps_per_second"] for name, row in result["results"].items()}
    assert rates["limit"] == pytest.approx(usable_cores() * rates["loop"])
    for name, row in result["results"].items():
        assert len(row["all"]) == 3
        assert row["steps_per_second"] == sorted(row["all"])[1] > 0
        assert row["ratio_to_async"] == pytest.approx(rates[name] / rates["async"])
        assert row["fraction_of_limit"] == pytest.approx(rates[name] / (usable_cores() * rates["loop"]))


def test_steppers_take_turns(tmp_path, monkeypatch):
    """All of them, round after round; the median counts; what breaks in between is out."""
    turns = []

    def turn(stepper, task, seconds):
        turns.append(stepper.label)
        if stepper is STEPPERS["pipe"] and turns.count(stepper.label) == 2:
            raise RuntimeError
        return [10.0, 1.0, 2.0][turns.count(stepper.label) - 1]

    monkeypatch.setattr("prl.commands.benchmark._turn", turn)
    result = benchmark(config_for(tmp_path))
    names = [name for name in STEPPERS if STEPPERS[name].installed]
    labels = [STEPPERS[name].label for name in names]
    assert turns == labels * 2 + [label for label in labels if label != STEPPERS["pipe"].label]
    assert set(result["results"]) == {*names, "limit"} - {"pipe"}
    assert result["results"]["shared"] == {
        "steps_per_second": 2.0,
        "all": [10.0, 1.0, 2.0],
        "ratio_to_async": 1.0,
        "fraction_of_limit": 1.0 / usable_cores(),
    }
    assert result["skipped"]["pipe"] == "failed: RuntimeError"


def test_the_table_has_a_row_for_every_stepper():
    row = {"steps_per_second": 2e6, "all": [1e6, 2e6, 3e6], "ratio_to_async": 1.5, "fraction_of_limit": 0.25}
    results = {name: row for name in [*STEPPERS, "limit"] if name != "envpool"}
    results["inline"] = {**row, "ratio_to_async": None, "fraction_of_limit": None}
    asked = {"env_id": "A-v1", "num_envs": 32, "num_workers": 2, "cores": 4, "seconds": 3.0, "repeats": 3}
    table = format_table({**asked, "results": results, "skipped": {"envpool": "not installed"}}).splitlines()
    assert table[0] == "A-v1, 32 envs, 2 workers, 4 cores; median of 3 x 3 s"
    lines = {line[:26].strip(): line[26:].split() for line in table[3:]}
    numbers = ["2,000,000", "1,000,000", "..", "3,000,000"]
    expected = {stepper.label: [*numbers, "1.5", "25%"] for stepper in STEPPERS.values()}
    expected[STEPPERS["inline"].label] = [*numbers, "-", "-"]
    expected[STEPPERS["envpool"].label] = ["not", "installed"]
    expected["limit: 4 x the loop"] = [*numbers, "1.5", "25%"]
    assert lines == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": ""}, "env_id is required"),
        ({"repeats": 2}, "repeats must be at least 3, got 2"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"seconds": 0.0}, "seconds must be a positive number"),
        ({"only": ["shared", "gpu"]}, "only must be names among shared, pipe, .*'gpu'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        BenchmarkConfig(**{"env_id": "CartPole-v1", **settings})


def test_an_unknown_env_is_no_measurement():
    with pytest.raises(EnvError, match="unknown env id"):
        benchmark(BenchmarkConfig("KartPole-v1"))


def test_a_path_that_cannot_be_written_is_found_out_first(tmp_path):
    with pytest.raises(ConfigError, match="cannot write json"):
        benchmark(BenchmarkConfig("KartPole-v1", json=tmp_path))
    with pytest.raises(ConfigError, match="cannot write json"):
        write_json({}, Path(tmp_path))


def test_loops_on_every_core_are_ended_with_their_turn(tmp_path, leaves_nothing):
    with start("loops", config_for(tmp_path)) as steps:
        assert sum(next(steps) for _ in range(20)) > 0


class Unanswered:
    """An AsyncVectorEnv whose step was never answered: closing it warns, and then fails as the step did."""

    def __init__(self, fails):
        self.fails = fails
        self.closed = False
        self.processes = [multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))]
        self.processes[0].start()

    def close(self, terminate):
        warnings.warn("Calling `close` while waiting for a pending call", stacklevel=1)
        if self.fails:
            raise EOFError
        self.processes[0].terminate()
        self.processes[0].join()
        self.closed = True


@pytest.mark.parametrize("fails", [False, True])
def test_an_async_vector_env_is_ended_in_whatever_state_it_is(fails, leaves_nothing):
    env = Unanswered(fails)
    end_async_vector_env(env)
    assert env.closed
    assert not env.processes[0].is_alive()
    env.processes[0].close()


def test_the_update_suite_compares_both_kinds_of_steps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("prl.commands.update_speed._REPEATS", 1)
    file = tmp_path / "updates.json"
    arguments = ["--suite", "update", "--env-id", "CartPole-v1", "--json", str(file)]
    assert benchmark_main(argv=arguments) == 0
    rows = json.loads(file.read_text())["updates"]
    assert [(row["hidden_sizes"], row["minibatch_size"]) for row in rows] == [
        ([64, 64], 64), ([64, 64], 256), ([256, 256], 64), ([256, 256], 256)
    ]  # fmt: skip
    assert all(0.0 < row["by_hand"] < 1.0 and 0.0 < row["autograd"] < 1.0 for row in rows)
    assert capsys.readouterr().out.count("\n") == 8


def test_the_update_suite_refuses_what_has_no_step_by_hand(capsys):
    env = "workers.testing:CompositeProbe"
    assert benchmark_main(argv=["--suite", "update", "--env-id", env]) == 2
    assert capsys.readouterr().err.count("\n") == 1
