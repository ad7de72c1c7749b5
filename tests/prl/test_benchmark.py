"""The command: its settings, its suites in small, and what they write. Nothing here is about speed."""

import contextlib
import dataclasses
import json
import math

import gymnasium as gym
import pytest

from learner.settings import ConfigError
from prl.cli import benchmark_main
from prl.commands.benchmark import COMPARISONS, benchmark
from prl.commands.suites import scaling, solve, train
from prl.commands.suites.jobs import SB3Job
from prl.commands.suites.processes import update_rate, watched
from prl.commands.suites.settings import SETTINGS_OF, BenchmarkConfig
from prl.commands.suites.train import CLEANRL
from prl.commands.suites.variants import LEARNER, OVERLAP, WORKER, bases, variants
from prl.config.train_config import TrainConfig
from workers.cores import usable_cores
from workers.envs import env_factory
from workers.errors import EnvError

CARTPOLE = "CartPole-v1"
OURS = ["prl-learner-0", "prl-learner-1", "prl-worker-1", "prl-overlap-1"]


def contenders(suite, **settings):
    """A suite's contenders by name, each measured in no time."""
    settings = {"num_workers": 1, **settings}
    if "seconds" in SETTINGS_OF[suite]:
        settings = {"seconds": 0.01, **settings}
    config = BenchmarkConfig(CARTPOLE, suite=suite, **settings)
    return {contender.name: contender for contender in COMPARISONS[suite](config).contenders}


@contextlib.contextmanager
def registered(name):
    """The id of a test env."""
    gym.register("test/Registered-v0", entry_point=f"workers.testing:{name}")
    try:
        yield "test/Registered-v0"
    finally:
        del gym.registry["test/Registered-v0"]


# ---- the command


def test_the_result_is_consistent_and_saved(tmp_path, capsys):
    file = tmp_path / "new" / "out.json"
    names = ["inline", "sync", "async", "loop"]
    arguments = ["--env-id", CARTPOLE, "--num-envs", "5", "--num-workers", "2", "--seconds", "0.01"]
    assert benchmark_main(argv=[*arguments, "--json", str(file), "--only", *names]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == f"CartPole-v1, 5 envs, 2 workers, {usable_cores()} cores; median of 3 x 0.01 s"
    assert len(table) == 3 + len(names) + 1
    result = json.loads(file.read_text())
    assert (result["suite"], result["env_id"]) == ("stepping", CARTPOLE)
    assert (result["num_envs"], result["num_workers"], result["repeats"]) == (5, 2, 3)
    assert result["cores"] == usable_cores()
    assert {"prl", "gymnasium", "python", "fingerprint"} <= set(result["versions"])
    assert set(result["results"]) == {*names, "limit"}
    rates = {name: row["steps_per_second"] for name, row in result["results"].items()}
    for name, row in result["results"].items():
        assert len(row["all"]) == 3
        assert row["steps_per_second"] == sorted(row["all"])[1] > 0
        assert row["ratio_to_async"] == pytest.approx(rates[name] / rates["async"])
        assert row["fraction_of_limit"] == pytest.approx(rates[name] / (usable_cores() * rates["loop"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": ""}, "env_id is required"),
        ({"repeats": 2}, "repeats must be at least 3, got 2"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"seconds": 0.0}, "seconds must be a positive number"),
        ({"suite": "speed"}, "suite must be stepping or collect or .* or adapters, got 'speed'"),
        ({"suite": "train", "total_timesteps": 1000}, "total_timesteps must be at least 4096"),
        ({"suite": "train", "num_envs": 4}, "num_envs has no effect in the suite train"),
        ({"seeds": 4}, "seeds has no effect in the suite stepping"),
        ({"suite": "update", "only": ["a"]}, "only has no effect in the suite update"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        BenchmarkConfig(**{"env_id": CARTPOLE, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ["shared", "gpu"]}, "only must be names among inline, shared.*, got 'gpu'"),
        ({"suite": "train", "cleanrl": "no/ppo.py"}, "there is no file no/ppo.py"),
        (
            {"suite": "train", "cleanrl": __file__, "env_kwargs": {"a": 1}},
            "unexpected keyword|env_kwargs cannot",
        ),
        ({"suite": "time-to-solve", "env_id": "Pendulum-v1"}, "env_id must be CartPole-v1 or LunarLander-v3"),
        ({"suite": "time-to-solve", "env_kwargs": {"a": 1}}, "env_kwargs has no effect"),
        ({"env_id": "KartPole-v1"}, "unknown env id"),
        ({"suite": "collect", "env_id": "KartPole-v1"}, "unknown env id"),
    ],
)
def test_what_cannot_be_measured_is_found_out_first(settings, message):
    with pytest.raises((ConfigError, EnvError), match=message):
        benchmark(BenchmarkConfig(**{"env_id": CARTPOLE, **settings}))


def test_a_path_that_cannot_be_written_is_found_out_first(tmp_path):
    with pytest.raises(ConfigError, match="cannot write json"):
        benchmark(BenchmarkConfig("KartPole-v1", json=tmp_path))


def test_every_setting_belongs_to_a_suite():
    fields = {item.name for item in dataclasses.fields(BenchmarkConfig)}
    used = frozenset().union(*SETTINGS_OF.values())
    assert fields - used == {"suite", "env_id", "env_kwargs", "json"}
    assert SETTINGS_OF.keys() - {"update"} == COMPARISONS.keys()


# ---- update


def test_the_update_suite_compares_both_kinds_of_steps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("prl.commands.update_speed._REPEATS", 1)
    file = tmp_path / "updates.json"
    arguments = ["--suite", "update", "--env-id", CARTPOLE, "--json", str(file)]
    assert benchmark_main(argv=arguments) == 0
    rows = json.loads(file.read_text())["updates"]
    assert [(row["hidden_sizes"], row["minibatch_size"]) for row in rows] == [
        ([64, 64], 64), ([64, 64], 256), ([256, 256], 64), ([256, 256], 256)
    ]  # fmt: skip
    assert all(0.0 < row["by_hand"] < 1.0 and 0.0 < row["autograd"] < 1.0 for row in rows)
    assert capsys.readouterr().out.count("\n") == 8


def test_the_update_suite_refuses_what_has_no_step_by_hand(capsys):
    with registered("CompositeProbe") as env_id:
        assert benchmark_main(argv=["--suite", "update", "--env-id", env_id]) == 2
    said = capsys.readouterr().err
    assert "no step by hand" in said
    assert said.count("\n") == 1


# ---- collect


def test_the_collect_suite_plays_both_kinds_of_rounds_on_any_number_of_workers(leaves_nothing):
    ways = contenders("collect", num_envs=4)
    kinds = ["learner-0", "learner-1", "worker-1"]
    assert list(ways) == [*(f"{rounds}-{kind}" for rounds in ("steps", "episodes") for kind in kinds), "loop"]
    for name in ("steps-learner-0", "episodes-learner-1", "steps-worker-1", "episodes-worker-1", "loop"):
        assert ways[name].measure(0) > 0.0


def test_collecting_is_compared_with_the_loop_and_with_the_learner_that_acts():
    config = BenchmarkConfig(CARTPOLE, suite="collect", num_workers=3)
    of_limit, to_learner = COMPARISONS["collect"](config).ratios
    assert of_limit.bases["steps-worker-3"] == of_limit.bases["loop"] == "limit"
    assert to_learner.bases == {
        f"{rounds}-worker-{count}": f"{rounds}-learner-{count}"
        for rounds in ("steps", "episodes")
        for count in (1, 2, 3)
    }


def test_rounds_of_whole_episodes_need_episodes_that_end():
    with registered("ProbeEnv") as env_id, pytest.raises(EnvError, match="has no time limit"):
        benchmark(BenchmarkConfig(env_id, suite="collect"))


# ---- train


def test_the_train_suite_trains_in_a_process_of_its_own(leaves_nothing):
    ways = contenders("train", total_timesteps=4096, minibatch_size=256)
    assert list(ways) == [*OURS, "sb3-dummy", "sb3-subproc", "sbx-dummy", "sbx-subproc"]
    for name in ("prl-learner-0", "prl-overlap-1"):
        assert 0.0 < ways[name].measure(0) < math.inf


def test_training_is_compared_with_peers_and_among_prls_own_ways():
    comparison = COMPARISONS["train"](BenchmarkConfig(CARTPOLE, suite="train", num_workers=2))
    found = {ratio.heading: ratio.bases for ratio in comparison.ratios}
    assert found["x dummy"]["prl-worker-2"] == "sb3-dummy"
    assert found["x SBX"]["prl-learner-0"] == "sbx-dummy"
    assert found["x learner acts"]["prl-worker-2"] == "prl-learner-2"
    assert found["x no overlap"]["prl-overlap-2"] == "prl-worker-2"


FAKE_CLEANRL = """
import argparse
parser = argparse.ArgumentParser()
for flag in ("--env-id", "--total-timesteps", "--seed"):
    parser.add_argument(flag, required=True)
arguments = parser.parse_args()
print("global_step=7, episodic_return=20.0")
for update in range(int(arguments.total_timesteps) // 512):
    print("SPS:", 1000 + update)
"""


def test_cleanrl_is_run_with_its_defaults_and_prl_beside_it(tmp_path, monkeypatch):
    script = tmp_path / "ppo.py"
    script.write_text(FAKE_CLEANRL)
    ways = contenders("train", cleanrl=script, total_timesteps=4096)
    ours = [f"{name}-as-cleanrl" for name in OURS]
    assert [name for name in ways if "cleanrl" in name] == [*ours, "cleanrl"]
    monkeypatch.setattr(train, "update_rate", list)
    updates = ways["cleanrl"].measure(0)
    assert [update.timesteps for update in updates] == [512 * (1 + update) for update in range(8)]
    TrainConfig(env_id=CARTPOLE, rollout="steps", **CLEANRL)  # its settings are settings


# ---- time-to-solve


def test_the_time_to_solve_ends_with_the_evaluation_that_reaches_the_threshold(monkeypatch, leaves_nothing):
    easy = dataclasses.replace(solve.TARGETS[CARTPOLE], threshold=1.0, eval_freq=1, total_timesteps=2000)
    hard = dataclasses.replace(easy, threshold=1000.0, eval_freq=2000)
    for target, expected in ((easy, False), (hard, True)):
        monkeypatch.setattr(solve, "TARGETS", {CARTPOLE: target})
        ways = contenders("time-to-solve")
        assert list(ways) == [*OURS, "sb3-dummy", "sb3-subproc"]
        assert math.isinf(ways["prl-worker-1"].measure(0)) is expected


# ---- scaling


def test_the_scaling_suite_in_small(monkeypatch, leaves_nothing):
    monkeypatch.setattr(scaling, "STARTED_WORKERS", 2)
    monkeypatch.setattr(scaling, "BUSY_ENVS", 2)
    monkeypatch.setattr(scaling, "NUM_STEPS", 4)
    ways = contenders("scaling")
    names = (
        *("raw-32", "collect-learner-32", "collect-worker-32", "busy-0-1", "busy-0.1-0"),
        *("train-learner-0", "train-overlap-1", "start-learner", "start-worker"),
        *("memory-learner", "memory-worker"),
    )
    numbers = {name: ways[name].measure(0) for name in names}
    assert all(0.0 < number < math.inf for number in numbers.values())
    assert numbers["busy-0.1-0"] < 10_000.0, "0.1 ms per step, in one process"
    assert numbers["memory-learner"] > 5.0, "an interpreter with NumPy"
    assert {ways["start-learner"].unit.key, ways["memory-worker"].unit.key} == {"seconds", "mebibytes"}


def test_what_scales_is_compared_with_the_smallest():
    config = BenchmarkConfig(CARTPOLE, suite="scaling", num_workers=2)
    ratios = {ratio.key: ratio.bases for ratio in scaling.scaling(config).ratios}
    assert ratios["ratio_to_fewest_envs"]["raw-1024"] == "raw-32"
    assert ratios["ratio_to_fewest_envs"]["collect-worker-64"] == "collect-worker-32"
    assert ratios["ratio_to_no_workers"]["busy-0.1-1"] == "busy-0.1-0"
    assert ratios["ratio_to_no_workers"]["train-overlap-2"] == "train-learner-0"
    assert set(ratios["ratio_to_fewest_envs"].values()) | set(ratios["ratio_to_no_workers"].values()) <= {
        contender.name for contender in scaling.scaling(config).contenders
    }


# ---- prl's own ways


def test_every_way_on_every_number_of_workers_that_it_can_have():
    chosen = variants(TrainConfig(env_id=CARTPOLE, num_envs=32), (0, 1, 4))
    assert [(each.name, each.label) for each in chosen] == [
        ("learner-0", "no workers"),
        ("learner-1", "1 worker, learner acts"),
        ("worker-1", "1 worker, workers act"),
        ("overlap-1", "1 worker, workers act, overlap"),
        ("learner-4", "4 workers, learner acts"),
        ("worker-4", "4 workers, workers act"),
        ("overlap-4", "4 workers, workers act, overlap"),
    ]
    settings = {each.name: each.config for each in chosen}
    assert (settings["worker-4"].acting, settings["worker-4"].overlap) == ("worker", False)
    assert (settings["overlap-1"].acting, settings["overlap-1"].overlap) == ("worker", True)
    assert bases(chosen, OVERLAP, WORKER) == {"overlap-1": "worker-1", "overlap-4": "worker-4"}


@pytest.mark.parametrize(
    ("num_envs", "num_groups", "workers", "expected"),
    [(16, None, 2, 2), (32, None, 4, 4), (32, 8, 2, 8), (1024, None, 2, 64), (3, None, 8, 3)],
)
def test_every_worker_that_acts_has_a_group(num_envs, num_groups, workers, expected):
    base = TrainConfig(env_id=CARTPOLE, num_envs=num_envs, num_groups=num_groups)
    by_learner, by_workers = variants(base, [workers], (LEARNER, WORKER))
    assert by_workers.config.groups == expected
    assert by_learner.config.groups == base.groups


# ---- peers


@pytest.mark.parametrize("library", ["sb3", "sbx"])
def test_a_peer_trains_and_is_evaluated(library, leaves_nothing):
    pytest.importorskip({"sb3": "stable_baselines3", "sbx": "sbx"}[library])
    settings = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    linear = {"learning_rate": 1e-3} if library == "sb3" else {}
    factory = env_factory(CARTPOLE)
    job = SB3Job(library, factory, 2, False, settings, 96, 0, linear=linear, eval_freq=64, eval_episodes=2)
    with watched(job) as progress:
        found = [(each.timesteps, each.mean_return is not None) for each in progress]
    assert found == [(32, False), (64, False), (64, True), (96, False), (96, True)]
    with watched(dataclasses.replace(job, in_processes=True, eval_freq=0)) as progress:
        assert update_rate(progress) > 0.0


def test_adapters_beside_what_they_replace():
    names = ["vector-env", "async", "ppo-prl"]
    small = {"num_envs": 4, "num_workers": 1, "seconds": 0.01, "only": names}
    config = BenchmarkConfig(CARTPOLE, suite="adapters", **small)
    result, table = benchmark(config)
    rates = {name: row["steps_per_second"] for name, row in result["results"].items()}
    row = result["results"]["vector-env"]
    assert row["ratio_to_async"] == pytest.approx(rates["vector-env"] / rates["async"])
    assert row["ratio_to_subproc"] is None
    assert "prl.VectorEnv" in table
    assert {*rates, *result["skipped"]} == set(names)
