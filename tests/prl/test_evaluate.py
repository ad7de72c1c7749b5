"""Evaluation: its numbers, what they depend on, and what a run keeps of it."""

import csv
import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import faulty
from probe_envs import Identity, ObsTimesAction, TwoActions

from learner.errors import NonFiniteError
from learner.policy import ActorCritic
from prl.cli import train_main
from prl.config.train_config import ConfigError, TrainConfig
from prl.pools import make_pool
from prl.run.periodic_evaluation import (
    NO_EVALUATION,
    Evaluation,
    EvaluationSchedule,
    PeriodicEvaluation,
    evaluation_seeds,
)
from prl.run.saved_run import evaluate_run
from prl.run.train import train
from prl.run.weights import load_weights, save_weights, weights_sha256
from prl.training.evaluate import Episode, EpisodeActor, evaluate
from workers.envs import env_factory
from workers.errors import WorkerError
from workers.inline_pool import InlinePool
from workers.recovering_pool import Recovery
from workers.seeding import episode_seed
from workers.testing import probe_length

pytestmark = pytest.mark.usefixtures("carried_by_value")


class Chaotic(gym.Env):
    """40 steps of the logistic map: the last bit of an action grows until it decides on the return."""

    observation_space = gym.spaces.Box(-2, 2, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        self.x, self.steps = np.random.default_rng(seed).uniform(0.1, 0.9), 0
        return self.obs(), {}

    def step(self, action):
        self.x = 3.9 * self.x * (1.0 - self.x) * (1.0 - 0.01 * abs(float(action[0])))
        self.steps += 1
        return self.obs(), self.x, self.steps == 40, False, {}

    def obs(self):
        return np.array([self.x, self.steps / 40])


class FailsWhenEvaluated(TwoActions):
    """Raises in the first of the run's evaluation episodes."""

    def reset(self, *, seed=None, options=None):
        if seed == evaluation_seeds(0, 1)[0]:
            raise RuntimeError("out of licences")
        return super().reset(seed=seed)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    gym.register("test/TwoActions-v0", TwoActions, max_episode_steps=5)
    gym.register("test/Chaotic-v0", Chaotic, max_episode_steps=100)
    gym.register("test/Fails-v0", FailsWhenEvaluated, max_episode_steps=5)
    yield
    for name in ("TwoActions", "Chaotic", "Fails"):
        del gym.registry[f"test/{name}-v0"]


def linear_policy(env, weight, bias=0.0):
    """The actor's outputs are weight @ obs + bias."""
    policy = ActorCritic(env().observation_space, env.action_space, ())
    [layer] = [module for module in policy.actor.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight, dtype=torch.float32))
        layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float32).expand_as(layer.bias))
    return policy


def played(env, policy, seeds, num_envs=4, num_workers=0, **options):
    factory = env_factory(env, max_episode_steps=100)
    with make_pool(factory, num_envs, num_workers, close_timeout=20.0) as pool:
        return evaluate(policy, pool, seeds, **options)


@pytest.mark.parametrize("num_envs", [1, 3, 20])
def test_episodes_come_in_the_order_of_their_seeds(num_envs):
    seeds = list(range(100, 111))
    identities = [np.random.default_rng(seed).integers(1 << 20).item() % 4 for seed in seeds]
    assert len(set(identities)) == 4
    policy = linear_policy(Identity, np.eye(4, 5))  # identity k plays k + 1 steps that pay k + 1 each
    expected = [Episode((k + 1.0) ** 2, k + 1) for k in identities]
    assert played(Identity, policy, seeds, num_envs) == expected


@pytest.mark.parametrize(("weight", "paid"), [([[-9.0], [9.0]], 1.0), ([[9.0], [-9.0]], -1.0)])
def test_known_weights_earn_known_returns(weight, paid):
    policy = linear_policy(ObsTimesAction, weight)
    assert played(ObsTimesAction, policy, range(9)) == [Episode(paid, 1)] * 9


def test_drawn_actions_are_as_frequent_as_the_policy_says():
    policy = linear_policy(TwoActions, [[0.0], [0.0]], [0.0, np.log(3.0)])  # action 1: three times of four
    drawn = played(TwoActions, policy, range(600), num_envs=60, deterministic=False)
    share = np.mean([episode.episode_return == 1.0 for episode in drawn])
    assert share == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 600))
    assert drawn == played(TwoActions, policy, range(600), num_envs=50, deterministic=False)
    assert played(TwoActions, policy, range(9)) == [Episode(1.0, 1)] * 9


@pytest.mark.parametrize("deterministic", [True, False])
def test_an_episode_depends_on_nothing_but_its_seed(deterministic):
    policy = ActorCritic(Chaotic.observation_space, Chaotic.action_space, (64, 64), seed=3)
    seeds = [7 * k for k in range(20)]
    expected = played(Chaotic, policy, seeds, 1, deterministic=deterministic)
    assert len({episode.episode_return for episode in expected}) == 20
    for num_envs in (6, 30):
        assert played(Chaotic, policy, seeds, num_envs, deterministic=deterministic) == expected
    assert played(Chaotic, policy, seeds[:3], deterministic=deterministic) == expected[:3]
    if deterministic:
        assert played(Chaotic, policy, seeds, 10, num_workers=2) == expected


class CountsTraining(torch.nn.Module):
    """Has statistics that move while it trains, as batch normalisation has."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += self.training
        return inputs


def test_nothing_about_the_policy_changes():
    """Neither statistics nor what modules of one's own learn or draw while they train."""
    encoder = torch.nn.Sequential(torch.nn.Linear(5, 8), CountsTraining(), torch.nn.Dropout(0.5))
    space = Identity().observation_space
    own = ActorCritic(space, Identity.action_space, encoder=encoder)
    own.head.eval()
    normalised = ActorCritic(space, Identity.action_space, normalize_obs=True)
    normalised.update_statistics(np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32))
    for policy in (own, normalised):
        before, modes = weights_sha256(policy), [module.training for module in policy.modules()]
        state = torch.get_rng_state()
        played(Identity, policy, range(6))
        assert weights_sha256(policy) == before
        assert [module.training for module in policy.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)


def test_actions_that_are_not_finite_are_the_policys_fault():
    policy = linear_policy(Chaotic, [[float("nan")] * 2])
    with pytest.raises(NonFiniteError):
        played(Chaotic, policy, [1])


def test_evaluations_have_seeds_of_their_own():
    seeds = evaluation_seeds(5, 50)
    assert seeds[:10] == evaluation_seeds(5, 10)
    assert len(set(seeds)) == 50
    assert not set(seeds) & set(evaluation_seeds(6, 50))
    assert not set(seeds) & {episode_seed(5, env, k) for env in range(20) for k in range(50)}


def test_the_metrics_of_an_evaluation():
    evaluation = Evaluation(77, (Episode(1.0, 10), Episode(4.0, 20), Episode(1.0, 60)))
    assert (evaluation.mean_return, evaluation.mean_length) == (2.0, 30.0)
    assert evaluation.std_return == pytest.approx(np.sqrt(2.0))
    assert evaluation.metrics() == {
        "eval/timesteps": 77.0,
        "eval/mean_reward": 2.0,
        "eval/std_reward": pytest.approx(np.sqrt(2.0)),
        "eval/min_reward": 1.0,
        "eval/max_reward": 4.0,
        "eval/mean_ep_length": 30.0,
        "eval/episodes": 3.0,
    }


class Paying(gym.Env):
    """Pays one step after the other what the class attribute `pays` says; an episode has one step."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    pays = iter(())

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), next(self.pays), True, False, {}


class Recording:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.calls, self.closed = [], 0

    def write(self, timesteps, metrics):
        self.calls.append((timesteps, dict(metrics)))

    def close(self):
        self.closed += 1


def test_when_it_evaluates_and_which_is_the_best():
    policy = linear_policy(Paying, [[0.0], [0.0]])
    sink, best = Recording(), []
    Paying.pays = iter([1.0, 1.0, 6.0, 4.0, 5.0, 5.0, 3.0, 3.0])  # two episodes per evaluation
    with InlinePool(env_factory(Paying, max_episode_steps=5), 1) as pool:
        evaluation = PeriodicEvaluation(
            policy,
            EvaluationSchedule(pool, freq=100, episodes=2),
            total_timesteps=420,
            seed=0,
            sinks=[sink],
            on_best=best.append,
        )
        assert evaluation.summary() == NO_EVALUATION
        for timesteps in (60, 100, 199, 350, 399, 400, 425):  # 350 passes two multiples; 425 is the end
            evaluation.after_update(timesteps)
    means = [(timesteps, metrics["eval/mean_reward"]) for timesteps, metrics in sink.calls]
    assert means == [(100, 1.0), (350, 5.0), (400, 5.0), (425, 3.0)]
    assert [metrics["eval/episodes"] for _, metrics in sink.calls] == [2.0] * 4
    assert [(found.timesteps, found.mean_return) for found in best] == [(100, 1.0), (350, 5.0)]  # not 400
    assert best[-1].std_return == 1.0
    assert evaluation.best is best[-1]
    assert sink.closed == 0  # it belongs to the run
    assert evaluation.summary() == {"eval_mean_return": 3.0, "best_mean_return": 5.0, "best_timesteps": 350}


SMALL = TrainConfig(
    env_id="test/Chaotic-v0",
    num_envs=4,
    num_workers=0,
    close_timeout=20.0,
    total_timesteps=3500,  # more than the 2048 of the first statistics
    batch_size=300,
    hidden_sizes=(8,),
    normalize_obs=True,
    normalize_reward=True,
    eval_episodes=3,
    device="cpu",
)


@pytest.mark.parametrize("rollout", ["episodes", "steps"])
def test_training_does_not_notice_that_it_is_evaluated(rollout, tmp_path):
    def trained(freq, workers=0):
        config = dataclasses.replace(
            SMALL,
            rollout=rollout,
            eval_freq=freq,
            num_workers=workers,
            run_folder=tmp_path / f"{freq}-{workers}",
        )
        return train(config)

    without, often = trained(0), trained(700)
    assert often["weights_sha256"] == without["weights_sha256"]
    assert often["timesteps"] == without["timesteps"]
    assert not (tmp_path / "0-0/evaluations.csv").exists()
    if rollout == "steps":
        return
    processes = trained(700, workers=1)
    assert processes["weights_sha256"] == without["weights_sha256"]
    assert processes["best_mean_return"] == often["best_mean_return"]
    written = [(tmp_path / name / "evaluations.csv").read_bytes() for name in ("700-0", "700-1")]
    assert written[0] == written[1]


def test_a_run_keeps_what_its_evaluations_found(tmp_path):
    summary = train(dataclasses.replace(SMALL, eval_freq=500, run_folder=tmp_path / "run"))
    with (tmp_path / "run/evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    means = [float(row["eval/mean_reward"]) for row in rows]
    assert len(rows) >= 3
    assert float(rows[-1]["eval/timesteps"]) == summary["timesteps"]
    assert summary["eval_mean_return"] == pytest.approx(means[-1], abs=1e-4)
    assert summary["best_mean_return"] == pytest.approx(max(means), abs=1e-4)
    kept = json.loads((tmp_path / "run/best/evaluation.json").read_text())
    assert kept["timesteps"] == summary["best_timesteps"]
    assert float(rows[int(np.argmax(means))]["eval/timesteps"]) == kept["timesteps"]

    # The best policy comes back with the statistics that it had.
    factory = env_factory("test/Chaotic-v0")
    policy = ActorCritic(factory.observation_space, factory.action_space, (8,), normalize_obs=True)
    load_weights(policy, tmp_path / "run/best")
    with InlinePool(factory, 2) as pool:
        again = evaluate(policy, pool, evaluation_seeds(0, 3))
    assert np.mean([episode.episode_return for episode in again]) == kept["mean_return"]


def test_evaluate_run_plays_the_last_or_the_best_policy(tmp_path):
    run = tmp_path / "run"
    config = dataclasses.replace(SMALL, env_id="test/TwoActions-v0", normalize_obs=False, total_timesteps=1)
    train(dataclasses.replace(config, run_folder=run))
    with pytest.raises(ConfigError, match="has no best policy: it was trained without --eval-freq"):
        evaluate_run(run, best=True)
    policy = ActorCritic(TwoActions().observation_space, TwoActions.action_space, (8,))
    for folder, preferred in (("weights", 0), ("best", 1)):
        with torch.no_grad():
            policy.actor[-1].weight.zero_()
            policy.actor[-1].bias.copy_(torch.eye(2)[preferred])
        save_weights(policy, run / folder)
    assert evaluate_run(run) == [Episode(-1.0, 1)] * 100
    assert evaluate_run(str(run), 40, best=True) == [Episode(1.0, 1)] * 40
    drawn = evaluate_run(run, 40, seed=3, deterministic=False)
    assert {episode.episode_return for episode in drawn} == {-1.0, 1.0}
    assert drawn == evaluate_run(run, 40, seed=3, deterministic=False, num_envs=7)
    assert drawn != evaluate_run(run, 40, seed=4, deterministic=False)


def test_an_env_that_fails_in_the_evaluation_ends_the_run(tmp_path, capsys):
    flags = ("--num-envs", "4", "--num-workers", "0", "--total-timesteps", "200", "--eval-freq", "1")
    assert train_main(["--env-id", "test/Fails-v0", *flags, "--run-folder", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("train: in the evaluation, worker 0 (envs 0")
    path = tmp_path / "run/crashes/crash-01.json"
    assert err[0].endswith(f"raised RuntimeError: out of licences; prl replay {path} shows it")
    assert any("Traceback" in line for line in err[1:])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["eval_mean_return"]) == ("failed", None)
    assert (tmp_path / "run/weights/policy.safetensors").is_file()


class Endless(TwoActions):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def test_episodes_without_an_end_are_cut_with_a_warning():
    policy = linear_policy(TwoActions, [[0.0], [0.0]], [0.0, 1.0])
    with make_pool(env_factory(Endless), 2, 0) as pool:
        with pytest.warns(UserWarning, match="2 of 2 episodes did not end within 7 steps") as caught:
            cut = evaluate(policy, pool, range(4), max_episode_steps=7)
        assert len(caught) == 2  # one for each batch of episodes
        assert cut == [Episode(7.0, 7)] * 4
    with make_pool(env_factory(Chaotic, max_episode_steps=100), 2, 0) as pool:  # its episodes have 40 steps
        policy = ActorCritic(Chaotic.observation_space, Chaotic.action_space, (8,))
        whole = evaluate(policy, pool, range(3))
        assert evaluate(policy, pool, range(3), max_episode_steps=40) == whole
        assert [episode.length for episode in whole] == [40] * 3


def test_a_run_of_fixed_steps_evaluates_envs_without_a_time_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("prl.run.build.LONGEST_EPISODE", 20)
    gym.register("test/NeverEnds-v0", Endless)
    flags = ("--rollout", "steps", "--num-steps", "50", "--num-envs", "2", "--num-workers", "0")
    try:
        with pytest.warns(UserWarning, match="2 of 2 episodes did not end within 20 steps"):
            code = train_main(
                [
                    *("--env-id", "test/NeverEnds-v0", *flags, "--batch-size", "100"),
                    *("--total-timesteps", "100", "--eval-freq", "100", "--eval-episodes", "2"),
                    *("--run-folder", str(tmp_path / "run")),
                ]
            )
    finally:
        del gym.registry["test/NeverEnds-v0"]
    assert code == 0
    with (tmp_path / "run/evaluations.csv").open() as file:
        assert [row["eval/mean_ep_length"] for row in csv.DictReader(file)] == ["20"]


def test_images_take_fewer_rows_and_depend_on_nothing_but_their_seed():
    space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    policy = ActorCritic(space, gym.spaces.Discrete(3), seed=1)
    seen = []
    policy.encoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    images = np.random.default_rng(0).integers(0, 256, (6, 36, 36, 1), np.uint8)
    together = EpisodeActor(policy, range(6)).act(np.arange(6), images)
    alone = [EpisodeActor(policy, [k], first=k).act(np.arange(1), images[k : k + 1])[0] for k in range(6)]
    np.testing.assert_array_equal(together, alone)
    assert set(seen) == {4}


@pytest.mark.filterwarnings("ignore:worker .* it is started again")
def test_episodes_that_are_lost_are_left_out(leaves_nothing):
    """What was played of them until their env failed would be taken for a bad policy's return."""
    factory = faulty("raise", at_step=2, seed=7)
    policy = ActorCritic(factory.observation_space, factory.action_space, ())
    with make_pool(factory, 3, 1, recovery=Recovery()) as pool:
        with pytest.warns(UserWarning, match="1 of 3 episodes are lost, .* left out of"):
            episodes = evaluate(policy, pool, [6, 7, 8])
        assert [episode.length for episode in episodes] == [probe_length(6), probe_length(8)]
        with (
            pytest.warns(UserWarning, match="1 of 1 episodes are lost"),
            pytest.raises(WorkerError, match="lost all episodes of an evaluation"),
        ):
            evaluate(policy, pool, [7])
