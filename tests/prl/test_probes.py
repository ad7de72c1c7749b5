"""Probe environments, learnt through the real path: pool, collect, store, update. Values are numbers.

Each takes a few seconds on one core. A seed that fails is never tried again.
"""

import functools

import numpy as np
import probe_envs
import pytest
import torch

from learner.actor import Actor
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.training.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool


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
    num_steps=None,
    normalize_obs=False,
    make_pool=InlinePool,
    rollouts=None,
    **settings,
):
    """A policy that has learnt `env`, and the mean return of the last iteration's episodes (None of none).

    `rollouts` is a list for everything that was learnt from.
    """
    factory = env_factory(env, max_episode_steps=limit)
    policy = ActorCritic(
        factory.observation_space, factory.action_space, (32, 32), seed, normalize_obs=normalize_obs
    )
    settings = {"actor_lr": 3e-3, "critic_lr": 1e-2, "minibatch_size": 64, "num_epochs": 8} | settings
    learner = PPOLearner(policy, PPOConfig(**settings))
    if rollouts is not None:
        prepare = learner.prepare
        learner.prepare = lambda rollout, acting: rollouts.append(rollout) or prepare(rollout, acting)
    with make_pool(factory, num_envs) as pool:
        trainer = Trainer(
            pool,
            learner,
            batch_size=batch_size,
            total_timesteps=total_timesteps,
            seed=seed,
            num_groups=num_groups,
            num_steps=num_steps,
        )
        for report in trainer.iterations():
            # One ulp of a mean near 1.4 over a std of 0.04 (probe 9) is 3e-6, times the distance in stds.
            assert report.metrics["train/initial_ratio_error"] < 3e-5
            if report.iteration == iterations:
                return policy, float(report.returns.mean()) if len(report.returns) else None


def value(policy, *obs):
    return float(policy.values_without_grad(torch.tensor([obs], dtype=torch.float32)))


def probabilities(policy, *obs):
    with torch.no_grad():
        inputs = policy.preprocess(torch.tensor([obs], dtype=torch.float32))
        return torch.softmax(policy.outputs(*inputs), 1)[0].numpy()


def test_1_a_constant_reward_is_its_value():
    policy, _ = train(probe_envs.ConstantReward, 30)
    assert value(policy, 0.0) == pytest.approx(1.0, abs=0.01)


def test_2_the_value_depends_on_the_observation():
    policy, _ = train(probe_envs.RewardIsObs, 40)
    assert value(policy, 1.0) == pytest.approx(1.0, abs=0.01)
    assert value(policy, -1.0) == pytest.approx(-1.0, abs=0.01)


@pytest.mark.parametrize(("gae_lambda", "num_steps"), [(0.0, None), (0.95, None), (1.0, None), (0.95, 5)])
def test_3_a_delayed_reward_is_discounted(gae_lambda, num_steps):
    policy, _ = train(probe_envs.DelayedReward, 60, gamma=0.6, gae_lambda=gae_lambda, num_steps=num_steps)
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


@pytest.mark.parametrize(
    ("limit", "num_steps"),
    [(8, None), (6, 8), (None, 8)],
    ids=["episodes", "steps", "steps without any end"],
)
def test_6_a_time_limit_does_not_end_the_world(limit, num_steps):
    policy, mean_return = train(probe_envs.Endless, 120, limit=limit, num_steps=num_steps, **ENDLESS)
    assert mean_return == (None if limit is None else float(limit))
    # A reward of 1 for ever, of which episodes, or rounds, show only the first steps.
    assert value(policy, 1.0) == pytest.approx(1.0 / (1.0 - 0.98), rel=0.01)


def test_6_without_bootstrap_the_same_world_is_worth_far_less():
    policy, mean_return = train(probe_envs.EndlessButTerminated, 40, gae_lambda=1.0, **ENDLESS)
    assert mean_return == 8.0
    # The observation does not tell how many of the 8 steps are left: the mean over 1 to 8.
    worth = np.mean([(1.0 - 0.98**left) / (1.0 - 0.98) for left in range(1, 9)])  # 4.3
    assert value(policy, 1.0) == pytest.approx(worth, rel=0.01)


@pytest.mark.parametrize(("num_groups", "num_steps"), [(1, None), (2, None), (2, 4)])
def test_7_every_env_gets_its_own_actions_observations_and_rewards(num_groups, num_steps):
    policy, _ = train(
        probe_envs.Identity,
        120,
        num_groups=num_groups,
        num_steps=num_steps,
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


@pytest.mark.parametrize(("num_envs", "num_steps"), [(32, None), (16, 4)])
def test_9_a_target_near_the_bounds_is_reached(num_envs, num_steps):
    policy, mean_return = train(
        probe_envs.TargetNearABound, 120, num_envs=num_envs, batch_size=4 * num_envs, num_steps=num_steps
    )
    env_action = policy.head.to_env(Actor(policy).act(np.zeros((1, 1), np.float32), None))[0]
    assert (np.abs(env_action - probe_envs.TargetNearABound.target) < [0.1, 0.3]).all()
    assert mean_return > 0.98
    assert value(policy, 0.0) == pytest.approx(mean_return, abs=0.02)


@pytest.mark.parametrize(("num_steps", "num_groups"), [(None, 1), (12, 3)])
def test_10_a_slow_env_counts_as_much_as_fast_ones(num_steps, num_groups):
    rollouts = []
    policy, _ = train(
        probe_envs.Unequal,
        30,
        num_envs=3,
        num_steps=num_steps,
        num_groups=num_groups,
        make_pool=functools.partial(ProcessPool, num_workers=3),
        rollouts=rollouts,
        batch_size=72,
        minibatch_size=36,
        total_timesteps=30 * 72,
        anneal_lr=True,
        gamma=0.5,
        gae_lambda=1.0,
        max_grad_norm=100.0,
    )
    assert len(rollouts) == 30
    for rollout in rollouts:
        played = np.bincount(rollout.env_ids, minlength=3)
        episodes = np.bincount(rollout.env_ids[rollout.episode_ends], minlength=3)
        if num_steps is None:
            assert len(set(episodes.tolist())) == 1  # as many episodes, so more steps where they are longer
            assert (played == episodes * [1, 2, 3]).all()
        else:
            assert set(played.tolist()) == {24}  # as many steps, so more episodes where they are shorter
            assert (episodes == [24, 12, 8]).all()
    for env in range(3):
        obs = np.eye(3)[env]
        assert probabilities(policy, *obs)[env] > 0.97
        # One cannot tell how many steps are left: the mean over 1 to 1 + env of what comes.
        worth = np.mean([(1.0 + env) * (1.0 - 0.5**left) / 0.5 for left in range(1, env + 2)])
        assert value(policy, *obs) == pytest.approx(worth, abs=0.15), env


@pytest.mark.parametrize(
    ("gae_lambda", "first"),
    [(0.0, 0.7**2 / 2.0 / (1.0 - 0.7 / 2.0)), (1.0, (0.7**3 + 0.7**2) / 2.0)],  # 0.377 and 0.417
    ids=["lambda 0", "lambda 1"],
)
def test_11_lambda_decides_between_one_step_targets_and_whole_returns(gae_lambda, first):
    policy, _ = train(probe_envs.AlikeAtFirst, 60, gamma=0.7, gae_lambda=gae_lambda)
    found = [value(policy, *np.eye(3)[state]) for state in range(3)]
    assert found == pytest.approx([first, 0.7, 1.0], abs=0.01)


def shifted(unit, offset, normalized, seed=1):
    """Share of the best return, and values and probabilities of the right action, of both cues."""
    policy, mean_return = train(
        functools.partial(probe_envs.Shifted, unit, offset),
        30,
        seed=seed,
        batch_size=128,
        gamma=0.5,
        normalize_obs=normalized,
        normalize_reward=normalized,
    )
    cues = [offset - 1.0, offset + 1.0]
    values = [value(policy, cue) for cue in cues]
    return mean_return / (4.0 * unit), values, [probabilities(policy, cue)[k] for k, cue in enumerate(cues)]


def test_13_with_normalisation_units_and_offsets_do_not_matter():
    plain, plain_values, plain_probabilities = shifted(1.0, 0.0, normalized=True)
    share, values, found = shifted(1000.0, 1e4, normalized=True)
    assert min(plain, share) > 0.97
    assert min(plain_probabilities + found) > 0.99
    assert found == pytest.approx(plain_probabilities, abs=1e-3)
    assert values == pytest.approx(plain_values, rel=1e-2)  # of rewards in units of their own spread
    assert min(values) > 1.0


def test_13_without_normalisation_they_do():
    share, values, found = shifted(1.0, 0.0, normalized=False)
    assert share > 0.97
    assert min(found) > 0.99
    assert values == pytest.approx([np.mean([2.0 * (1.0 - 0.5**left) for left in range(1, 5)])] * 2, abs=0.1)
    share, _, found = shifted(1000.0, 1e4, normalized=False)
    assert share < 0.5
    assert min(found) < 0.7
