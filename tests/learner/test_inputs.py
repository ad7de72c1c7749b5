"""What NumPy makes of observations, and when it may act: the same bits as tensors, or not at all."""

import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from learner_helpers import make_policy, sample_rows, vector_space
from torch import nn

from learner.actor import Actor, acting_plan, acting_weights
from learner.encoders import make_encoder
from learner.normalize import ObservationNormalizer
from learner.numpy_policy import NumpyPolicy
from learner.policy import ActorCritic

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")
BOXES = {
    **{f"{name} within bounds": Box(3, 90, (2, 3), np.dtype(name).type) for name in INTEGERS},
    "each with its bounds": Box(np.array([-3, 0, 7]), np.array([4, 0, 10**6]), dtype=np.int64),
    "int32 without bounds": Box(-(2**31), 2**31 - 1, (3,), np.int32),
    "int64 without bounds": Box(-(2**62), 2**62, (3,), np.int64),
    "some without bounds": Box(np.array([0, -(2**62)]), np.array([9, 2**62]), dtype=np.int64),
    "large in narrow bounds": Box(2**40, 2**40 + 3, (4,), np.int64),
    "bool": Box(0, 1, (3,), np.bool_),
    **{name: Box(-50.0, 50.0, (2, 2), np.dtype(name).type) for name in FLOATS},
    "float64 without bounds": Box(-np.inf, np.inf, (3,), np.float64),
    "a scalar": Box(-1.0, 1.0, (), np.float32),
}
CHOICES = {
    "Discrete": Discrete(5, start=-2),
    "MultiDiscrete": MultiDiscrete([2, 3, 4], start=[5, -2, 0]),
    "MultiDiscrete in rows": MultiDiscrete([[2, 1], [3, 2]], start=[[0, 7], [-1, 0]]),
    "MultiBinary": MultiBinary((2, 3)),
}
NESTED = Dict(
    a=Box(-5.0, 5.0, (3,), np.float64),
    b=Tuple(
        [Discrete(4, start=2), Box(0, 200, (2,), np.uint8), Dict(c=MultiBinary(3), d=Box(0, 1, (), bool))]
    ),
    e=MultiDiscrete([3, 2]),
    f=Box(-1.0, 1.0, (2, 2), np.float32),
)
SPACES = {**BOXES, **CHOICES, "nested": NESTED}
COUNTS = (0, 1, 17)


def encoder_of(space, normalizes):
    normalizer = ObservationNormalizer if normalizes else None
    return make_encoder(space, torch.Generator().manual_seed(0), normalizer)


def rows_of(space, count):
    return sample_rows(space, max(count, 1))[:count]


def statistics_of(encoder):
    normalizers = [module for module in encoder.modules() if isinstance(module, ObservationNormalizer)]
    return [array.numpy() for moments in normalizers for array in (moments.mean, moments.var)]


def same(left, right):
    assert left.dtype == right.dtype == np.float32
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("normalizes", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("name", SPACES)
def test_numpy_and_tensors_make_the_same_bits(name, normalizes, count):
    space = SPACES[name]
    encoder, rows = encoder_of(space, normalizes), rows_of(space, count)
    encoder.update_statistics(torch.from_numpy(sample_rows(space, 40, seed=9)))
    statistics = statistics_of(encoder)
    assert len(statistics) == encoder.in_numpy.num_statistics
    assert bool(statistics) == (normalizes and name not in CHOICES)
    found = encoder.in_numpy.read(rows, statistics)
    assert found.shape == (count, encoder.features) == (count, encoder.in_numpy.size)
    same(found, encoder.preprocess(torch.from_numpy(rows)).numpy())


def test_normalised_numbers_are_clipped_where_tensors_clip_them():
    space = Box(-np.inf, np.inf, (3,), np.float64)
    encoder = encoder_of(space, True)
    encoder.update_statistics(torch.tensor([[1e4, -2.0, 0.0], [1e4 + 1e-3, 2.0, 0.0]], dtype=torch.float64))
    rows = np.array([[1e4, 1e9, 0.0], [-np.inf, np.inf, 1e-3], [np.nan, 3.5, -1e-12]])
    found = encoder.in_numpy.read(rows, statistics_of(encoder))
    same(found, encoder.preprocess(torch.from_numpy(rows)).numpy())
    assert found[0, 1] == found[1, 1] == 10.0
    assert found[1, 0] == -10.0
    assert np.isnan(found[2, 0])


def test_each_leaf_has_its_own_statistics():
    """In the order of the leaves, whatever lies between them."""
    space = Dict(a=Box(-9.0, 9.0, (2,), np.float32), b=Discrete(3), c=Box(-9.0, 9.0, (1,), np.float64))
    encoder = encoder_of(space, True)
    assert encoder.in_numpy.num_statistics == 4
    rows = sample_rows(space, 1)
    moments = [np.full(2, 1.0), np.full(2, 4.0), np.full(1, -3.0), np.full(1, 0.25)]
    for found, value in zip(statistics_of(encoder), moments, strict=True):
        found[...] = value
    assert [array.shape for array in statistics_of(encoder)] == [(2,), (2,), (1,), (1,)]
    same(encoder.in_numpy.read(rows, moments), encoder.preprocess(torch.from_numpy(rows)).numpy())


def test_rows_are_left_as_they_are():
    for space in SPACES.values():
        encoder, rows = encoder_of(space, True), rows_of(space, 5)
        before = rows.copy()
        rows.flags.writeable = False
        encoder.in_numpy.read(rows, statistics_of(encoder))
        np.testing.assert_array_equal(rows, before)


# ---- when NumPy may act


class Own(nn.Module):
    """A custom encoder."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, obs):
        return self.layer(obs)


class Subclass(ActorCritic):
    """May compute anything."""


def hooked(choose):
    policy = make_policy()
    choose(policy).register_forward_hook(lambda module, args, output: output + 1.0)
    return policy


def pre_hooked(choose):
    policy = make_policy()
    choose(policy).register_forward_pre_hook(lambda module, args: None)
    return policy


def with_actor(actor):
    policy = make_policy()
    policy.actor = actor
    return policy


IMAGE = Box(0, 255, (36, 36, 3), np.uint8)
TORCH_ACTS = {
    "an image": lambda: ActorCritic(IMAGE, Discrete(3)),
    "an image in a Dict": lambda: ActorCritic(Dict(image=IMAGE, vector=vector_space(2)), Discrete(3)),
    "a custom encoder": lambda: ActorCritic(vector_space(3), Discrete(3), encoder=Own()),
    "a subclass": lambda: Subclass(vector_space(3), Discrete(3)),
    "another device": lambda: make_policy().to("meta"),
    "statistics elsewhere": lambda: ActorCritic(vector_space(3), Discrete(3), normalize_obs=True),
    "another dtype": lambda: make_policy().double(),
    "a hook on the actor": lambda: hooked(lambda policy: policy.actor),
    "a hook on a layer": lambda: hooked(lambda policy: policy.actor[0]),
    "a hook on the encoder": lambda: hooked(lambda policy: policy.encoder),
    "a hook before a layer": lambda: pre_hooked(lambda policy: policy.actor[2]),
    "a hook before the encoder": lambda: pre_hooked(lambda policy: policy.encoder),
    "another activation": lambda: with_actor(nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 3))),
    "a layer without bias": lambda: with_actor(nn.Sequential(nn.Linear(3, 3, bias=False))),
    "a network of one's own": lambda: with_actor(nn.Linear(3, 3)),
}


@pytest.mark.parametrize("why", TORCH_ACTS)
def test_where_only_torch_can_act_there_is_no_plan(why):
    policy = TORCH_ACTS[why]()
    if why == "statistics elsewhere":
        assert acting_plan(policy) is not None
        policy.encoder.normalizer.to("meta")
    assert acting_plan(policy) is None


def test_a_head_of_another_device_is_torchs_as_well():
    policy = make_policy(Box(-1.0, 1.0, (2,), np.float32))
    assert acting_plan(policy) is not None
    policy.head.to("meta")
    assert acting_plan(policy) is None


def test_a_hook_that_comes_and_goes_is_noticed():
    policy = make_policy()
    actor, obs = Actor(policy), np.zeros((1, 3), np.float32)
    assert isinstance(actor.now(), NumpyPolicy)
    called = []
    hook = policy.actor[0].register_forward_hook(lambda *args: called.append(args))
    assert actor.now() is actor
    actor.act(obs, None)
    assert called
    hook.remove()
    assert isinstance(actor.now(), NumpyPolicy)


@pytest.mark.parametrize("space", [vector_space(3), NESTED], ids=["vector", "nested"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_plan_survives_being_sent(space, activation):
    """And the weights, sent beside it, say the rest."""
    policy = ActorCritic(space, Discrete(4), (8,), activation=activation, normalize_obs=True)
    policy.update_statistics(sample_rows(space, 30, seed=4))
    weights = [array.copy() for array in acting_weights(policy)]
    sent = NumpyPolicy(pickle.loads(pickle.dumps(acting_plan(policy))), weights)
    obs = sample_rows(space, 9)
    noise = policy.head.draw_noise(np.random.default_rng(0), 9)
    assert sent.inputs_and_outputs(obs)[1].tobytes() == (
        Actor(policy).now().inputs_and_outputs(obs)[1].tobytes()
    )
    assert sent.act(obs, noise).tolist() == Actor(policy).act(obs, noise).tolist()
