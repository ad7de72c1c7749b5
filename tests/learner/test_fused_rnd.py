"""RND's step by hand: gradients are autograd's, weights after updates too, and it is used where it fits."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import make_policy, make_rollout, same_bits, vector_space
from torch import nn

from learner.fused_rnd import FusedRNDStep, fits
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.rnd import RND
from learner.rnd_networks import RNDNetworks
from learner.rnd_step import AutogradRNDStep

KINDS = (FusedRNDStep, AutogradRNDStep)


def make_rnd(kind=FusedRNDStep, space=None, hidden_sizes=(8, 6), **settings):
    """Weights are random throughout: those of a new network have no biases, and its outputs are small."""
    with pytest.MonkeyPatch.context() as patch:
        if kind is AutogradRNDStep:
            patch.setattr("learner.fused_rnd.fits", lambda networks: False)
        settings = {"coef": 0.5, "lr": 3e-3} | settings
        rnd = RND(vector_space(3) if space is None else space, hidden_sizes=hidden_sizes, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in rnd.networks.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return rnd


def rollout(seed=0, lengths=(20, 1, 29), discrete=False):
    rng = np.random.default_rng(seed)
    episodes = []
    for env, length in enumerate(lengths):
        obs = rng.integers(0, 5, length + 1) if discrete else rng.standard_normal((length + 1, 3))
        episodes.append((env, obs[:-1], np.zeros(length), rng.standard_normal(length), env % 2 == 0, obs[-1]))
    return make_rollout(episodes)


def learn(rnd, seed=0, size=16, epochs=2, **kwargs):
    """An update as PPO's learner makes it; returns its metrics."""
    rng, update = np.random.default_rng(seed), rnd.begin(rollout(seed, **kwargs))
    for _ in range(epochs):
        order = rng.permutation(50)
        for start in range(0, 50, size):
            update.learn(order[start : start + size])
    return update.finish()


def learnt(rnd):
    """What is trained, by name."""
    return {name: p for name, p in rnd.networks.named_parameters() if not name.startswith("target.")}


def copies(rnd):
    return {name: p.detach().clone() for name, p in learnt(rnd).items()}


def all_moved(rnd, seed=0):
    """Whether an update moves every layer."""
    before = copies(rnd)
    learn(rnd, seed)
    return all(not torch.equal(p, before[name]) for name, p in learnt(rnd).items())


@pytest.mark.parametrize("size", [1, 2, 50])
@pytest.mark.parametrize("hidden_sizes", [(8, 6), (7,), ()])
@pytest.mark.parametrize("discrete", [False, True])
def test_gradients_and_losses_are_those_of_autograd(size, hidden_sizes, discrete):
    found = []
    for kind in KINDS:
        space = gym.spaces.Discrete(5) if discrete else None
        rnd = make_rnd(kind, space, hidden_sizes, max_grad_norm=1e9)
        step, update = rnd._step, rnd.begin(rollout(discrete=discrete))
        assert type(step) is kind
        losses = step.step(step.adapt(update.batch), np.arange(50)[25 - size // 2 :][:size])
        found.append(([float(loss) for loss in losses], [p.grad for p in learnt(rnd).values()]))
    (losses, gradients), (expected, wanted) = found
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in wanted) > 1e-3
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_grad_norm", [0.1, 1e9])
def test_weights_and_metrics_after_updates_are_those_of_autograd(max_grad_norm):
    by_hand, by_autograd = (make_rnd(kind, max_grad_norm=max_grad_norm) for kind in KINDS)
    start = copies(by_hand)
    for seed in range(2):
        found, expected = learn(by_hand, seed), learn(by_autograd, seed)
        assert found == pytest.approx(expected, rel=1e-4)
    for name, parameter in learnt(by_hand).items():
        torch.testing.assert_close(parameter, learnt(by_autograd)[name], rtol=0.0, atol=1e-5)
        assert not torch.equal(parameter, start[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("good_steps", [0, 2])
def test_a_gradient_that_is_not_finite_changes_nothing(kind, bad, good_steps):
    """Neither weights nor Adam's state: the next step is as if there had been none."""
    found = []
    for skipped in (False, True):
        rnd = make_rnd(kind)
        update = rnd.begin(rollout())
        update.batch.returns[30] = bad
        for rows in [[1, 2, 3]] * good_steps + [[29, 30, 31]] * skipped + [[4, 5, 6]]:
            update.learn(np.array(rows))
        found.append(copies(rnd))
    assert same_bits(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_continues_bit_for_bit(kind):
    straight, other = make_rnd(kind), make_rnd(kind, seed=9)
    learn(straight)
    other.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert learn(straight, 1) == learn(other, 1)
    assert same_bits(straight.networks.state_dict(), other.networks.state_dict())


def test_a_state_of_the_other_kind_is_refused_before_anything_changes():
    learners = [
        PPOLearner(make_policy(seed=seed), PPOConfig(), exploration=make_rnd(kind, seed=seed))
        for seed, kind in enumerate(KINDS)
    ]
    one, state = learners[0], learners[1].state_dict()
    before = one.state_dict()
    with pytest.raises(ValueError, match="AutogradRNDStep, not FusedRNDStep"):
        one.load_state_dict(state)
    assert same_bits(one.policy.state_dict(), before["policy"])
    assert same_bits(one.exploration.networks.state_dict(), before["exploration"]["networks"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rnd: pickle.loads(pickle.dumps(rnd))])
def test_a_copy_learns_and_leaves_the_original_alone(copied):
    rnd = make_rnd()
    assert all_moved(rnd)
    twin, before = copied(rnd), copies(rnd)
    assert all_moved(twin, seed=1)
    assert same_bits(copies(rnd), before)
    assert all_moved(rnd, seed=1)
    assert same_bits(copies(rnd), copies(twin))


@pytest.mark.parametrize(
    "part",
    [
        lambda networks: networks.double().float(),
        lambda networks: networks.share_memory(),
        lambda networks: networks.load_state_dict(copy.deepcopy(networks.state_dict()), assign=True),
        lambda networks: [setattr(p, "data", p.data.clone()) for p in networks.parameters()],
        lambda networks: networks.critic.layers.__setitem__(4, nn.Linear(6, 1)),
        lambda networks: FusedRNDStep(networks, 1e-3, 0.5),
    ],
    ids=["there and back", "shared memory", "assign", "data", "another layer", "second step"],
)
def test_tensors_that_were_parted_from_the_array_are_trained_all_the_same(part):
    rnd = make_rnd()
    assert all_moved(rnd)
    part(rnd.networks)
    assert all_moved(rnd)


@pytest.mark.parametrize(
    "change",
    [
        lambda networks: networks.predictor.double(),
        lambda networks: networks.critic.layers.__setitem__(2, nn.Linear(8, 9)),
        lambda networks: networks.critic.layers.__setitem__(1, nn.GELU()),
    ],
)
def test_networks_that_no_longer_fit_are_named(change):
    rnd = make_rnd()
    update = rnd.begin(rollout())
    rnd.networks.predictor.layers[0].weight.data = rnd.networks.predictor.layers[0].weight.data.clone()
    change(rnd.networks)
    with pytest.raises(ValueError, match="make a new one"):
        rnd._step.adapt(update.batch)


def tie(networks):
    networks.critic.layers[0] = networks.predictor.layers[0]


@pytest.mark.parametrize(
    ("space", "change", "expected"),
    [
        (vector_space(3), lambda networks: None, True),
        (gym.spaces.Discrete(4), lambda networks: None, True),
        (gym.spaces.Tuple([vector_space(3), gym.spaces.Discrete(4)]), lambda networks: None, True),
        (gym.spaces.Box(0, 255, (36, 36, 1), np.uint8), lambda networks: None, False),
        (vector_space(3), tie, False),
        (vector_space(3), lambda networks: networks.predictor.layers.requires_grad_(False), False),
        (vector_space(3), lambda networks: networks.double(), False),
    ],
    ids=["vector", "choice", "mixed", "image", "shared layer", "frozen", "float64"],
)
def test_which_networks_have_a_step_by_hand(space, change, expected):
    networks = RNDNetworks(space, (8, 8), seed=0)
    change(networks)
    assert fits(networks) == expected


@pytest.mark.parametrize(("space", "kind"), [(3, FusedRNDStep), ((36, 36, 1), AutogradRNDStep)])
def test_the_step_by_hand_is_taken_where_it_fits(space, kind):
    space = vector_space(3) if space == 3 else gym.spaces.Box(0, 255, space, np.uint8)
    assert type(RND(space, coef=1.0)._step) is kind
