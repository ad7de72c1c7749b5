"""Rows 16 and 17: running statistics of observations and of discounted returns."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from learner_helpers import log_prob, make_rollout, same_bits, vector_space, weights_of

from learner.actor import Actor
from learner.normalize import ObservationNormalizer, RawRewards, RewardScaler, RunningMoments, discounted_sums
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig

UNEVEN = [1, 7, 1, 300, 2, 64, 1000, 3]


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- moments


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_of_uneven_batches_are_those_of_all_at_once(shape, offset):
    moments = RunningMoments(shape)
    batches = [offset + 3.0 * rng(k).standard_normal((size, *shape)) for k, size in enumerate(UNEVEN)]
    for count, batch in enumerate(batches, start=1):
        moments.update(torch.as_tensor(batch))
        everything = np.concatenate(batches[:count])
        assert float(moments.count) == len(everything)
        np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.var, everything.var(0), rtol=1e-11, atol=1e-12)
    assert moments.mean.dtype == moments.var.dtype == torch.float64


def test_a_large_offset_costs_no_digits():
    """E[x^2] - E[x]^2 would have none left: 1e16 in float64 is exact to 1, and the variance is 1e-4."""
    moments = RunningMoments((2,))
    small = [1e-2 * rng(k).standard_normal((size, 2)) for k, size in enumerate(UNEVEN)]
    for batch in small:
        moments.update(torch.as_tensor(batch + 1e8))
    rounded = np.concatenate([(batch + 1e8) - 1e8 for batch in small])  # 1e8 + x is exact to 1.5e-8
    np.testing.assert_allclose(moments.var, rounded.var(0), rtol=1e-6)
    np.testing.assert_allclose(moments.mean - 1e8, rounded.mean(0), atol=5e-8)


def test_the_order_of_batches_does_not_matter():
    batches = [rng(k).standard_normal((size, 2)) for k, size in enumerate(UNEVEN)]
    left, right = RunningMoments((2,)), RunningMoments((2,))
    for batch in batches:
        left.update(torch.as_tensor(batch))
    for batch in reversed(batches):
        right.update(torch.as_tensor(batch))
    np.testing.assert_allclose(left.mean, right.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(left.var, right.var, rtol=1e-12)


def test_an_empty_batch_changes_nothing():
    moments = RunningMoments((2,))
    before = weights_of(moments)
    moments.update(torch.zeros(0, 2))
    assert same_bits(before, weights_of(moments))
    moments.update(torch.tensor([[1.0, 2.0]]))
    before = weights_of(moments)
    moments.update(torch.zeros(0, 2))
    assert same_bits(before, weights_of(moments))
    assert (float(moments.count), moments.mean.tolist(), moments.var.tolist()) == (1.0, [1, 2], [0, 0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bool])
def test_every_dtype_is_counted_exactly(dtype):
    moments = RunningMoments(())
    moments.update(torch.tensor([0, 1, 1, 1]).to(dtype))
    assert (float(moments.mean), float(moments.var)) == (0.75, 0.1875)


# ---- observations


def observer(*batches, **settings):
    normalizer = ObservationNormalizer(np.shape(batches[0])[1:] if batches else (1,), **settings)
    for batch in batches:
        normalizer.update(torch.as_tensor(np.asarray(batch, np.float64)))
    return normalizer


def test_observations_get_mean_0_and_variance_1():
    data = rng().normal([5.0, -300.0], [0.1, 40.0], (500, 2))
    found = observer(data)(torch.as_tensor(data))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.var(0, correction=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(found, (data - data.mean(0)) / data.std(0), atol=2e-5)


def test_results_are_clipped_at_10():
    normalizer = observer([[-1.0], [1.0]])
    found = normalizer(torch.tensor([[-11.0], [-9.5], [0.5], [9.5], [10.5], [1e30]], dtype=torch.float64))
    np.testing.assert_allclose(found, [[-10.0], [-9.5], [0.5], [9.5], [10.0], [10.0]], rtol=1e-6)
    assert observer([[-1.0], [1.0]], clip=5.0)(torch.tensor([[7.0]])).tolist() == [[5.0]]


def test_before_anything_was_seen_observations_stay_as_they_are():
    found = observer()(torch.tensor([[3.5], [-20.0]]))
    np.testing.assert_allclose(found, [[3.5], [-10.0]], rtol=1e-7)


def test_what_never_changes_becomes_0_and_does_not_blow_up():
    normalizer = observer([[7.0]] * 5)
    assert normalizer(torch.tensor([[7.0], [7.0 + 1e-6], [8.0], [-1e9]])).abs().max() <= 10.0
    assert normalizer(torch.tensor([[7.0]])).tolist() == [[0.0]]


def test_a_large_offset_is_taken_away_in_float64():
    data = 1e8 + rng().standard_normal((1000, 1))
    normalizer = observer(data)
    found = normalizer(torch.as_tensor(data))
    np.testing.assert_allclose(found, (data - data.mean()) / data.std(), atol=1e-6)


def test_asking_changes_nothing():
    normalizer = observer([[1.0], [2.0]])
    before = weights_of(normalizer)
    normalizer(torch.tensor([[100.0]]))
    normalizer.train()(torch.tensor([[100.0]]))
    assert same_bits(before, weights_of(normalizer))
    assert set(before) == {"mean", "var", "count"}


# ---- observations, in an update


def observing(obs_dim=2, seed=0, **settings):
    policy = ActorCritic(vector_space(obs_dim), Discrete(3), (16,), seed, normalize_obs=True)
    return PPOLearner(policy, PPOConfig(**({"minibatch_size": 32, "actor_lr": 1e-2} | settings)))


def played(policy, lengths, seed=0, scale=(5.0, 1.0), offset=(100.0, -3.0)):
    """A rollout with observations far from 0, whose final observations are far from all others."""
    generator = rng(seed)
    episodes = []
    for env, length in enumerate(lengths):
        obs = (generator.standard_normal((length, 2)) * scale + offset).astype(np.float32)
        actions = Actor(policy).act(obs, policy.head.draw_noise(generator, length))
        episodes.append((env, obs, actions, generator.standard_normal(length), False, [1e6, 1e6]))
    return make_rollout(episodes)


def test_statistics_move_only_after_the_update():
    learner = observing()
    policy = learner.policy
    everything = []
    for k, lengths in enumerate(([30, 1, 9], [50, 50, 20])):
        before = weights_of(policy.encoder)
        rollout = played(policy, lengths, seed=k, offset=(100.0 * (k + 1), 0.0))
        batch = learner.prepare(rollout)
        learner.optimize(batch, rng(k))
        assert same_bits(before, weights_of(policy.encoder))
        learner.update(rollout, rng(k))
        everything.append(rollout.obs.astype(np.float64))
        normalizer = policy.encoder.normalizer
        # Every step counts once. Final observations are not counted: they would be 1e6.
        assert float(normalizer.count) == sum(len(obs) for obs in everything)
        np.testing.assert_allclose(normalizer.mean, np.concatenate(everything).mean(0), rtol=1e-12)
        np.testing.assert_allclose(normalizer.var, np.concatenate(everything).var(0), rtol=1e-11)


def test_the_ratio_is_1_in_the_first_minibatch_with_normalisation_on():
    learner = observing(num_epochs=4)
    for k in range(5):
        rollout = played(learner.policy, [40, 3, 20], seed=k, offset=(100.0 * k, -50.0 * k))
        metrics = learner.update(rollout, rng(k))
        assert metrics["initial_ratio_error"] < 1e-5
        assert metrics["approx_kl"] > 1e-5


def test_the_ratio_would_tell_if_statistics_moved_before_the_update():
    learner = observing(num_epochs=1)
    learner.update(played(learner.policy, [40, 3, 20]), rng())
    rollout = played(learner.policy, [40, 3, 20], seed=1, offset=(300.0, 5.0))
    batch = learner.prepare(rollout)
    learner.policy.update_statistics(rollout.obs)
    late, _ = learner.policy.preprocess(torch.as_tensor(rollout.obs))
    metrics = learner.optimize(dataclasses.replace(batch, inputs=late), rng())
    assert metrics["initial_ratio_error"] > 1e-3


def test_old_log_probabilities_are_those_of_the_network_that_has_played():
    learner = observing()
    learner.update(played(learner.policy, [40, 3, 20]), rng())
    rollout = played(learner.policy, [40, 3, 20], seed=1, offset=(300.0, 5.0))
    with torch.no_grad():
        before = log_prob(learner.policy, torch.as_tensor(rollout.obs), torch.as_tensor(rollout.actions))
    batches, optimize = [], learner.optimize
    learner.optimize = lambda batch, *args: batches.append(batch) or optimize(batch, *args)
    learner.update(rollout, rng())
    torch.testing.assert_close(batches[0].log_probs, before)
    with torch.no_grad():
        after = log_prob(learner.policy, torch.as_tensor(rollout.obs), torch.as_tensor(rollout.actions))
    assert (after - before).abs().max() > 1e-3


def test_final_observations_are_normalised_though_not_counted():
    learner = observing(gae_lambda=0.0, gamma=0.5)
    learner.policy.update_statistics(np.array([[0.0, 0.0], [2.0, 8.0]], np.float32))
    rollout = make_rollout([(0, [[1.0, 4.0]], [0], [0.0], False, [3.0, 12.0])])
    batch = learner.prepare(rollout)
    plain = ActorCritic(vector_space(2), Discrete(3), (16,))  # the same weights, without normaliser
    with torch.no_grad():
        here, after = plain.values(torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
    torch.testing.assert_close(batch.advantages, (0.5 * after - here)[None])


def test_statistics_are_part_of_the_saved_state():
    learner = observing()
    learner.update(played(learner.policy, [30, 20]), rng())
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = observing(seed=5)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same_bits(weights_of(other.policy), weights_of(learner.policy))
    assert float(other.policy.encoder.normalizer.count) == 50
    rollout = played(learner.policy, [10, 20], seed=1)
    assert learner.update(rollout, rng(1)) == other.update(rollout, rng(1))
    assert same_bits(weights_of(other.policy), weights_of(learner.policy))


# ---- rewards


def test_golden_discounted_returns():
    found = discounted_sums([1.0, 1.0, 1.0], [0, 0, 0], [False] * 3, 0.99, np.zeros(1))
    np.testing.assert_allclose(found, [1.0, 1.99, 2.9701], rtol=1e-15)


def reference_sums(rewards, env_ids, ended, gamma, running):
    """Env by env, step by step."""
    running, sums = dict(enumerate(running)), []
    for reward, env, over in zip(rewards, env_ids, ended, strict=True):
        running[env] = gamma * running[env] + reward
        sums.append(running[env])
        if over:
            running[env] = 0.0
    return sums, [running[env] for env in sorted(running)]


def test_discounted_returns_run_forwards_per_env_and_restart_after_an_episode():
    running = np.array([10.0, 20.0, 30.0])
    found = discounted_sums(
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 0, 0, 2, 2, 2], [0, 1, 0, 0, 0, 1], 0.5, running
    )
    np.testing.assert_allclose(found, [6.0, 5.0, 3.0, 19.0, 14.5, 13.25])
    np.testing.assert_allclose(running, [3.0, 20.0, 0.0])  # env 1 was not there: its return waits


@pytest.mark.parametrize("seed", range(5))
def test_discounted_returns_equal_the_definition(seed):
    generator = rng(seed)
    running = generator.standard_normal(4)
    env_ids = np.sort(generator.integers(0, 4, 200))
    rewards, ended = generator.standard_normal(200), generator.random(200) < 0.1
    expected, after = reference_sums(rewards, env_ids, ended, 0.9, running.tolist())
    found = discounted_sums(rewards, env_ids, ended, 0.9, running)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(running, after, rtol=1e-14)


def stream(seed=0, steps=400):
    generator = rng(seed)
    return (
        generator.standard_normal(steps) + 0.5,
        np.sort(generator.integers(0, 3, steps)),
        generator.random(steps) < 0.1,
    )


def test_rewards_are_divided_by_the_std_of_the_discounted_return_and_nothing_else():
    scaler = RewardScaler(3, 0.9)
    sums = []
    running = np.zeros(3)
    for k in range(3):
        rewards, env_ids, ended = stream(k)
        scaler.update(rewards, env_ids, ended)
        sums.append(discounted_sums(rewards, env_ids, ended, 0.9, running))
        std = np.concatenate(sums).std()
        np.testing.assert_allclose(scaler.scale(rewards), rewards / std, rtol=1e-7)
    assert float(scaler.moments.count) == 1200


def test_signs_and_zeros_are_kept():
    scaler = RewardScaler(1, 0.99)
    scaler.update(np.linspace(50.0, 60.0, 100), np.zeros(100, int), np.zeros(100, bool))
    rewards = np.array([-3.0, -1e-9, 0.0, 1e-9, 3.0])
    np.testing.assert_array_equal(np.sign(scaler.scale(rewards)), np.sign(rewards))


@pytest.mark.parametrize("factor", [1000.0, 0.01])
def test_the_unit_of_rewards_does_not_matter_after_the_first_batch(factor):
    left, right = RewardScaler(3, 0.99), RewardScaler(3, 0.99)
    for k in range(3):
        rewards, env_ids, ended = stream(k)
        left.update(rewards, env_ids, ended)
        right.update(factor * rewards, env_ids, ended)
        np.testing.assert_allclose(right.scale(factor * rewards), left.scale(rewards), rtol=1e-5)


def test_scaled_rewards_are_clipped_at_10():
    scaler = RewardScaler(1, 0.0)
    scaler.update([-1.0, 1.0], [0, 0], [True, True])
    np.testing.assert_allclose(scaler.scale([-99.0, -9.0, 9.0, 99.0]), [-10.0, -9.0, 9.0, 10.0])


def test_a_reward_that_never_changes_stays_finite():
    scaler = RewardScaler(1, 0.99)
    scaler.update(np.zeros(10), np.zeros(10, int), np.zeros(10, bool))
    np.testing.assert_array_equal(scaler.scale([0.0, 1.0, -1.0]), [0.0, 10.0, -10.0])


def test_scaling_counts_nothing():
    scaler = RewardScaler(1, 0.99)
    scaler.update(*[a[:1] for a in ([1.0, 2.0], [0, 0], [False, False])])
    before = weights_of(scaler)
    scaler.scale([1.0, 100.0])
    assert same_bits(before, weights_of(scaler))


def test_raw_rewards_are_left_alone():
    raw = RawRewards(3, 0.99)
    rewards, env_ids, ended = stream()
    raw.update(rewards, env_ids, ended)
    np.testing.assert_array_equal(raw.scale(rewards), rewards)
    assert not raw.state_dict()


# ---- rewards, in an update


def scaling(gamma=0.9, **settings):
    policy = ActorCritic(vector_space(2), Discrete(3), (16,))
    return PPOLearner(policy, PPOConfig(gamma=gamma, normalize_reward=True, **settings))


def scaler_of(learner):
    (scaler,) = [value for value in vars(learner).values() if isinstance(value, RewardScaler)]
    return scaler


def episode(env, rewards, terminated):
    count = len(rewards)
    return env, np.zeros((count, 2)), np.zeros(count), rewards, terminated, [0.0, 0.0]


def test_a_return_continues_over_rounds_where_the_episode_does():
    learner = scaling()
    first = [
        episode(0, [1.0, 2.0], True),  # the end of an episode
        episode(0, [3.0], False),  # continues in the next rollout
        episode(1, [1.0, 1.0, 1.0], False),  # truncated: over
        episode(2, [5.0], False),  # continues, too
    ]
    learner.prepare(make_rollout(first, continues=[1, 3]))
    np.testing.assert_allclose(scaler_of(learner).running, [3.0, 0.0, 5.0])
    sums = [1.0, 2.9, 3.0, 1.0, 1.9, 2.71, 5.0]
    np.testing.assert_allclose(float(scaler_of(learner).moments.var), np.var(sums), rtol=1e-12)
    batch = learner.prepare(make_rollout([episode(0, [1.0], False), episode(2, [1.0], True)], continues=[0]))
    np.testing.assert_allclose(scaler_of(learner).running, [0.9 * 3.0 + 1.0, 0.0, 0.0])
    sums += [0.9 * 3.0 + 1.0, 0.9 * 5.0 + 1.0]
    np.testing.assert_allclose(float(scaler_of(learner).moments.var), np.var(sums), rtol=1e-12)
    # the values of all these observations are the same, V(0)
    value = float(batch.values[0])
    expected = [1.0 / np.std(sums) + 0.9 * value - value, 1.0 / np.std(sums) - value]
    np.testing.assert_allclose(batch.advantages, expected, rtol=1e-5)


def test_advantages_and_returns_are_of_scaled_rewards():
    learner, plain = scaling(), scaling()
    rollout = make_rollout([episode(0, [10.0, -20.0, 30.0], True), episode(1, [5.0], True)])
    scaled = learner.prepare(rollout)
    sums = [10.0, -11.0, 20.1, 5.0]
    for name in ("advantages", "returns"):
        by_hand = make_rollout(
            [
                episode(0, np.array([10.0, -20.0, 30.0]) / np.std(sums), True),
                episode(1, [5.0 / np.std(sums)], True),
            ]
        )
        plain_learner = PPOLearner(plain.policy, PPOConfig(gamma=0.9))
        torch.testing.assert_close(getattr(scaled, name), getattr(plain_learner.prepare(by_hand), name))


def test_the_unit_of_rewards_changes_no_update():
    results = []
    for factor in (1.0, 1000.0):
        learner = scaling(actor_lr=1e-2)
        for k in range(3):
            generator = rng(k)
            episodes = []
            for env in range(3):
                obs = generator.standard_normal((21, 2)).astype(np.float32)
                actions = generator.integers(0, 3, 20)
                rewards = factor * generator.standard_normal(20)
                episodes.append((env, obs[:-1], actions, rewards, env == 0, obs[-1]))
            learner.update(make_rollout(episodes), rng(k))
        results.append(weights_of(learner.policy))
    for name, weights in results[0].items():
        torch.testing.assert_close(results[1][name], weights, rtol=1e-3, atol=1e-4)


def test_reward_statistics_are_part_of_the_saved_state():
    learner = scaling()
    learner.update(
        make_rollout([episode(0, [1.0, 5.0], False), episode(2, [7.0], True)], continues=[0]), rng()
    )
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = scaling()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same_bits(weights_of(scaler_of(other)), weights_of(scaler_of(learner)))
    assert scaler_of(other).running.tolist() == [0.9 + 5.0, 0.0, 0.0]
