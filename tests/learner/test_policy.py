"""Policies for observations and actions of every kind: who shares what, masks, encoders of one's own."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from learner_helpers import log_prob, same_bits, sample_rows, vector_space, weights_of
from torch import nn

from learner.actor import Actor
from learner.errors import NoLegalAction
from learner.policy import ActorCritic
from learner.store import Store
from workers.rows import pack, unpack

IMAGE = Box(0, 255, (36, 40, 3), np.uint8)
VECTORS = Dict(a=vector_space(2), b=Discrete(3), c=Tuple([MultiBinary(2), Box(0, 9, (2,), np.int64)]))
IMAGE_AND_VECTOR = Dict(image=IMAGE, vector=vector_space(2))
OBSERVATIONS = [
    vector_space(4),
    Discrete(5, start=2),
    MultiDiscrete([2, 3]),
    IMAGE,
    VECTORS,
    IMAGE_AND_VECTOR,
]
ACTIONS = [
    Discrete(4, start=-1),
    Box(-2.0, 1.0, (3,), np.float32),
    MultiDiscrete([2, 3]),
    MultiBinary(3),
    Dict(a=Discrete(3), b=Tuple([Box(-1.0, 1.0, (2,), np.float32), MultiBinary(2)])),
]


def rng(seed=0):
    return np.random.default_rng(seed)


def reached(policy, loss):
    """The parameters that a loss has a gradient for, by part and layer."""
    policy.zero_grad()
    loss.backward()
    return {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}


def names_of(policy, *parts):
    return {name for name, _ in policy.named_parameters() if name.partition(".")[0] in parts}


def tensors(policy, count=6):
    """Observations, and actions that the policy has drawn."""
    rows = sample_rows(policy.observation_space, count)
    actions = Actor(policy).act(rows, policy.head.draw_noise(rng(), count))
    return torch.as_tensor(rows), torch.as_tensor(actions)


# ---- row 13: who shares what


@pytest.mark.parametrize("space", [vector_space(3), Discrete(4), VECTORS], ids=["Box", "Discrete", "Dict"])
def test_vectors_go_through_separate_networks(space):
    policy = ActorCritic(space, Box(-1.0, 1.0, (2,), np.float32))
    obs, actions = tensors(policy)
    assert not names_of(policy, "encoder")
    assert reached(policy, policy.values(obs).square().sum()) <= names_of(policy, "critic")
    assert reached(policy, log_prob(policy, obs, actions).sum()) <= names_of(policy, "actor", "head")
    outputs, values = policy.outputs_and_values(*policy.preprocess(obs))
    reach = reached(policy, outputs.square().sum() + values.square().sum())
    assert {name.partition(".")[0] for name in reach} == {"actor", "critic"}


def test_images_go_through_one_nature_cnn_that_actor_and_critic_share():
    policy = ActorCritic(IMAGE, Discrete(3), hidden_sizes=(64, 64))
    obs, actions = tensors(policy)
    # No hidden layers behind it: a linear actor and a linear critic of 512 features.
    assert {name: tuple(p.shape) for name, p in policy.named_parameters() if "encoder" not in name} == {
        "actor.0.weight": (3, 512),
        "actor.0.bias": (3,),
        "critic.0.weight": (1, 512),
        "critic.0.bias": (1,),
    }
    trunk = names_of(policy, "encoder")
    assert len(trunk) == 8
    assert reached(policy, policy.values(obs).square().sum()) == trunk | names_of(policy, "critic")
    assert reached(policy, log_prob(policy, obs, actions).square().sum()) == trunk | names_of(policy, "actor")
    for part, gain in ((policy.actor, 0.01), (policy.critic, 1.0)):
        weight = part[0].weight.detach().double()
        expected = gain**2 * torch.eye(len(weight), dtype=torch.float64)
        torch.testing.assert_close(weight @ weight.T, expected, rtol=0.0, atol=4e-6 * gain**2)


def test_an_image_beside_a_vector_has_hidden_layers_behind_the_joint_features():
    policy = ActorCritic(IMAGE_AND_VECTOR, Discrete(3), hidden_sizes=(16, 8))
    obs, actions = tensors(policy)
    assert [layer.in_features for layer in policy.actor if isinstance(layer, nn.Linear)] == [514, 16, 8]
    trunk = names_of(policy, "encoder")
    assert reached(policy, policy.values(obs).square().sum()) == trunk | names_of(policy, "critic")
    assert reached(policy, log_prob(policy, obs, actions).square().sum()) == trunk | names_of(policy, "actor")


# ---- every observation with every action


@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("observation_space", OBSERVATIONS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("count", [1, 5])
def test_a_policy_acts_in_every_space_and_knows_the_probability_of_what_it_did(
    observation_space, action_space, count
):
    policy = ActorCritic(observation_space, action_space, (8,), normalize_obs=True)
    rows = sample_rows(observation_space, count)
    policy.update_statistics(rows)
    noise = policy.head.draw_noise(rng(), count)
    actions = Actor(policy).act(rows, noise)
    for action in policy.head.to_env(actions):
        assert action_space.contains(unpack(action_space, action))
    again, values, log_probs = Actor(policy).act_with_values(rows, noise)
    np.testing.assert_array_equal(again, actions)
    obs, drawn = torch.as_tensor(rows), torch.as_tensor(actions)
    with torch.no_grad():
        torch.testing.assert_close(log_prob(policy, obs, drawn), torch.as_tensor(log_probs))
        torch.testing.assert_close(policy.values(obs), torch.as_tensor(values))
        behaviour = policy.evaluate_actions(*policy.preprocess(obs), drawn)
        torch.testing.assert_close(behaviour, (torch.as_tensor(log_probs), torch.as_tensor(values)))
        torch.testing.assert_close(policy.values_without_grad(obs), torch.as_tensor(values))
        outputs, judged = policy.outputs_and_values(*policy.preprocess(obs))
        torch.testing.assert_close(outputs, policy.outputs(*policy.preprocess(obs)))
        torch.testing.assert_close(judged, torch.as_tensor(values))
    assert values.shape == log_probs.shape == (count,)
    # A store of these spaces takes both, and gives them back bit for bit.
    store = Store(observation_space, policy.head.action_space, count)
    ids, yes = np.arange(count), np.ones(count, bool)
    store.add_actions(ids, rows, actions)
    store.add_outcomes(ids, rows, np.zeros(count), yes, yes)
    rollout = store.rollout()
    assert rollout.obs.tobytes() == rows.tobytes()
    assert (rollout.obs.dtype, rollout.final_obs.dtype) == (rows.dtype, rows.dtype)
    np.testing.assert_array_equal(rollout.actions, actions)


@pytest.mark.parametrize("observation_space", [VECTORS, IMAGE_AND_VECTOR], ids=["vectors", "image"])
def test_a_row_is_judged_alike_whatever_rows_are_beside_it(observation_space):
    policy = ActorCritic(observation_space, Discrete(3))
    obs = torch.as_tensor(sample_rows(observation_space, 5))
    with torch.no_grad():
        alone = torch.cat([policy.values(obs[row : row + 1]) for row in range(5)])
        torch.testing.assert_close(policy.values(obs), alone)


@pytest.mark.parametrize("space", [IMAGE, VECTORS, IMAGE_AND_VECTOR], ids=["image", "vectors", "both"])
def test_the_initial_policy_is_nearly_uniform(space):
    policy = ActorCritic(space, Discrete(5))
    obs = torch.as_tensor(sample_rows(space, 20))
    with torch.no_grad():
        probs = torch.softmax(policy.outputs(*policy.preprocess(obs)), 1).numpy()
    np.testing.assert_allclose(probs, 0.2, atol=0.02)
    assert probs.std() > 0.0


def test_the_initial_policy_is_nearly_uniform_in_every_choice_of_many():
    policy = ActorCritic(vector_space(4), MultiDiscrete([2, 5]))
    obs = torch.as_tensor(sample_rows(vector_space(4), 50))
    for action in ([0, 0], [1, 4], [0, 3]):
        with torch.no_grad():
            probs = log_prob(policy, obs, torch.tensor([action] * 50)).exp().numpy()
        np.testing.assert_allclose(probs, 0.1, atol=0.01)


def test_log_std_init_is_the_initial_log_std_of_every_dimension():
    policy = ActorCritic(vector_space(2), ACTIONS[4], log_std_init=-1.5)
    assert policy.head.leaves[1].log_std.tolist() == [-1.5, -1.5]
    policy = ActorCritic(vector_space(2), Box(-1.0, 1.0, (3,), np.float32), log_std_init=0.5)
    assert policy.head.log_std.tolist() == [0.5] * 3


# ---- masks


def masked_space(mask, obs=None):
    return Dict(action_mask=mask, obs=vector_space(2) if obs is None else obs)


def masked_rows(space, masks):
    rows = []
    space.seed(1)
    for mask in masks:
        element = space.sample()
        element["action_mask"] = np.asarray(mask, space["action_mask"].dtype)
        rows.append(pack(space, element))
    return np.stack(rows)


MASKS = [MultiBinary(4), Box(0, 1, (4,), np.int8), Box(0, 1, (4,), np.bool_), MultiDiscrete([2] * 4)]


def biased(policy):
    """Sure of what it likes best, which is the last choice of all."""
    with torch.no_grad():
        policy.actor[-1].bias.copy_(torch.arange(policy.head.num_outputs, dtype=torch.float32) * 20.0)
    return policy


@pytest.mark.parametrize("mask", MASKS, ids=lambda space: f"{type(space).__name__}-{space.dtype}")
def test_an_illegal_action_is_never_drawn(mask):
    space = masked_space(mask)
    masks = [[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]] * 2000
    rows = np.tile(masked_rows(space, masks[:500]), (20, 1))
    for policy in (ActorCritic(space, Discrete(4)), biased(ActorCritic(space, Discrete(4)))):
        noise = policy.head.draw_noise(rng(), len(rows))
        for actions in (Actor(policy).act(rows, noise), Actor(policy).act_with_values(rows, noise)[0]):
            assert np.asarray(masks)[np.arange(len(rows)), actions].all()
        greedy = Actor(policy).act(rows, None)
        assert np.asarray(masks)[np.arange(len(rows)), greedy].all()
    assert greedy[:5].tolist() == [0, 2, 2, 3, 3]


def test_draws_are_those_of_the_legal_actions_alone():
    space = masked_space(MultiBinary(4))
    policy = ActorCritic(space, Discrete(4))
    with torch.no_grad():
        policy.actor[-1].bias.copy_(torch.tensor([0.0, 1.0, 3.0, 0.5]))
    rows = np.repeat(masked_rows(space, [[1, 1, 0, 1]]), 20_000, axis=0)
    obs = torch.as_tensor(rows)
    with torch.no_grad():
        probs = torch.stack([log_prob(policy, obs[:1], torch.tensor([a])) for a in range(4)]).exp().ravel()
    weights = np.exp([0.0, 1.0, -np.inf, 0.5])
    np.testing.assert_allclose(probs, weights / weights.sum(), atol=0.02)  # the observation adds a little
    assert probs[2] == 0.0
    assert float(probs.sum()) == pytest.approx(1.0, abs=1e-6)
    drawn = Actor(policy).act(rows, policy.head.draw_noise(rng(), len(rows)))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(rows), probs, atol=0.015)


def test_every_component_of_a_multi_discrete_has_its_part_of_the_mask():
    space = masked_space(MultiBinary(7))
    policy = biased(ActorCritic(space, MultiDiscrete([3, 4])))
    rows = masked_rows(space, [[1, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1, 0]] * 500)
    drawn = Actor(policy).act(rows, policy.head.draw_noise(rng(), len(rows)))
    assert {tuple(action) for action in drawn[::2].tolist()} <= {(0, 1), (2, 1)}
    assert {tuple(action) for action in drawn[1::2].tolist()} <= {(1, 0), (1, 2)}
    nothing_left = masked_rows(space, [[1, 0, 1, 0, 0, 0, 0]])
    with pytest.raises(NoLegalAction):
        Actor(policy).act(nothing_left, policy.head.draw_noise(rng(), 1))


def test_masks_of_composite_actions_follow_their_leaves():
    space = masked_space(MultiBinary(5))
    policy = biased(ActorCritic(space, Dict([("b", Discrete(3)), ("a", MultiBinary(1))])))
    rows = masked_rows(space, [[0, 1, 0, 1, 0]] * 20)
    drawn = Actor(policy).act(rows, policy.head.draw_noise(rng(), len(rows)))
    assert drawn.tolist() == [[1.0, 0.0]] * 20


def test_masks_shift_with_nothing_but_the_choices():
    """The mask counts choices from 0, whatever the env calls them."""
    space = masked_space(MultiBinary(3))
    policy = ActorCritic(space, Discrete(3, start=10))
    rows = masked_rows(space, [[0, 0, 1]] * 8)
    assert policy.head.to_env(Actor(policy).act(rows, policy.head.draw_noise(rng(), 8))).tolist() == [12] * 8


@pytest.mark.parametrize("mask", MASKS, ids=lambda space: f"{type(space).__name__}-{space.dtype}")
def test_a_mask_that_allows_nothing_is_an_error_wherever_one_acts(mask):
    space = masked_space(mask)
    policy = ActorCritic(space, Discrete(4))
    rows = masked_rows(space, [[1, 1, 1, 1], [0, 0, 0, 0]])
    noise = policy.head.draw_noise(rng(), 2)
    for act in (
        Actor(policy).act,
        Actor(policy).act_with_values,
        lambda obs, _: Actor(policy).act(obs, None),
    ):
        act(rows[:1], noise[:1])
        with pytest.raises(NoLegalAction, match="allows no action"):
            act(rows, noise)
    assert policy.values_without_grad(torch.as_tensor(rows)).shape == (
        2,
    )  # a final observation may have no action


@pytest.mark.parametrize(
    ("mask", "actions", "message"),
    [
        (MultiBinary(3), Discrete(4), "'action_mask' has 3 entries, but the action space has 4 choices"),
        (MultiBinary([2, 3]), MultiDiscrete([2, 3]), "has 6 entries, but the action space has 5 choices"),
        (MultiBinary(2), Box(-1.0, 1.0, (2,), np.float32), "parts that cannot be masked"),
        (MultiBinary(5), ACTIONS[4], "parts that cannot be masked"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, actions, message):
    with pytest.raises(ValueError, match=message):
        ActorCritic(masked_space(mask), actions)


def test_the_networks_do_not_see_the_mask():
    space = masked_space(MultiBinary(4))
    policy = ActorCritic(space, Discrete(4))
    assert policy.encoder.features == 2
    element = {"obs": np.array([0.5, -1.0], np.float32)}
    rows = [
        pack(space, element | {"action_mask": np.array(mask, np.int8)})
        for mask in ([1, 1, 1, 1], [0, 1, 0, 1])
    ]
    obs = torch.as_tensor(np.stack(rows))
    with torch.no_grad():
        free, masked = policy.outputs(*policy.preprocess(obs))
        torch.testing.assert_close(free[[1, 3]], masked[[1, 3]], rtol=0.0, atol=1e-7)
        assert (masked[[0, 2]] < -1e7).all()
        values = policy.values(obs)
        torch.testing.assert_close(values[0], values[1])


def test_gradients_of_masked_policies_are_finite_and_leave_illegal_choices_alone():
    space = masked_space(MultiBinary(4))
    policy = ActorCritic(space, Discrete(4))
    rows = masked_rows(space, [[1, 0, 1, 0], [1, 0, 0, 0]] * 4)
    obs, drawn = torch.as_tensor(rows), Actor(policy).act(rows, policy.head.draw_noise(rng(), 8))
    loss = (
        log_prob(policy, obs, torch.as_tensor(drawn)).sum()
        + policy.head.entropy(policy.outputs(*policy.preprocess(obs))).sum()
    )
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.actor.parameters())
    bias = policy.actor[-1].bias.grad
    assert bias[1] == bias[3] == 0.0
    assert bias[0] != 0.0


def test_images_can_be_masked_too():
    space = masked_space(MultiBinary(3), IMAGE)
    policy = ActorCritic(space, Discrete(3))
    assert not policy.encoder.needs_hidden_layers
    rows = masked_rows(space, [[0, 1, 0], [1, 0, 0]])
    assert Actor(policy).act(rows, policy.head.draw_noise(rng(), 2)).tolist() == [1, 0]


# ---- an encoder of one's own


class Halves(nn.Module):
    """Two features of a vector; remembers what it was given."""

    def __init__(self, size=4):
        super().__init__()
        self.layer = nn.Linear(size, 2)
        self.seen = []

    def forward(self, obs):
        self.seen.append(obs)
        return self.layer(obs.flatten(start_dim=1).float())


class OfDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 7)
        self.seen = []

    def forward(self, obs):
        self.seen.append(obs)
        parts = [obs["a"], obs["b"][:, None].float(), obs["c"][0].float()]
        return torch.tanh(self.layer(torch.cat(parts, dim=1)))


@pytest.mark.parametrize(
    "space",
    [Box(-9.0, 9.0, (2, 2), np.float64), Box(0, 255, (2, 2, 1), np.uint8), Box(0, 9, (4,), np.int64)],
    ids=lambda space: space.dtype.name,
)
def test_an_own_encoder_gets_observations_as_they_are(space):
    module = Halves()
    policy = ActorCritic(space, Discrete(3), encoder=module, hidden_sizes=(8,))
    rows = sample_rows(space, 3)
    module.seen.clear()
    values = policy.values(torch.as_tensor(rows))
    assert module.seen[0].dtype == torch.from_numpy(rows).dtype
    np.testing.assert_array_equal(module.seen[0].numpy(), rows)
    with torch.no_grad():
        by_hand = policy.critic(module.layer(torch.as_tensor(rows).flatten(start_dim=1).float()))[:, 0]
    torch.testing.assert_close(values, by_hand)
    assert [layer.in_features for layer in policy.actor if isinstance(layer, nn.Linear)] == [2, 8]


class InPlace(Halves):
    """Works on what it is given."""

    def forward(self, obs):
        (obs["a"] if isinstance(obs, dict) else obs).mul_(0.0)
        return self.layer(obs["a"] if isinstance(obs, dict) else obs)


@pytest.mark.parametrize("space", [vector_space(4), Dict(a=vector_space(4))], ids=["box", "dict"])
def test_an_own_encoder_may_work_in_place(space):
    policy = ActorCritic(space, Discrete(3), encoder=InPlace())
    rows = sample_rows(space, 3)
    before = rows.copy()
    Actor(policy).act(rows, policy.head.draw_noise(rng(), 3))
    Actor(policy).act_with_values(rows, policy.head.draw_noise(rng(), 3))
    inputs = policy.preprocess(torch.as_tensor(rows))
    policy.evaluate_actions(*inputs, torch.zeros(3, dtype=torch.int64))
    policy.outputs_and_values(*inputs)
    np.testing.assert_array_equal(rows, before)


def test_an_own_encoder_of_a_dict_gets_a_dict_of_tensors():
    module = OfDict()
    policy = ActorCritic(VECTORS, Discrete(3), encoder=module)
    rows = sample_rows(VECTORS, 3)
    module.seen.clear()
    policy.outputs(*policy.preprocess(torch.as_tensor(rows)))
    (seen,) = module.seen
    assert list(seen) == ["a", "b", "c"]
    assert type(seen["c"]) is tuple
    for row in range(3):
        element = unpack(VECTORS, rows[row])
        np.testing.assert_array_equal(seen["a"][row], element["a"])
        assert int(seen["b"][row]) == element["b"]
        np.testing.assert_array_equal(seen["c"][0][row], element["c"][0])
        np.testing.assert_array_equal(seen["c"][1][row], element["c"][1])
    assert (seen["a"].dtype, seen["b"].dtype, seen["c"][0].dtype) == (torch.float32, torch.int64, torch.int8)


def test_actor_and_critic_share_an_own_encoder():
    policy = ActorCritic(VECTORS, Discrete(3), encoder=OfDict())
    assert policy.encoder.is_trainable
    assert policy.encoder.features == 7
    obs, actions = tensors(policy)
    assert names_of(policy, "encoder") == {"encoder.module.layer.weight", "encoder.module.layer.bias"}
    encoder, actor, critic = (names_of(policy, part) for part in ("encoder", "actor", "critic"))
    # MultiBinary inputs may be zero in all rows; what matters is who is reached at all.
    assert reached(policy, policy.values(obs).square().sum()) == encoder | critic
    assert reached(policy, log_prob(policy, obs, actions).square().sum()) == encoder | actor


def test_weights_of_an_own_encoder_are_left_as_they_are_and_saved():
    module = Halves()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    policy = ActorCritic(vector_space(4), Discrete(3), encoder=module)
    assert same_bits(before, module.state_dict())
    other = ActorCritic(vector_space(4), Discrete(3), encoder=Halves(), seed=1)
    other.load_state_dict(policy.state_dict())
    assert same_bits(weights_of(other), weights_of(policy))


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda obs: obs[:, 0], r"features .* for 3 observations it gave torch.float32 of shape \(3,\)"),
        (lambda obs: obs[:, :, None], r"it gave torch.float32 of shape \(3, 4, 1\)"),
        (lambda obs: obs[:1], r"for 3 observations it gave torch.float32 of shape \(1, 4\)"),
        (lambda obs: obs.sum(), r"of shape \(\)"),
        (lambda obs: obs.long(), "it gave torch.int64"),
        (lambda obs: {"features": obs}, "it must return a tensor .* not a dict"),
        (lambda obs: (obs, obs), "not a tuple"),
        (lambda obs: obs @ obs, "for 3 observations it raised RuntimeError: mat1 and mat2"),
        (
            lambda obs: nn.functional.batch_norm(obs, None, None, training=True),
            "for 1 observations it raised",
        ),
    ],
)
def test_an_own_encoder_that_returns_something_else_is_refused(forward, found):
    module = Halves()
    module.forward = forward
    with pytest.raises(ValueError, match=found):
        ActorCritic(vector_space(4), Discrete(3), encoder=module)


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3, start=5),
        Box(np.array(5), np.array(7), dtype=np.int64),
        MultiDiscrete([3], start=[5]),
        Dict(a=Discrete(3, start=5), b=Box(0, 1, (3,), np.bool_)),
        Dict(a=Box(5.0, 7.0, (), np.float64), b=Box(-1, 1, (2,), np.float32), c=MultiBinary(2)),
        Tuple([Discrete(3, start=5), Box(-9.0, -2.0, (2,), np.float16)]),
    ],
)
def test_an_own_encoder_sees_nothing_that_is_not_in_the_space(space):
    """Not even while it is tried: an embedding would not take it."""

    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def forward(self, obs):
            seen.append(obs)
            if isinstance(obs, dict | tuple):
                obs = obs["a"] if isinstance(obs, dict) else obs[0]
            return self.table(obs.long().reshape(len(obs)) - 5)

    seen = []
    policy = ActorCritic(space, Discrete(2), encoder=Embedding())
    tried = seen[0]
    if isinstance(space, Dict):
        tried = {key: part[0].numpy() for key, part in tried.items()}
    else:
        tried = tuple(part[0].numpy() for part in tried) if isinstance(space, Tuple) else tried[0].numpy()
    assert space.contains(_with_numpy_scalars(space, tried))
    rows = sample_rows(space, 4)
    assert Actor(policy).act(rows, policy.head.draw_noise(rng(), 4)).shape == (4,)


def _with_numpy_scalars(space, element):
    """What the space takes for one of its elements: Discrete wants scalars."""
    if isinstance(space, Dict):
        return {key: _with_numpy_scalars(part, element[key]) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        pairs = zip(space.spaces, element, strict=True)
        return tuple(_with_numpy_scalars(part, inner) for part, inner in pairs)
    return element[()] if isinstance(space, Discrete) else element


def test_an_own_encoder_normalises_by_itself():
    with pytest.raises(ValueError, match="normalise inside it"):
        ActorCritic(vector_space(4), Discrete(3), encoder=Halves(), normalize_obs=True)


def test_an_own_encoder_can_be_masked():
    class Plain(nn.Module):
        def forward(self, obs):
            return obs["obs"]

    space = masked_space(MultiBinary(3))
    policy = ActorCritic(space, Discrete(3), encoder=Plain())
    rows = masked_rows(space, [[0, 1, 0]] * 5)
    assert Actor(policy).act(rows, policy.head.draw_noise(rng(), 5)).tolist() == [1] * 5
    assert policy.encoder.features == 2


# ---- running statistics


def test_only_numbers_are_normalised_and_only_if_one_asks():
    assert not ActorCritic(vector_space(2), Discrete(2)).normalizes
    assert ActorCritic(vector_space(2), Discrete(2), normalize_obs=True).normalizes
    assert ActorCritic(IMAGE_AND_VECTOR, Discrete(2), normalize_obs=True).normalizes
    for space in (IMAGE, Discrete(3), MultiBinary(3)):
        assert not ActorCritic(space, Discrete(2), normalize_obs=True).normalizes


def test_normalised_observations_are_what_the_networks_see():
    policy = ActorCritic(vector_space(2), Discrete(2), normalize_obs=True)
    plain = ActorCritic(vector_space(2), Discrete(2))
    rows = np.array([[1.0, 100.0], [3.0, 300.0]], np.float32)
    policy.update_statistics(rows)
    with torch.no_grad():
        by_hand = plain.values(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [10.0, -10.0]]))
        found = policy.values(torch.tensor([[1.0, 100.0], [3.0, 300.0], [1e6, -1e6]]))
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("space", [vector_space(3), VECTORS, IMAGE_AND_VECTOR], ids=["Box", "Dict", "image"])
def test_acting_and_judging_count_nothing(space):
    policy = ActorCritic(space, Discrete(3), normalize_obs=True)
    rows = sample_rows(space, 6)
    policy.update_statistics(rows)
    before = weights_of(policy)
    assert any(name.endswith("normalizer.count") and float(t) == 6.0 for name, t in before.items())
    obs = torch.as_tensor(rows)
    actions, _, _ = Actor(policy).act_with_values(rows, policy.head.draw_noise(rng(), 6))
    Actor(policy).act(rows, None)
    policy.evaluate_actions(*policy.preprocess(obs), torch.as_tensor(actions))
    policy.values_without_grad(obs)
    log_prob(policy, obs, torch.as_tensor(actions)).sum().backward()
    assert same_bits(before, weights_of(policy))


def test_many_rows_are_counted_chunk_by_chunk_as_if_at_once():
    policy = ActorCritic(vector_space(2), Discrete(3), normalize_obs=True)
    rows = (rng().standard_normal((40_000, 2)) * [1.0, 50.0] + 7.0).astype(np.float32)
    policy.update_statistics(rows)
    normalizer = policy.encoder.normalizer
    assert float(normalizer.count) == 40_000
    np.testing.assert_allclose(normalizer.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.var, rows.astype(np.float64).var(0), rtol=1e-12)


def test_policies_draw_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    for space in OBSERVATIONS:
        ActorCritic(space, ACTIONS[4], normalize_obs=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "space",
    [
        Dict(inner=Dict(action_mask=MultiBinary(3)), x=vector_space(2)),
        Dict(action_mask=Tuple([MultiBinary(3)]), x=vector_space(2)),
    ],
)
def test_a_mask_anywhere_else_is_refused(space):
    with pytest.raises(
        ValueError, match="'action_mask' must be one array at the top of the observation's Dict"
    ):
        ActorCritic(space, Discrete(3))
