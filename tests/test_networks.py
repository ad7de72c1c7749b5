"""Row 1 (initial weights) and row 13 (separate actor and critic) of what a right PPO does."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import make_policy, same_bits, vector_space, weights_of
from torch import nn

from learner.networks import mlp
from learner.policy import ActorCritic

CONTINUOUS = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def linear_layers(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(("network", "head_gain"), [("actor", 0.01), ("critic", 1.0)])
@pytest.mark.parametrize(("obs_dim", "hidden_sizes"), [(3, (64, 64)), (100, (64, 32)), (4, (8, 16))])
def test_weights_are_orthogonal_with_the_layers_gain(network, head_gain, obs_dim, hidden_sizes):
    layers = linear_layers(getattr(make_policy(obs_dim=obs_dim, hidden_sizes=hidden_sizes), network))
    assert [layer.in_features for layer in layers] == [obs_dim, *hidden_sizes]
    for layer, gain in zip(layers, [math.sqrt(2.0), math.sqrt(2.0), head_gain], strict=True):
        weight = layer.weight.detach().double()
        wide = weight if len(weight) <= weight.shape[1] else weight.T
        square = wide @ wide.T
        expected = gain**2 * torch.eye(len(square), dtype=torch.float64)
        torch.testing.assert_close(square, expected, rtol=0.0, atol=2e-6 * gain**2)
        assert not layer.bias.any()


def test_layers_are_joined_by_tanh():
    network = mlp([2, 5, 4, 1], 1.0, torch.Generator().manual_seed(0))
    assert [type(module) for module in network] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_the_initial_policy_is_nearly_uniform():
    obs = 10.0 * np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32)
    policy = make_policy(gym.spaces.Discrete(6), obs_dim=8)
    with torch.no_grad():
        log_probs = [policy.log_prob(torch.as_tensor(obs), torch.full((1000,), a)) for a in range(6)]
    np.testing.assert_allclose(torch.stack(log_probs).exp(), 1.0 / 6.0, atol=0.02)


def test_the_initial_gaussian_policy_is_nearly_standard_normal():
    obs = 10.0 * np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32)
    policy = make_policy(CONTINUOUS, obs_dim=8)
    np.testing.assert_allclose(policy.act_greedily(obs), 0.0, atol=0.1)
    np.testing.assert_array_equal(policy.head.log_std.detach(), 0.0)


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3), CONTINUOUS])
def test_construction_draws_nothing_from_the_global_generator(space):
    before = torch.get_rng_state()
    make_policy(space)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_a_function_of_the_seed():
    torch.manual_seed(1)
    first = weights_of(make_policy(seed=7))
    torch.manual_seed(2)
    assert same_bits(first, weights_of(make_policy(seed=7)))
    other = weights_of(make_policy(seed=8))
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


def test_actor_and_critic_start_from_different_weights():
    policy = make_policy()
    actor, critic = linear_layers(policy.actor), linear_layers(policy.critic)
    assert not torch.equal(actor[0].weight, critic[0].weight)


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3), CONTINUOUS])
def test_actor_and_critic_share_no_parameter(space):
    policy = make_policy(space)
    obs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    actions = torch.as_tensor(np.stack([policy.head.action_space.sample() for _ in range(16)]))

    def reached(loss):
        policy.zero_grad()
        loss.backward()
        return {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}

    names = {name for name, _ in policy.named_parameters()}
    critic = {name for name in names if name.startswith("critic.")}
    assert reached(policy.values(obs).square().sum()) == critic
    assert reached(policy.log_prob(obs, actions).square().sum()) == names - critic


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_observations_of_every_dtype_are_taken_as_floats(dtype):
    space = gym.spaces.Box(0, 100, (3,), dtype)
    policy = ActorCritic(space, gym.spaces.Discrete(2))
    obs = np.array([[1, 2, 3], [40, 50, 60]])
    found = policy.values(torch.as_tensor(obs.astype(dtype)))
    assert found.dtype == torch.float32
    assert torch.equal(found, policy.values(torch.as_tensor(obs.astype(np.float32))))


def test_values_do_not_depend_on_how_a_batch_is_chunked():
    policy = make_policy()
    obs = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    actions = torch.arange(40_000) % 3
    log_probs, values = policy.behaviour(obs, actions)
    with torch.no_grad():
        torch.testing.assert_close(values, policy.critic(obs)[:, 0], rtol=0.0, atol=1e-5)
        torch.testing.assert_close(log_probs, policy.log_prob(obs, actions), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(policy.state_values(obs), values, rtol=0.0, atol=1e-5)
    assert not values.requires_grad
    assert not log_probs.requires_grad
    assert policy.state_values(obs[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("observation", "action", "what"),
    [
        (gym.spaces.Discrete(4), gym.spaces.Discrete(2), "Discrete\\(4\\)"),
        (gym.spaces.Box(0, 1, (2, 2)), gym.spaces.Discrete(2), "vector Box"),
        (gym.spaces.Dict(), gym.spaces.Discrete(2), "vector Box"),
        (vector_space(2), gym.spaces.MultiBinary(3), "MultiBinary"),
        (vector_space(2), gym.spaces.Box(0, 9, (1,), np.int64), "Box of floats"),
    ],
)
def test_spaces_that_are_not_supported_are_named(observation, action, what):
    with pytest.raises(ValueError, match=what):
        ActorCritic(observation, action)
