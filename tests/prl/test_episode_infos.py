"""Success rates, and what else infos say at the end of episodes: in training, in evaluations, in files."""

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest
from telling_envs import Telling

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.async_ppo import AsyncPPO
from prl.config.command_line import parse
from prl.config.train_config import ConfigError, TrainConfig
from prl.pools import make_pool
from prl.quickstart import PPO
from prl.run.checkpoint_check import check_fits
from prl.run.checkpoint_files import CheckpointError
from prl.run.periodic_evaluation import Evaluation
from prl.run.train import train
from prl.training.episode_infos import EpisodeInfos
from prl.training.evaluate import Episode, evaluate, mean_infos, success_rate
from prl.training.rounds import split_groups
from prl.training.trainer import Trainer
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.envs import env_factory
from workers.final_infos import NO_NUMBER, SUCCESS, UNSAID, info_column
from workers.seeding import episode_seed
from workers.testing import probe_length

COLUMNS = (SUCCESS, info_column("x"), info_column("y"))


def rows(*numbers):
    return np.array(numbers, np.float64).reshape(-1, len(COLUMNS))


# ---- means


def test_the_means_are_over_the_episodes_that_say_something():
    infos = EpisodeInfos(COLUMNS)
    infos.add(rows())
    assert infos.means() == {}
    infos.add(rows([1.0, UNSAID, UNSAID], [0.0, 2.0, UNSAID]))
    infos.add(rows([UNSAID, 5.0, UNSAID], [0.0, UNSAID, UNSAID]))
    assert infos.means() == {"success_rate": pytest.approx(1 / 3), "info/x": 3.5}
    assert infos.unsaid() == ["y"]


def test_the_last_100_that_say_it_count():
    infos = EpisodeInfos(COLUMNS)
    infos.add(rows(*([0.0, k, UNSAID] for k in range(30))))
    infos.add(rows(*([UNSAID, UNSAID, 1.0] for _ in range(500))))
    infos.add(rows(*([1.0, 100.0, UNSAID] for _ in range(90))))
    assert infos.means() == {
        "success_rate": 0.9,
        "info/x": pytest.approx((sum(range(20, 30)) + 9000) / 100),
        "info/y": 1.0,
    }


def test_what_is_no_number_is_told_once_and_left_out():
    infos = EpisodeInfos(COLUMNS)
    with pytest.warns(
        UserWarning, match="^info/x .* else than a finite number, or an array of one under 'x'$"
    ):
        infos.add(rows([1.0, NO_NUMBER, UNSAID], [1.0, NO_NUMBER, UNSAID]))
    infos.add(rows([1.0, NO_NUMBER, UNSAID], [1.0, 4.0, UNSAID]))  # another warning would be an error
    assert infos.means() == {"success_rate": 1.0, "info/x": 4.0}
    with pytest.warns(UserWarning, match="True, False, 0 or 1 under 'is_success' or 'success'"):
        infos.add(rows([NO_NUMBER, 1.0, UNSAID]))
    assert infos.unsaid() == ["y"]


def test_they_go_on_from_their_state_with_other_columns_too():
    infos = EpisodeInfos(COLUMNS)
    infos.add(rows([1.0, 2.0, UNSAID]))
    state = json.loads(json.dumps(infos.state_dict()))
    other = EpisodeInfos((SUCCESS, info_column("z")))
    other.add(np.array([[0.0, 1.0]]))
    other.load_state_dict(state)
    assert other.means() == {"success_rate": 1.0}
    other.load_state_dict({})
    assert other.means() == {}


@pytest.mark.parametrize(
    ("infos", "problem"),
    [
        ([], "progress/infos is a list"),
        ({"info/x": 3.0}, "progress/infos/info/x is a float, not a list"),
        ({"info/x": [1.0] * 101}, "is not a list of at most 100 numbers"),
        ({"info/x": ["1"]}, "is not a list of at most 100 numbers"),
        ({"info/x": [float("nan")]}, "progress/infos/info/x/0 is nan"),
    ],
)
def test_a_damaged_state_is_refused(infos, problem):
    template = {"progress": {"round": 1, "infos": {}}}
    check_fits({"progress": {"round": 2, "infos": {"info/x": [1.0, 2]}}}, template)
    check_fits({"progress": {"round": 2}}, template)  # of a version that knew of none
    with pytest.raises(CheckpointError, match=problem):
        check_fits({"progress": {"round": 2, "infos": infos}}, template)


# ---- training

MODES = {
    "episodes": {},
    "episodes in two groups": {"num_groups": 2},
    "steps": {"num_steps": 3, "num_groups": 2},  # in some rounds of a group no episode ends
}
NUM_ENVS = 5


def reports(mode, num_workers, transport="shared", acts="learner", updates=4):
    """What a few updates report about infos."""
    factory = env_factory(Telling, max_episode_steps=100)
    settings = {"num_groups": 1, **MODES[mode]}
    policy = ActorCritic(factory.observation_space, factory.action_space, (8,), 3)
    kit = player_kit(policy) if acts == "worker" else None
    places = {}
    if kit is not None:
        places = {"groups": split_groups(NUM_ENVS, settings["num_groups"]), "guest": invitation(kit)}
    with make_pool(factory, NUM_ENVS, num_workers, transport, log_info=["distance"], **places) as pool:
        trainer = Trainer(
            pool,
            PPOLearner(policy, PPOConfig(num_epochs=1)),
            batch_size=15,
            total_timesteps=10**6,
            seed=7,
            players=None if kit is None else WorkerPlayers(pool, kit),
            **settings,
        )
        found = list(itertools.islice(trainer.iterations(), updates))
        assert trainer.unsaid_infos() == []
    names = ("rollout/success_rate", "rollout/info/distance")
    return [
        (report.episodes, {name: report.metrics[name] for name in names if name in report.metrics})
        for report in found
    ]


@pytest.fixture(scope="module")
def inline():
    return {mode: reports(mode, 0) for mode in MODES}


def test_the_metrics_of_the_first_episodes(inline):
    seeds = [episode_seed(7, env, 0) for env in range(NUM_ENVS)]
    distances = [seed + probe_length(seed) / 8 for seed in seeds]
    successes = [seed % 4 == 0 for seed in seeds if seed % 2 == 0]
    for mode in ("episodes", "episodes in two groups"):
        episodes, metrics = inline[mode][0]
        assert episodes == NUM_ENVS
        assert metrics["rollout/info/distance"] == pytest.approx(np.mean(distances), rel=1e-12)
        assert metrics["rollout/success_rate"] == np.mean(successes)


def test_before_an_episode_has_ended_there_are_no_metrics(inline):
    told = [bool(metrics) for _, metrics in inline["steps"]]
    assert told == sorted(told)  # absent at first, then always there
    assert told[-1]


@pytest.mark.parametrize(
    ("num_workers", "transport", "acts"),
    [(2, "shared", "learner"), (1, "pipe", "learner"), (2, "pipe", "worker")],
)
@pytest.mark.parametrize("mode", MODES)
def test_workers_and_transport_and_players_change_nothing(inline, mode, num_workers, transport, acts):
    assert reports(mode, num_workers, transport, acts) == inline[mode]


# ---- evaluations


def test_episodes_of_an_evaluation_say_what_their_infos_do():
    factory = env_factory(Telling, max_episode_steps=100)
    policy = ActorCritic(factory.observation_space, factory.action_space, (8,), 3)
    with make_pool(factory, 3, 0, log_info=["distance"]) as pool:
        found = evaluate(policy, pool, range(40, 47))
    for seed, episode in zip(range(40, 47), found, strict=True):
        assert episode.length == probe_length(seed)
        assert episode.infos["info/distance"] == seed + episode.length / 8
        assert episode.success == (None if seed % 2 else seed % 4 == 0)
    assert success_rate(found) == 0.5
    assert mean_infos(found)["info/distance"] == np.mean([e.infos["info/distance"] for e in found])
    assert success_rate(found[1:2]) is None
    assert "eval/success_rate" not in Evaluation(1, tuple(found[1:2])).metrics()
    evaluation = Evaluation(1, tuple(found))
    assert evaluation.metrics()["eval/success_rate"] == 0.5
    assert Evaluation.of_numbers(json.loads(json.dumps(evaluation.as_numbers()))) == evaluation


def test_evaluations_of_earlier_checkpoints_have_no_infos():
    assert Evaluation.of_numbers({"timesteps": 3, "episodes": [[1.5, 7]]}).episodes == (Episode(1.5, 7),)
    for infos in (3, "ab", ["x"], {"x": "y"}, {"x": None}, {"x": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            Evaluation.of_numbers({"timesteps": 3, "episodes": [[1.5, 7, infos]]})


# ---- runs

GOAL = TrainConfig(
    env_id="telling_envs:telling/Goal-v0",
    num_envs=2,
    num_workers=0,
    total_timesteps=640,
    batch_size=64,
    eval_freq=320,
    hidden_sizes=(8,),
    device="cpu",
    log_info=("steps", "late"),
)


def columns_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_what_its_episodes_say(tmp_path):
    run = tmp_path / "run"
    train(dataclasses.replace(GOAL, run_folder=run))
    progress, evaluations = columns_of(run / "progress.csv"), columns_of(run / "evaluations.csv")
    assert len(progress) > 5
    assert len(evaluations) == 2
    for row in progress:
        assert float(row["rollout/info/steps"]) == pytest.approx(float(row["rollout/ep_len_mean"]))
        assert 0.5 < float(row["rollout/success_rate"]) <= 1.0
        assert row["rollout/info/late"] in ("", "7.5")
    for row in evaluations:
        assert float(row["eval/info/steps"]) == pytest.approx(float(row["eval/mean_ep_length"]))
        assert 0.0 <= float(row["eval/success_rate"]) <= 1.0
    assert (
        parse(TrainConfig, ["--config", str(run / "config.yaml")], prog="train.py").log_info == GOAL.log_info
    )


def test_keys_that_say_nothing_get_a_line_each_and_no_column(tmp_path):
    run = tmp_path / "run"
    config = dataclasses.replace(GOAL, run_folder=run, log_info=("name", "stepz"), eval_freq=0)
    lines = (
        "^info/name leaves out episodes whose last info|^log_info stepz: no episode had it in its last info$"
    )
    with pytest.warns(UserWarning, match=lines) as told:
        summary = train(config)
    assert len(told) == 2
    assert not any("info" in name for name in columns_of(run / "progress.csv")[0])
    plain = train(dataclasses.replace(GOAL, run_folder=tmp_path / "plain", eval_freq=0, log_info=()))
    assert summary["weights_sha256"] == plain["weights_sha256"]


def test_a_run_goes_on_with_other_keys(tmp_path):
    run = tmp_path / "run"
    train(dataclasses.replace(GOAL, run_folder=run, log_info=(), checkpoint_every=1))
    before = columns_of(run / "progress.csv")
    train(dataclasses.replace(GOAL, run_folder=run, total_timesteps=1000, log_info=("steps",)), resume=run)
    after = columns_of(run / "progress.csv")
    for old, new in zip(before, after, strict=False):
        assert new == old | {"rollout/info/steps": ""}
    assert all(float(row["rollout/info/steps"]) >= 1.0 for row in after[len(before) :])


@pytest.mark.parametrize("keys", [[""], ["a", "a"]])
def test_what_is_no_list_of_keys_is_refused(keys):
    with pytest.raises(ConfigError, match="log_info must be a list of keys of infos, each once"):
        dataclasses.replace(GOAL, log_info=keys)


def test_the_quick_start_tells_successes():
    class Metrics(list):
        def write(self, timesteps, metrics):
            self.append(dict(metrics))

        def close(self):
            pass

    found = Metrics()
    ppo = PPO(is_continuous=False, action_dim=2, observ_dim=2, batch_size=64, mini_batch_size=64, k_epochs=1)
    AsyncPPO(env="telling_envs:telling/Goal-v0", ppo=ppo, num_envs=2, steps=200, num_workers=0).run([found])
    assert found
    assert all(0.5 < metrics["rollout/success_rate"] <= 1.0 for metrics in found)
