"""Probe environments, learnt through the real path: pool, collect, store, update. Values are numbers.

Each takes a few seconds on one core. A seed that fails is never tried again.
"""

import numpy as np
import probe_envs
import pytest
import torch

from learner.policy import ActorCritic
from learner.ppo import PPOConfig, PPOLearner
from prl.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(
    env,
    iterations,
    *,
    seed=1,
    num_envs=16,
    batch_size=64,
    total_timesteps=1_000_000,
    limit=None,
    num_groups=1,
    **settings,
):
    """A policy that has learnt `env`, and the mean return of the last iteration's episodes."""
    factory = env_factory(env, max_episode_steps=limit)
    policy = ActorCritic(factory.observation_space, factory.action_space, (32, 32), seed)
    settings = {"actor_lr": 3e-3, "critic_lr": 1e-2, "minibatch_size": 64, "num_epochs": 8} | settings
    with InlinePool(factory, num_envs) as pool:
        trainer = Trainer(
            pool,
            PPOLearner(policy, PPOConfig(**settings)),
            batch_size=batch_size,
            total_timesteps=total_timesteps,
            seed=seed,
            num_groups=num_groups,
        )
        for report in trainer.iterations():
            assert report.metrics["train/initial_ratio_error"] < 1e-5
            if report.iteration == iterations:
                return policy, float(report.returns.mean())


def value(policy, *obs):
    return float(policy.state_values(torch.tensor([obs], dtype=torch.float32)))


def probabilities(policy, *obs):
    with torch.no_grad():
        return torch.softmax(policy.actor(torch.tensor([obs], dtype=torch.float32)), 1)[0].numpy()


def test_1_a_constant_reward_is_its_value():
    policy, _ = train(probe_envs.ConstantReward, 30)
    assert value(policy, 0.0) == pytest.approx(1.0, abs=0.01)


def test_2_the_value_depends_on_the_observation():
    policy, _ = train(probe_envs.RewardIsObs, 40)
    assert value(policy, 1.0) == pytest.approx(1.0, abs=0.01)
    assert value(policy, -1.0) == pytest.approx(-1.0, abs=0.01)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_3_a_delayed_reward_is_discounted(gae_lambda):
    policy, _ = train(probe_envs.DelayedReward, 60, gamma=0.6, gae_lambda=gae_lambda)
    assert value(policy, 0.0) == pytest.approx(0.6, abs=0.01)
    assert value(policy, 1.0) == pytest.approx(1.0, abs=0.01)


def test_4_the_better_of_two_actions_is_learnt():
    policy, mean_return = train(probe_envs.TwoActions, 60)
    assert probabilities(policy, 0.0)[1] > 0.99
    assert value(policy, 0.0) == pytest.approx(1.0, abs=0.02)
    assert mean_return > 0.95


def test_5_the_action_depends_on_the_observation():
    policy, mean_return = train(probe_envs.ObsTimesAction, 60)
    assert probabilities(policy, 1.0)[1] > 0.99
    assert probabilities(policy, -1.0)[0] > 0.99
    assert value(policy, 1.0) == pytest.approx(1.0, abs=0.02)
    assert value(policy, -1.0) == pytest.approx(1.0, abs=0.02)
    assert mean_return > 0.95


ENDLESS = {"num_envs": 8, "gamma": 0.98, "critic_lr": 2e-2, "max_grad_norm": 100.0}


def test_6_a_time_limit_does_not_end_the_world():
    policy, mean_return = train(probe_envs.Endless, 120, limit=8, **ENDLESS)
    assert mean_return == 8.0
    # A reward of 1 for ever, of which episodes show only the first 8 steps.
    assert value(policy, 1.0) == pytest.approx(1.0 / (1.0 - 0.98), rel=0.01)


def test_6_without_bootstrap_the_same_world_is_worth_far_less():
    policy, mean_return = train(probe_envs.EndlessButTerminated, 40, gae_lambda=1.0, **ENDLESS)
    assert mean_return == 8.0
    # The observation does not tell how many of the 8 steps are left: the mean over 1 to 8.
    worth = np.mean([(1.0 - 0.98**left) / (1.0 - 0.98) for left in range(1, 9)])  # 4.3
    assert value(policy, 1.0) == pytest.approx(worth, rel=0.01)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_7_every_env_gets_its_own_actions_observations_and_rewards(num_groups):
    policy, _ = train(
        probe_envs.Identity,
        120,
        num_groups=num_groups,
        total_timesteps=120 * 80,
        anneal_lr=True,
        gamma=0.9,
        gae_lambda=1.0,
        critic_lr=5e-3,
        max_grad_norm=100.0,
    )
    for identity in range(probe_envs.IDENTITIES):
        for left in range(1, identity + 2):
            obs = [*np.eye(probe_envs.IDENTITIES)[identity], left / probe_envs.IDENTITIES]
            assert probabilities(policy, *obs)[identity] > 0.97
            worth = (1.0 + identity) * (1.0 - 0.9**left) / 0.1
            assert value(policy, *obs) == pytest.approx(worth, abs=0.2), (identity, left)


def test_8_episodes_count_the_same_whatever_their_length():
    policy, _ = train(
        probe_envs.HiddenLength,
        80,
        num_envs=64,
        batch_size=512,
        gamma=1.0,
        gae_lambda=1.0,
        critic_lr=2e-3,
        num_epochs=4,
        minibatch_size=128,
    )
    assert probabilities(policy, 1.0)[1] > 0.97
    # 1.5 and -0.5 are drawn: the mean of the last 1000 episodes has a standard error of 0.03.
    assert value(policy, 1.0) == pytest.approx(0.5, abs=0.12)


def test_9_a_target_near_the_bounds_is_reached():
    policy, mean_return = train(probe_envs.TargetNearABound, 120, num_envs=32, batch_size=128)
    env_action = policy.head.to_env(policy.act_greedily(np.zeros((1, 1), np.float32)))[0]
    assert (np.abs(env_action - probe_envs.TargetNearABound.target) < [0.1, 0.3]).all()
    assert mean_return > 0.98
    assert value(policy, 0.0) == pytest.approx(mean_return, abs=0.02)
