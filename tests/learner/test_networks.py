"""Row 1 (initial weights) and row 13 (separate actor and critic for vectors, NatureCNN) of a right PPO."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import log_prob, make_policy, same_bits, vector_space, weights_of
from torch import nn

from learner.actor import Actor
from learner.networks import NatureCNN, mlp
from learner.policy import ActorCritic

CONTINUOUS = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def linear_layers(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def assert_orthogonal(weight, gain):
    """W^T W = gain^2 I on the smaller side; a kernel is a matrix with one row per output channel."""
    weight = weight.detach().double().flatten(start_dim=1)
    wide = weight if len(weight) <= weight.shape[1] else weight.T
    expected = gain**2 * torch.eye(len(wide), dtype=torch.float64)
    torch.testing.assert_close(wide @ wide.T, expected, rtol=0.0, atol=4e-6 * gain**2)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("network", "head_gain"), [("actor", 0.01), ("critic", 1.0)])
@pytest.mark.parametrize(("obs_dim", "hidden_sizes"), [(3, (64, 64)), (100, (64, 32)), (4, (8, 16))])
def test_weights_are_orthogonal_with_the_layers_gain(network, head_gain, obs_dim, hidden_sizes):
    layers = linear_layers(getattr(make_policy(obs_dim=obs_dim, hidden_sizes=hidden_sizes), network))
    assert [layer.in_features for layer in layers] == [obs_dim, *hidden_sizes]
    for layer, gain in zip(layers, [math.sqrt(2.0), math.sqrt(2.0), head_gain], strict=True):
        assert_orthogonal(layer.weight, gain)
        assert not layer.bias.any()


@pytest.mark.parametrize(("activation", "module"), [("tanh", nn.Tanh), ("relu", nn.ReLU)])
def test_layers_are_joined_by_the_activation(activation, module):
    network = mlp([2, 5, 4, 1], 1.0, torch.Generator().manual_seed(0), activation)
    assert [type(layer) for layer in network] == [nn.Linear, module, nn.Linear, module, nn.Linear]
    policy = ActorCritic(vector_space(2), gym.spaces.Discrete(2), activation=activation)
    for part in (policy.actor, policy.critic):
        assert [type(layer) for layer in part] == [nn.Linear, module, nn.Linear, module, nn.Linear]


def test_tanh_and_64x64_are_what_one_gets_unasked():
    policy = ActorCritic(vector_space(3), gym.spaces.Discrete(2))
    for part in (policy.actor, policy.critic):
        assert [type(layer) for layer in part] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
        assert [layer.out_features for layer in linear_layers(part)][:2] == [64, 64]


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation must be tanh or relu, got 'gelu'"):
        ActorCritic(vector_space(3), gym.spaces.Discrete(2), activation="gelu")


@pytest.mark.parametrize("width", [10**16, 10**18, 10**22])
def test_layers_larger_than_memory_are_refused_in_one_line(width):
    with pytest.raises(ValueError, match=f"^a layer with 3 inputs and {width:,} outputs does not fit"):
        ActorCritic(vector_space(3), gym.spaces.Discrete(2), (width,))


def test_other_errors_of_making_a_layer_are_their_own(monkeypatch):
    def fail(*args):
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(nn.utils, "skip_init", fail)
    with pytest.raises(RecursionError):
        ActorCritic(vector_space(3), gym.spaces.Discrete(2))


# ---- NatureCNN


@pytest.mark.parametrize(
    ("shape", "flat"), [((4, 84, 84), 3136), ((1, 36, 36), 64), ((3, 210, 160), 22528), ((12, 40, 84), 448)]
)
def test_the_layers_of_the_nature_cnn_have_the_published_shapes(shape, flat):
    cnn = NatureCNN(*shape, torch.Generator().manual_seed(0))
    first, _, second, _, third, _, _, dense, _ = cnn.layers
    kinds = [nn.Conv2d, nn.ReLU] * 3 + [nn.Flatten, nn.Linear, nn.ReLU]
    assert [type(layer) for layer in cnn.layers] == kinds
    assert first.weight.shape == (32, shape[0], 8, 8)
    assert second.weight.shape == (64, 32, 4, 4)
    assert third.weight.shape == (64, 64, 3, 3)
    assert [layer.stride for layer in (first, second, third)] == [(4, 4), (2, 2), (1, 1)]
    assert dense.weight.shape == (512, flat)
    features = cnn(torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)))
    assert features.shape == (2, 512)
    assert (features >= 0.0).all()
    assert features.any()


def test_kernels_are_orthogonal_with_gain_sqrt_2():
    cnn = NatureCNN(4, 84, 84, torch.Generator().manual_seed(0))
    layers = [layer for layer in cnn.layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4
    for layer in layers:
        assert_orthogonal(layer.weight, math.sqrt(2.0))
        assert not layer.bias.any()


def test_the_nature_cnn_draws_from_its_own_generator_only():
    before = torch.get_rng_state()
    first, again = (weights_of(NatureCNN(1, 36, 36, torch.Generator().manual_seed(s))) for s in (3, 3))
    assert same_bits(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def test_36_is_the_least_height_and_width():
    assert NatureCNN.MIN_SIZE == 36
    NatureCNN(1, 36, 36, torch.Generator())
    with pytest.raises((RuntimeError, UserWarning)):  # some versions only warn of the empty layer
        NatureCNN(1, 35, 36, torch.Generator())(torch.zeros(1, 1, 35, 36))


# ---- the policy


def test_the_initial_policy_is_nearly_uniform():
    obs = 10.0 * np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32)
    policy = make_policy(gym.spaces.Discrete(6), obs_dim=8)
    with torch.no_grad():
        log_probs = [log_prob(policy, torch.as_tensor(obs), torch.full((1000,), a)) for a in range(6)]
    np.testing.assert_allclose(torch.stack(log_probs).exp(), 1.0 / 6.0, atol=0.02)


def test_the_initial_gaussian_policy_is_nearly_standard_normal():
    obs = 10.0 * np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32)
    policy = make_policy(CONTINUOUS, obs_dim=8)
    np.testing.assert_allclose(Actor(policy).act(obs, None), 0.0, atol=0.1)
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
    obs = normal(16, 3)
    actions = torch.as_tensor(np.stack([policy.head.action_space.sample() for _ in range(16)]))

    def reached(loss):
        policy.zero_grad()
        loss.backward()
        return {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}

    names = {name for name, _ in policy.named_parameters()}
    critic = {name for name in names if name.startswith("critic.")}
    assert reached(policy.values(obs).square().sum()) == critic
    assert reached(log_prob(policy, obs, actions).square().sum()) == names - critic


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
    obs = normal(40_000, 3)
    actions = torch.arange(40_000) % 3
    log_probs, values = policy.evaluate_actions(*policy.preprocess(obs), actions)
    with torch.no_grad():
        torch.testing.assert_close(values, policy.critic(obs)[:, 0], rtol=0.0, atol=1e-5)
        torch.testing.assert_close(log_probs, log_prob(policy, obs, actions), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(policy.values_without_grad(obs), values, rtol=0.0, atol=1e-5)
    assert not values.requires_grad
    assert not log_probs.requires_grad
    assert policy.values_without_grad(obs[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("observation", "action", "what"),
    [
        (gym.spaces.Text(4), gym.spaces.Discrete(2), "Text\\("),
        (gym.spaces.Sequence(vector_space(2)), gym.spaces.Discrete(2), "Sequence\\("),
        (gym.spaces.Dict(a=gym.spaces.Text(4)), gym.spaces.Discrete(2), "Text\\("),
        (gym.spaces.Dict(), gym.spaces.Discrete(2), "nothing to learn from"),
        (vector_space(2), gym.spaces.Text(4), "Text"),
        (vector_space(2), gym.spaces.Box(0, 9, (1,), np.int64), "Box of floats"),
    ],
)
def test_spaces_that_are_not_supported_are_named(observation, action, what):
    with pytest.raises(ValueError, match=what):
        ActorCritic(observation, action)
