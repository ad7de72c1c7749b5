"""The step by hand: gradients are autograd's, weights after updates too, and it is used where it fits."""

import copy
import dataclasses
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from learner.actor import Actor
from learner.exploration import NoExplorationUpdate
from learner.forward_only import ForwardOnly
from learner.fused_step import FusedStep, fits
from learner.gradient_step import AutogradStep, trainable_parameters
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.skips import Skips

VECTOR = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
ACTIONS = {
    "categorical": gym.spaces.Discrete(3),
    "multi-categorical": gym.spaces.MultiDiscrete([3, 2, 2, 4]),
    "bits": gym.spaces.MultiBinary(3),
    "gaussian": gym.spaces.Box(-1.0, 2.0, (2,), np.float32),
}
MASKED = gym.spaces.Dict({"action_mask": gym.spaces.MultiBinary(7), "x": VECTOR})
SETTINGS = {
    "defaults": {},
    "entropy": {"ent_coef": 0.05, "vf_coef": 1.3},
    "value clip": {"clip_range_vf": 0.2},
    "raw advantages": {"normalize_advantage": False},
    "tight clip": {"clip_range": 0.02, "ent_coef": 0.01},
}


def make_policy(actions, seed=3, observations=VECTOR, **settings):
    policy = ActorCritic(observations, actions, (8, 6), seed, **settings)
    with torch.no_grad():
        for parameter in policy.parameters():
            generator = torch.Generator().manual_seed(1)
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return policy


def make_batch(policy, size, seed=0):
    """Log-probabilities and values of slightly other weights, so that every branch of the losses is taken."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(size, 5)).astype(np.float32)
    if policy.observation_space is not VECTOR:
        masks = random.random((size, 7)) < 0.6
        masks[:, [0, 3, 5]] = True  # a choice for each component
        rows = np.concatenate([masks.astype(np.int8).view(np.uint8), rows.view(np.uint8)], axis=1)
    inputs, masks = policy.preprocess(torch.as_tensor(rows))
    with torch.no_grad():
        outputs, values = policy.outputs_and_values(inputs, masks)
        noise = policy.head.draw_noise(random, size)
        actions = torch.as_tensor(policy.head.sample(outputs.numpy(), noise))
        log_probs = policy.head.log_prob(outputs, actions)
    f32 = lambda scale: torch.as_tensor(random.normal(scale=scale, size=size).astype(np.float32))  # noqa: E731
    return Batch(
        inputs, masks, actions, log_probs + f32(0.2), values + f32(0.3), f32(1.0), values + f32(1.0),
        policy, NoExplorationUpdate(size),
    )  # fmt: skip


def gradients_of(step_class, policy, batch, config, clip_range):
    policy = copy.deepcopy(policy)
    step = step_class(policy, config)
    found = step.gradient(step.adapt(batch), clip_range)
    if step_class is FusedStep:
        return found, [torch.from_numpy(g) for g in step._flat.gradient_views]
    return found, [p.grad for group in trainable_parameters(policy) for p in group]


@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients_and_statistics_are_those_of_autograd(actions, settings, size, activation):
    policy, config = make_policy(actions, activation=activation), PPOConfig(**settings)
    batch = make_batch(policy, size)
    expected, wanted = gradients_of(AutogradStep, policy, batch, config, config.clip_range)
    found, gradients = gradients_of(FusedStep, policy, batch, config, config.clip_range)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def test_illegal_choices_have_no_gradient():
    space = gym.spaces.MultiDiscrete([3, 2, 2])
    policy, config = make_policy(space, observations=MASKED), PPOConfig(ent_coef=0.1)
    assert fits(policy)
    batch = make_batch(policy, 48)
    expected, wanted = gradients_of(AutogradStep, policy, batch, config, 0.2)
    found, gradients = gradients_of(FusedStep, policy, batch, config, 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def test_both_sides_of_every_clip_are_in_the_test_batch():
    policy = make_policy(ACTIONS["gaussian"])
    batch = make_batch(policy, 64)
    with torch.no_grad():
        outputs, values = policy.outputs_and_values(batch.inputs, batch.masks)
        ratio = (policy.head.log_prob(outputs, batch.actions) - batch.log_probs).exp()
    pairs = zip(ratio.tolist(), batch.advantages.tolist(), strict=True)
    signs = {(ratio > 1.2, ratio < 0.8, advantage > 0) for ratio, advantage in pairs}
    assert len(signs) == 6
    moved = (values - batch.values).abs() > 0.2
    assert 0 < int(moved.sum()) < 64


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_weights_after_updates_are_those_of_autograd(actions):
    config = PPOConfig(num_epochs=3, minibatch_size=16, ent_coef=0.01, max_grad_norm=0.4)
    weights = []
    for by_hand in (True, False):
        learner = PPOLearner(make_policy(actions), config, make_step=FusedStep if by_hand else AutogradStep)
        for seed in range(2):
            learner.optimize(make_batch(make_policy(actions), 50, seed), np.random.default_rng(seed))
        weights.append({name: tensor.clone() for name, tensor in learner.policy.state_dict().items()})
    moved = dict(make_policy(actions).state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0.0, atol=1e-5)
        assert not torch.equal(tensor, moved[name])


def test_a_step_continues_from_its_state():
    policy, config = make_policy(ACTIONS["gaussian"]), PPOConfig()
    batches = [make_batch(policy, 32, seed) for seed in range(4)]
    one = FusedStep(policy, config)
    for batch in batches[:2]:
        one.gradient(one.adapt(batch), 0.2)
        one.apply(1e-2, 1e-3, Skips())
    state, other_policy = copy.deepcopy(one.state_dict()), copy.deepcopy(policy)
    other = FusedStep(other_policy, config)
    other.load_state_dict(state)
    for step in (one, other):
        for batch in batches[2:]:
            step.gradient(step.adapt(batch), 0.2)
            step.apply(1e-2, 1e-3, Skips())
    for tensor, twin in zip(policy.parameters(), other_policy.parameters(), strict=True):
        assert torch.equal(tensor, twin)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("make_step", [FusedStep, AutogradStep])
@pytest.mark.parametrize("good_steps", [0, 2])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, make_step, good_steps):
    """Neither weights nor Adam's state: the next step is as if there had been none."""
    batches = [make_batch(make_policy(ACTIONS["categorical"]), 8, seed) for seed in range(4)]
    batches[2].returns[3] = bad
    found = []
    for skipped in (False, True):
        policy, skips = make_policy(ACTIONS["categorical"]), Skips()
        step = make_step(policy, PPOConfig())
        for batch in [*batches[:good_steps], *batches[2 : 2 + skipped], batches[3]]:
            step.gradient(step.adapt(batch), 0.2)
            step.apply(1e-2, 1e-2, skips)
        assert (int(skips.total), int(skips.in_a_row)) == (skipped, 0)
        found.append(copy.deepcopy(policy.state_dict()))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


class Reads(TorchDispatchMode):
    """Counts how often a number of a tensor is read, for which a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_by_autograd_reads_no_number():
    policy = make_policy(ACTIONS["gaussian"])
    step, batch, skips = AutogradStep(policy, PPOConfig(clip_range_vf=0.2)), make_batch(policy, 8), Skips()
    with Reads() as reads:
        for _ in range(3):
            found = step.gradient(step.adapt(batch), 0.2)
            step.apply(1e-3, 1e-3, skips)
        assert reads.count == 0
        assert float(found.entropy) > 0.0
        assert reads.count == 1


class Flattened(nn.Module):
    def __init__(self, space):
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, observations):
        return self.linear(observations)


class Subclass(ActorCritic):
    pass


IMAGE = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (lambda: ActorCritic(VECTOR, ACTIONS["gaussian"]), True),
        (lambda: ActorCritic(VECTOR, ACTIONS["bits"], normalize_obs=True), True),
        (lambda: ActorCritic(gym.spaces.Discrete(7), ACTIONS["categorical"], ()), True),
        (lambda: ActorCritic(gym.spaces.Tuple([VECTOR, gym.spaces.Discrete(2)]), ACTIONS["bits"]), True),
        (lambda: ActorCritic(VECTOR, gym.spaces.Tuple([ACTIONS["bits"]])), False),
        (lambda: ActorCritic(IMAGE, ACTIONS["categorical"]), False),
        (lambda: ActorCritic(VECTOR, ACTIONS["categorical"], encoder=Flattened(VECTOR)), False),
        (lambda: Subclass(VECTOR, ACTIONS["categorical"]), False),
        (lambda: ActorCritic(VECTOR, ACTIONS["categorical"]).double(), False),
    ],
)
def test_which_policies_have_a_step_by_hand(policy, expected):
    made = policy()
    assert fits(made) == expected
    assert isinstance(PPOLearner(made, PPOConfig())._step, FusedStep) == expected


def test_a_policy_whose_layers_were_replaced_goes_by_autograd():
    policy = ActorCritic(VECTOR, ACTIONS["categorical"])
    policy.actor[1] = nn.GELU()
    assert not fits(policy)


def test_the_policys_tensors_are_the_ones_that_move():
    learner = PPOLearner(make_policy(ACTIONS["categorical"]), PPOConfig(num_epochs=1, minibatch_size=4))
    tensors = dict(learner.policy.named_parameters())
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    learner.optimize(make_batch(make_policy(ACTIONS["categorical"]), 16), np.random.default_rng(0))
    for name, tensor in learner.policy.named_parameters():
        assert tensor is tensors[name]
        assert not torch.equal(tensor, before[name]), name


def trained(learner, seed=0):
    """Whether an update moves every parameter of the learner's policy."""
    before = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
    learner.optimize(make_batch(make_policy(ACTIONS["categorical"]), 16, seed), np.random.default_rng(seed))
    return all(not torch.equal(p, before[name]) for name, p in learner.policy.named_parameters())


def small_learner(policy=None):
    policy = policy or make_policy(ACTIONS["categorical"])
    return PPOLearner(policy, PPOConfig(num_epochs=1, minibatch_size=8), make_step=FusedStep)


@pytest.mark.parametrize(
    "part",
    [
        lambda policy: policy.double().float(),
        lambda policy: policy.share_memory(),
        lambda policy: policy.load_state_dict(copy.deepcopy(policy.state_dict()), assign=True),
        lambda policy: [setattr(p, "data", p.data.clone()) for p in policy.parameters()],
        lambda policy: policy.actor.__setitem__(4, nn.Linear(6, 3)),
        small_learner,
    ],
    ids=["there and back", "shared memory", "assign", "data", "another layer", "second learner"],
)
def test_tensors_that_were_parted_from_the_array_are_trained_all_the_same(part):
    learner = small_learner()
    actor = Actor(learner.policy)
    assert trained(learner)
    part(learner.policy)
    assert trained(learner)
    obs = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    noise = learner.policy.head.draw_noise(np.random.default_rng(1), 64)
    assert (actor.act(obs, noise) == Actor(learner.policy).act(obs, noise)).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda learner: pickle.loads(pickle.dumps(learner))])
def test_a_copy_of_a_learner_trains_and_leaves_the_original_alone(copied):
    learner = small_learner()
    assert trained(learner)
    twin, before = copied(learner), copy.deepcopy(learner.policy.state_dict())
    assert trained(twin, seed=1)
    assert all(torch.equal(p, before[name]) for name, p in learner.policy.state_dict().items())
    assert trained(learner, seed=1)
    for one, other in zip(learner.policy.parameters(), twin.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_copied_actor_acts_with_the_weights_of_its_copy():
    actor = Actor(make_policy(ACTIONS["gaussian"]))
    twin = copy.deepcopy(actor)
    obs = np.ones((3, 5), np.float32)
    before = actor.act(obs, None)
    with torch.no_grad():
        for parameter in twin.policy.parameters():
            parameter.zero_()
    assert (twin.act(obs, None) == 0.0).all()
    assert (actor.act(obs, None) == before).all()


@pytest.mark.parametrize(
    "change", [lambda policy: policy.double(), lambda policy: policy.actor.__setitem__(0, nn.Linear(5, 9))]
)
def test_networks_that_no_longer_fit_are_named(change):
    learner = small_learner()
    change(learner.policy)
    with pytest.raises(ValueError, match="make a new one"):
        trained(learner)


def tie(policy):
    policy.critic[0] = policy.actor[0]


def tie_within(policy):
    policy.actor[2] = policy.actor[4]


@pytest.mark.parametrize(
    "change",
    [
        tie,
        tie_within,
        lambda policy: policy.actor[0].requires_grad_(False),
        lambda policy: policy.actor.__setitem__(0, nn.Linear(5, 8, bias=False)),
        lambda policy: policy.actor[1].register_forward_hook(lambda *_: None),
    ],
    ids=["actor and critic share", "layers share", "frozen", "no bias", "hook"],
)
def test_unusual_networks_go_by_autograd(change):
    policy = ActorCritic(VECTOR, ACTIONS["categorical"], (8, 8, 8))
    change(policy)
    assert not fits(policy)
    obs = torch.ones(4, 5)
    with torch.no_grad():
        torch.testing.assert_close(ForwardOnly(policy.actor)(obs), policy.actor(obs))


def test_a_value_clip_that_clips_nothing_changes_nothing():
    """Even though old + (V - old) is V only up to rounding."""
    weights = []
    for clip_range in (None, 1e6):
        policy = make_policy(ACTIONS["categorical"])
        learner = PPOLearner(policy, PPOConfig(clip_range_vf=clip_range), make_step=FusedStep)
        batch = make_batch(policy, 200)
        batch = dataclasses.replace(batch, values=batch.values + 100.0, returns=batch.returns * 10.0)
        learner.optimize(batch, np.random.default_rng(0))
        weights.append(torch.cat([p.detach().ravel() for p in policy.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=0.0, atol=1e-6)


def test_a_state_of_the_other_kind_of_step_is_refused_before_anything_changes():
    learner = small_learner()
    other = PPOLearner(make_policy(ACTIONS["categorical"], seed=9), PPOConfig(), make_step=AutogradStep)
    before = copy.deepcopy(learner.policy.state_dict())
    with pytest.raises(ValueError, match="AutogradStep, not FusedStep"):
        learner.load_state_dict(other.state_dict())
    assert all(torch.equal(p, before[name]) for name, p in learner.policy.state_dict().items())
