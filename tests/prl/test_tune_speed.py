"""What `prl tune-speed` and "auto" vary, measure and choose."""

import os
import re
import signal

import gymnasium as gym
import numpy as np
import pytest
import yaml

from prl.cli import train_main
from prl.commands.main import dispatch
from prl.config.train_config import ConfigError, TrainConfig
from prl.run import tune, tune_choice
from prl.run.build import build_factory
from prl.run.tune import Costs, Rates, Setup, measure_costs, measure_rates, setups_of
from prl.run.tune_choice import choose
from workers.envs import env_factory
from workers.testing import BusyEnv

COSTS = Costs(env_step=2e-6, act=20e-6, group=16, update=5e-6)
CARTPOLE = build_factory(TrainConfig(env_id="CartPole-v1"))


def config(**settings):
    return TrainConfig(**{"env_id": "CartPole-v1", "device": "cpu", **settings})


def varied(monkeypatch, cores, **settings):
    monkeypatch.setattr(tune, "usable_cores", lambda: cores)
    return [
        (setup.num_workers, setup.num_envs, setup.acting) for setup in setups_of(config(**settings), CARTPOLE)
    ]


# ---- what is compared


def test_only_what_is_auto_is_varied(monkeypatch):
    assert varied(monkeypatch, 2, num_workers=0, num_envs=8) == [(0, 8, "learner")]
    assert varied(monkeypatch, 2, num_workers=None, num_envs=8, acting="worker") == [(2, 8, "worker")]
    assert varied(monkeypatch, 2, num_workers=2, num_envs=32) == [(2, 32, "learner"), (2, 32, "worker")]
    envs = {setup[1] for setup in varied(monkeypatch, 2, num_workers=0, num_envs="auto")}
    assert envs == {16, 32, 64}


def test_workers_go_from_none_to_one_per_core(monkeypatch):
    setups = varied(monkeypatch, 8, num_workers="auto", num_envs=128)
    assert {setup[0] for setup in setups} == {0, 1, 4, 8}
    assert (0, 128, "worker") not in setups
    assert (8, 128, "worker") in setups


def test_every_player_in_a_worker_has_a_group_and_every_worker_an_env(monkeypatch):
    setups = varied(monkeypatch, 8, num_workers="auto", num_envs=32)  # two groups
    assert {setup[0] for setup in setups if setup[2] == "worker"} == {1}
    assert {setup[0] for setup in varied(monkeypatch, 8, num_workers="auto", num_envs=2)} == {0, 1}


def test_no_more_envs_than_a_batch_has_steps_for(monkeypatch):
    steps = {"rollout": "steps", "num_steps": 64, "batch_size": 2048, "num_workers": 0, "num_envs": "auto"}
    assert [setup[1] for setup in varied(monkeypatch, 2, **steps)] == [16, 32]
    assert [setup[1] for setup in varied(monkeypatch, 2, **steps | {"batch_size": 512})] == [8]
    assert [setup[1] for setup in varied(monkeypatch, 2, **steps | {"num_groups": 20})] == [32]


def test_workers_that_cannot_act_are_left_out_or_refused(monkeypatch):
    monkeypatch.setattr(tune, "player_kit", lambda policy: None)  # as with images and on a GPU
    assert {setup[2] for setup in varied(monkeypatch, 2, num_workers="auto")} == {"learner"}
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="acting=worker needs worker processes, got num_workers 0"):
        setups_of(config(acting="worker", num_workers=0), CARTPOLE)


# ---- what is chosen


def rates(*rows):
    return [Rates(Setup(*row[:3]), row[3] * 2.0, row[3]) for row in rows]


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([(0, 16, "learner", 80.0), (2, 16, "worker", 100.0)], (2, 16, "worker")),
        ([(0, 16, "learner", 95.0), (2, 16, "worker", 100.0)], (0, 16, "learner")),
        ([(2, 32, "worker", 95.0), (2, 64, "worker", 100.0), (0, 64, "learner", 99.0)], (2, 32, "worker")),
        ([(2, 32, "learner", 92.0), (2, 32, "worker", 97.0), (2, 64, "worker", 100.0)], (2, 32, "worker")),
    ],
)
def test_the_fewest_envs_then_workers_that_are_nearly_the_fastest(rows, chosen):
    assert choose(rates(*rows), COSTS).rates.setup == Setup(*chosen)
    assert choose(rates(*rows[::-1]), COSTS).rates.setup == Setup(*chosen)


def test_an_env_that_processes_cannot_pay_for_is_told_so():
    rows = rates((0, 16, "learner", 100.0), (1, 16, "learner", 40.0), (2, 16, "worker", 50.0))
    (reason,) = choose(rows, COSTS).reasons
    assert reason.startswith("no workers: a step of the env takes 2.0 us")
    assert "with 2 workers at best 50 steps/s are trained, without 100" in reason


def test_every_choice_has_a_reason():
    rows = rates(
        *((0, 16, "learner", 30.0), (2, 16, "learner", 60.0)),
        *((2, 32, "learner", 70.0), (2, 32, "worker", 95.0), (2, 64, "worker", 100.0)),
    )
    workers, envs, acting = choose(rows, COSTS).reasons
    assert workers == "2 workers: 95 steps/s are trained, with no workers at best 30"
    assert envs.startswith("32 envs: the fewest that reach 90% of the fastest setup (100 steps/s, 64 envs)")
    assert acting == "workers act: 95 steps/s are trained, 70 where the learner acts"
    assert choose(rows[:1], COSTS).reasons == []


# ---- what is measured


def test_what_steps_cost_is_measured(leaves_nothing):
    """An env that computes for 1 ms; the others are cheaper by far and dearer than nothing."""
    costs = measure_costs(config(num_envs="auto"), env_factory(BusyEnv), seconds=0.5)
    assert costs.env_step >= 1e-3
    assert costs.group == 16
    assert costs.act > 0
    assert costs.update > 0


def test_setups_are_measured_one_after_the_other(leaves_nothing):
    setups = [Setup(0, 4, "learner"), Setup(1, 4, "worker"), Setup(1, 4, "learner")]
    for overlap in (False, True):
        found = list(
            measure_rates(config(overlap=overlap, batch_size=64), CARTPOLE, COSTS, setups, seconds=0.3)
        )
        assert [each.setup for each in found] == setups
        assert all(0 < each.trained < 1e7 and 0 < each.collected < 1e7 for each in found)


def test_setups_are_left_out_where_starting_takes_too_long(monkeypatch):
    now = iter(range(0, 1000, 15))
    monkeypatch.setattr(tune.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(tune, "_rates", lambda setup, *rest: Rates(setup, 2.0, 1.0))
    setups = [Setup(0, count, "learner") for count in range(1, 9)]
    # The deadline is 0 + 23 s: looked at 15 s and 30 s later.
    assert len(list(measure_rates(config(), CARTPOLE, COSTS, setups, seconds=1.0))) == 2


def test_the_median_piece_counts(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 12.0, 13.0])
    monkeypatch.setattr(tune.time, "perf_counter", lambda: next(now))
    pieces = tune._Pieces(13.0)
    while pieces.goes_on:
        pieces.done()
    assert pieces.median == 1.0


def test_a_busy_machine_is_told_of(monkeypatch):
    monkeypatch.setattr(tune_choice.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(tune_choice.os, "getloadavg", lambda: (1.9, 9.0, 9.0))
    assert tune_choice.busy_cores() == []
    monkeypatch.setattr(tune_choice.os, "getloadavg", lambda: (2.1, 0.0, 0.0))
    (line,) = tune_choice.busy_cores()
    assert line.startswith("the machine was busy with 2.1 other processes on 4 cores")


# ---- at the command line


def run(*flags):
    return dispatch(["tune-speed", "--env-id", "CartPole-v1", "--device", "cpu", *flags], "prl")


def test_the_command_prints_costs_a_table_and_flags(capsys, leaves_nothing):
    assert run("--seconds", "0.2", "--num-workers", "0", "--num-envs", "4") == 0
    out = capsys.readouterr().out
    assert re.search(r"^env step +[\d.,]+ us$", out, re.MULTILINE)
    assert re.search(r"^act,  4 envs +[\d.,]+ us$", out, re.MULTILINE)
    assert re.search(r"^ +0 +4 +learner +[\d,]+ +[\d,]+$", out, re.MULTILINE)
    assert out.rstrip().endswith("prl train ... --num-workers 0 --num-envs 4 --acting learner")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seconds", "0"), "tune-speed: seconds must be a positive number, at most 3600, got 0.0"),
        (("--env-id", "CartPol-v1"), "tune-speed: unknown env id 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        (("--num-envs", "many"), "tune-speed: --num-envs must be an integer or auto, got 'many'"),
        (("--num-workers", "-1"), "tune-speed: num_workers must be 0 (no worker processes) or more, got -1"),
        (("--acting", "worker", "--num-workers", "0"), "tune-speed: acting=worker needs worker processes"),
    ],
)
def test_bad_input_ends_in_one_line(flags, message, capsys):
    assert run("--preset", "none", *flags) == 2
    out = capsys.readouterr()
    assert out.err.startswith(message)
    assert (len(out.err.splitlines()), out.out) == (1, "")


class Stopping(gym.Env):
    """Ctrl-C arrives in its tenth step."""

    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        type(self).steps += 1
        if self.steps == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return np.zeros(3, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("flags", [["tune-speed", "--seconds", "1"], ["train"]], ids=lambda flags: flags[0])
def test_ctrl_c_ends_the_measurement(flags, tmp_path, monkeypatch, capsys, leaves_nothing):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stopping, "steps", 0)
    gym.register("test/Stopping-v0", Stopping, max_episode_steps=5)
    try:
        argv = [*flags, "--env-id", "test/Stopping-v0", "--num-workers", "0", "--num-envs", "auto"]
        assert dispatch(argv, "prl") == 130
    finally:
        del gym.registry["test/Stopping-v0"]
    assert capsys.readouterr().err == f"{flags[0]}: stopped by SIGINT\n"
    assert not list(tmp_path.glob("runs/*"))


def test_a_run_settles_auto_and_is_that_of_the_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tune_choice, "SECONDS", 0.3)
    short = ("--env-id", "CartPole-v1", "--device", "cpu", "--total-timesteps", "500", "--batch-size", "256")
    auto = ("--num-workers", "0", "--num-envs", "auto")
    assert train_main([*short, *auto, "--run-folder", str(tmp_path / "auto")]) == 0
    written = yaml.safe_load((tmp_path / "auto/config.yaml").read_text())
    assert written["num_envs"] in (16, 32, 64)
    assert (written["num_workers"], written["acting"]) == (0, "learner")
    line = f"train: measured: num_workers=0 num_envs={written['num_envs']} acting=learner ("
    assert line in capsys.readouterr().err
    again = ("--config", str(tmp_path / "auto/config.yaml"), "--run-folder", str(tmp_path / "again"))
    assert train_main([*again]) == 0
    summaries = [yaml.safe_load((tmp_path / name / "summary.json").read_text()) for name in ("auto", "again")]
    assert summaries[0]["weights_sha256"] == summaries[1]["weights_sha256"]
