"""The policy as one function of tensors gives the env actions that an actor gives."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from learner_helpers import sample_rows, vector_space
from torch import nn

from learner.actor import Actor
from learner.composite_head import make_head
from learner.deterministic import DeterministicPolicy
from learner.policy import ActorCritic
from learner.spaces import is_composite, leaves

HALF_BOUNDED = Box(np.array([-1.0, -np.inf, 0.0]), np.array([2.0, np.inf, np.inf]), dtype=np.float64)
HEADS = [
    Discrete(5, start=-2),
    Discrete(3, dtype=np.int32),
    MultiDiscrete([3, 4, 4], start=[0, 5, -1]),
    MultiDiscrete([[2, 3], [3, 2]], dtype=np.int16),
    MultiBinary([2, 2]),
    Box(-2.0, 0.5, (2, 3), np.float32),
    Box(-1e-3, 1.0, (), np.float32),
    Box(-1.0, 1.0, (2,), np.float16),
    HALF_BOUNDED,
    Dict(a=Tuple([Discrete(3), HALF_BOUNDED]), b=MultiBinary(3), c=MultiDiscrete([2, 2], dtype=np.uint8)),
]


@pytest.mark.parametrize("space", HEADS, ids=str)
def test_the_tensors_of_a_head_are_its_env_actions(space):
    head = make_head(space)
    outputs = 5.0 * np.random.default_rng(0).standard_normal((9, head.num_outputs)).astype(np.float32)
    outputs[-1] = 0.0  # a tie goes to the first choice
    rows = head.to_env(head.mode(outputs))
    expected = [leaf.read(rows) for leaf in leaves(space)] if is_composite(space) else [rows]
    for want, mode in zip(expected, head.env_modes(torch.from_numpy(outputs)), strict=True):
        assert mode.numpy().dtype == want.dtype
        assert mode.shape == want.shape
        exact = want.dtype.kind != "f"
        np.testing.assert_allclose(mode.numpy(), want, rtol=0.0, atol=0.0 if exact else 2e-7)
        if want.dtype == np.float16:  # rounds alike, however tanh was rounded
            np.testing.assert_array_equal(mode.numpy(), want)


def test_env_actions_stay_inside_their_bounds():
    space = Box(np.float32(-0.1), np.float32(0.1), (1,), np.float32)
    (actions,) = make_head(space).env_modes(torch.tensor([[50.0], [-50.0]]))
    assert actions.flatten().tolist() == [float(space.high[0]), float(space.low[0])]


CHOICES = Tuple([Discrete(2), MultiDiscrete([2, 3]), MultiBinary(1)])  # 9 in all
OBSERVED = Dict(
    [
        ("numbers", vector_space(3)),
        ("scalar", Box(-1.0, 1.0, (), np.float64)),
        ("whole", Box(-10, 30, (2,), np.int16)),
        ("one", Tuple([Discrete(3, start=-1), MultiDiscrete([[2, 3]], start=[[1, 0]])])),
        ("bits", MultiBinary(4)),
        ("action_mask", MultiBinary(9)),
        ("image", Box(0, 255, (36, 40, 3), np.uint8)),
    ]
)


class Sums(nn.Module):
    """A custom encoder that works in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 6)

    def forward(self, obs):
        obs["numbers"].add_(1.0)
        return self.layer(torch.cat([obs["numbers"], obs["one"][0].unsqueeze(1), obs["whole"][:, :1]], dim=1))


def legal(rows):
    """Rows of OBSERVED with a legal choice in every mask."""
    leaf = next(leaf for leaf in leaves(OBSERVED) if leaf.path == ("action_mask",))
    masks = np.random.default_rng(1).integers(0, 2, (len(rows), 9)).astype(np.int8)
    masks[:, [0, 2, 4, 7]] = 1
    rows[:, leaf.offset : leaf.offset + 9] = masks.view(np.uint8)
    return rows


@pytest.mark.parametrize("encoder", [None, Sums()], ids=["built-in", "custom"])
def test_a_policy_of_tensors_acts_as_the_actor_does(encoder):
    policy = ActorCritic(OBSERVED, CHOICES, (16,), normalize_obs=encoder is None, encoder=encoder)
    nn.init.normal_(policy.actor[-1].weight, generator=torch.Generator().manual_seed(0))  # clear decisions
    rows = legal(sample_rows(OBSERVED, 40))
    if encoder is None:
        policy.update_statistics(rows)
    parts = [torch.from_numpy(leaf.read(rows)) for leaf in leaves(OBSERVED)]
    before = [part.clone() for part in parts]
    actor = Actor(policy)
    env_actions = actor.to_env(actor.act(rows, None))
    expected = [leaf.read(env_actions) for leaf in leaves(CHOICES)]
    assert len({tuple(row) for row in env_actions.tolist()}) > 3
    with torch.no_grad():
        found = DeterministicPolicy(policy)(*parts)
    for want, action in zip(expected, found, strict=True):
        np.testing.assert_array_equal(action.numpy(), want)
    assert all(torch.equal(part, copy) for part, copy in zip(parts, before, strict=True))


@pytest.mark.parametrize("space", [vector_space(3), Discrete(3, start=2), Box(0, 255, (36, 36), np.uint8)])
def test_a_plain_observation_is_one_part(space):
    policy = ActorCritic(space, Box(-1.0, 1.0, (2,), np.float64), seed=3)
    rows = sample_rows(space, 5)
    actor = Actor(policy)
    expected = actor.to_env(actor.act(rows, None))
    with torch.no_grad():
        (found,) = DeterministicPolicy(policy, Box(-1.0, 1.0, (2,), np.float32))(torch.from_numpy(rows))
    assert found.dtype == torch.float32, "the dtype of the env"
    np.testing.assert_allclose(found.numpy(), expected, rtol=0.0, atol=1e-6)
