"""Rows 3 and 4: generalised advantage estimation, and what truncation changes about it."""

import numpy as np
import pytest

from learner.advantages import gae, next_values

GOLDEN_REWARDS, GOLDEN_VALUES = [1.0, 2.0, 3.0], [0.5, 0.4, 0.3]


def by_definition(rewards, values, v_after, gamma, lam):
    """Schulman et al. 2016, eq. 16, for one episode: A_t = sum_l (gamma lambda)^l delta_{t+l}."""
    r, v = np.asarray(rewards, np.float64), np.append(np.asarray(values, np.float64), v_after)
    horizon = len(r)
    delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(horizon)]
    return [
        sum((gamma * lam) ** step * delta[t + step] for step in range(horizon - t)) for t in range(horizon)
    ]


def advantages_of(episodes, gamma, lam):
    """The product's advantages of episodes [(rewards, values, V after the end)] that lie in one batch."""
    rewards = np.concatenate([e[0] for e in episodes])
    values = np.concatenate([e[1] for e in episodes])
    ends = np.concatenate([np.arange(len(e[0])) == len(e[0]) - 1 for e in episodes])
    following = next_values(values, ends, [e[2] for e in episodes])
    return gae(rewards, values, following, ends, gamma, lam)


def random_episodes(seed, count):
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        length = int(rng.integers(1, 40))
        after = float(rng.choice([0.0, rng.normal(0.0, 10.0)]))
        episodes.append((rng.normal(size=length), rng.normal(0.0, 5.0, length), after))
    return episodes


@pytest.mark.parametrize(
    ("v_after", "expected"),
    [(0.0, [3.60608, 3.814, 2.7]), (1.0, [4.07264, 4.462, 3.6])],
    ids=["terminated", "truncated"],
)
def test_golden_numbers(v_after, expected):
    found = advantages_of([(GOLDEN_REWARDS, GOLDEN_VALUES, v_after)], 0.9, 0.8)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.5, 0.5), (1.0, 1.0), (0.9, 0.0), (0.0, 0.9)])
def test_equals_the_definition_for_ragged_episodes(seed, gamma, lam):
    episodes = random_episodes(seed, 20)
    expected = np.concatenate([by_definition(*episode, gamma, lam) for episode in episodes])
    found = advantages_of(episodes, gamma, lam)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("v_after", [0.0, 7.0], ids=["terminated", "truncated"])
def test_the_chain_is_cut_at_every_end(v_after):
    first = (GOLDEN_REWARDS, GOLDEN_VALUES, v_after)
    alone = advantages_of([first], 0.9, 0.8)
    for reward in (0.0, 1e6):  # whatever follows in the batch
        both = advantages_of([first, ([reward, reward], [reward, 3.0], reward)], 0.9, 0.8)
        np.testing.assert_array_equal(both[:3], alone)


def test_lambda_0_is_the_one_step_error():
    found = advantages_of([(GOLDEN_REWARDS, GOLDEN_VALUES, 1.0)], 0.9, 0.0)
    np.testing.assert_allclose(found, [1 + 0.9 * 0.4 - 0.5, 2 + 0.9 * 0.3 - 0.4, 3 + 0.9 * 1 - 0.3])


def test_lambda_1_is_the_discounted_return_minus_the_value():
    found = advantages_of([(GOLDEN_REWARDS, GOLDEN_VALUES, 1.0)], 0.5, 1.0)
    # 1 + 2/2 + 3/4 + 1/8, then from the second and the third step on
    np.testing.assert_allclose(found + GOLDEN_VALUES, [2.875, 3.75, 3.5])


def test_a_constant_reward_is_worth_the_same_wherever_a_time_limit_cuts():
    value = 1.0 / (1.0 - 0.98)
    episodes = [(np.ones(length), np.full(length, value), value) for length in (1, 2, 8, 100)]
    np.testing.assert_allclose(advantages_of(episodes, 0.98, 0.95), 0.0, atol=1e-12)


def test_following_values_pair_every_end_with_its_own_bootstrap():
    ends = np.array([0, 0, 1, 1, 0, 1], np.bool_)
    found = next_values([10.0, 11.0, 12.0, 20.0, 30.0, 31.0], ends, [12.5, 20.5, 31.5])
    np.testing.assert_array_equal(found, [11.0, 12.0, 12.5, 20.5, 31.0, 31.5])


def test_float32_rewards_are_summed_in_float64():
    length = 10_000
    rewards = np.full(length, 0.1, np.float32)
    found = advantages_of([(rewards, np.zeros(length), 0.0)], 1.0, 1.0)
    np.testing.assert_allclose(found[0], length * float(np.float32(0.1)), rtol=1e-12)
