"""A policy acts the same way whether NumPy or torch computes its network."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from learner_helpers import make_policy, sample_rows, vector_space

from learner.actor import Actor, acting_plan, acting_weights
from learner.errors import NoLegalAction, NonFiniteError
from learner.numpy_policy import ILLEGAL, NumpyPolicy
from learner.policy import ActorCritic

ACTIONS = {
    "Discrete": Discrete(4, start=3),
    "MultiDiscrete": MultiDiscrete([3, 2, 3], start=[0, -1, 4]),
    "MultiBinary": MultiBinary((2, 2)),
    "Box": Box(np.float32([-2.0, -np.inf, 0.0]), np.float32([1.0, np.inf, 9.0])),
    "nested": Dict(a=Tuple([Box(-2.0, 2.0, (2,), np.float32), Discrete(3)]), b=MultiBinary(2)),
}
OBSERVATIONS = {
    "vector": vector_space(3),
    "bytes": Box(0, 255, (2, 2), np.uint8),
    "nested": Dict(a=Box(-9.0, 9.0, (2,), np.float64), b=Discrete(3)),
}
ROWS = 33


def policy_of(observations, actions, **options):
    """A policy that is sure enough of what it does for its actions to tell rows apart."""
    policy = ActorCritic(observations, actions, (16, 16), 1, **options)
    with torch.no_grad():
        policy.actor[-1].weight.mul_(100.0)
        for log_std in policy.head.parameters():
            log_std.copy_(torch.linspace(-1.0, 0.5, len(log_std)))
    if options.get("normalize_obs"):
        policy.update_statistics(sample_rows(observations, 50, seed=3))
    return policy


def in_numpy(policy):
    found = Actor(policy).now()
    assert isinstance(found, NumpyPolicy)
    return found


class InTorch:
    """Force a policy to act by torch."""

    def __init__(self, policy):
        self.actor, self.outputs = Actor(policy), []
        policy.actor[-1].register_forward_hook(lambda module, args, out: self.outputs.append(out.numpy()))
        assert self.actor.now() is self.actor


@pytest.mark.parametrize(
    "options", [{}, {"normalize_obs": True, "activation": "relu"}], ids=["plain", "relu"]
)
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_numpy_acts_as_torch_does(observations, actions, options):
    space = OBSERVATIONS[observations]
    policy = policy_of(space, ACTIONS[actions], **options)
    obs, noise = sample_rows(space, ROWS), policy.head.draw_noise(np.random.default_rng(5), ROWS)
    quick = in_numpy(policy)
    found = [quick.act(obs, noise), quick.act(obs, None), quick.act(obs[:1], noise[:1])]
    outputs = quick.inputs_and_outputs(obs)[1]
    slow = InTorch(policy)
    wanted = [slow.actor.act(obs, noise), slow.actor.act(obs, None), slow.actor.act(obs[:1], noise[:1])]
    np.testing.assert_allclose(outputs, slow.outputs[0], rtol=1e-5, atol=1e-6)
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            quick.to_env(one).astype(float), slow.actor.to_env(one).astype(float), rtol=0, atol=0
        )
    assert len(np.unique(found[0].reshape(ROWS, -1), axis=0)) > 1


@pytest.mark.parametrize("actions", ACTIONS)
def test_both_draw_the_same_noise(actions):
    policy = policy_of(vector_space(3), ACTIONS[actions])
    first, second = (np.random.default_rng(5) for _ in range(2))
    for rows in (1, 7):
        found = in_numpy(policy).draw_noise(first, rows)
        assert found.tobytes() == Actor(policy).draw_noise(second, rows).tobytes()
        assert found.dtype == np.float32
        assert found.shape == (rows, policy.head.num_outputs)


def test_a_row_is_acted_on_alike_with_its_own_env_id_or_none():
    policy = policy_of(vector_space(3), Discrete(4))
    obs, noise = sample_rows(vector_space(3), 5), policy.head.draw_noise(np.random.default_rng(0), 5)
    with_ids = in_numpy(policy).act(obs, noise, np.arange(5) + 70)
    assert with_ids.tolist() == in_numpy(policy).act(obs, noise).tolist()


# ---- weights


def test_changes_of_the_weights_in_place_are_seen():
    policy = make_policy()
    weights = [array.copy() for array in acting_weights(policy)]
    copied = NumpyPolicy(acting_plan(policy), weights)
    obs = sample_rows(vector_space(3), 4)
    with torch.no_grad():
        policy.actor[-1].bias[2] += 5.0
    assert in_numpy(policy).act(obs, None).tolist() == [2] * 4
    before = copied.inputs_and_outputs(obs)[1]
    for own, new in zip(weights, acting_weights(policy), strict=True):
        own[...] = new
    assert (copied.inputs_and_outputs(obs)[1] != before).any()
    assert copied.act(obs, None).tolist() == [2] * 4


def test_the_weights_are_views_of_the_policys_own():
    space = Box(-1.0, 1.0, (2,), np.float32)
    policy = ActorCritic(vector_space(3), space, (8,), normalize_obs=True)
    weights = acting_weights(policy)
    # Statistics first, then layers, then what the actions need; wider dtypes come first, so all are aligned.
    assert [array.shape for array in weights] == [(3,), (3,), (8, 3), (8,), (2, 8), (2,), (2,)]
    assert [array.dtype.itemsize for array in weights] == [8, 8, 4, 4, 4, 4, 4]
    policy.update_statistics(np.full((4, 3), 7.0, np.float32))
    assert weights[0].tolist() == [7.0] * 3
    with torch.no_grad():
        policy.head.log_std.fill_(-3.0)
    assert weights[-1].tolist() == [-3.0] * 2


def test_another_spread_scales_the_noise():
    space = Box(-np.inf, np.inf, (2,), np.float32)
    policy = ActorCritic(vector_space(3), space, (8,))
    obs, noise = np.zeros((1, 3), np.float32), np.ones((1, 2), np.float32)
    narrow = in_numpy(policy).act(obs, noise) - in_numpy(policy).act(obs, None)
    with torch.no_grad():
        policy.head.log_std.copy_(torch.tensor([np.log(3.0), np.log(0.5)]))
    wide = in_numpy(policy).act(obs, noise) - in_numpy(policy).act(obs, None)
    np.testing.assert_allclose(wide, narrow * [3.0, 0.5], rtol=1e-5)


# ---- masks


def masked(masks, actions):
    """A policy whose favourite is the last choice, and rows with these masks."""
    space = Dict(action_mask=MultiBinary(len(masks[0])), obs=vector_space(2))
    policy = ActorCritic(space, actions)
    with torch.no_grad():
        policy.actor[-1].bias.copy_(torch.arange(policy.head.num_outputs, dtype=torch.float32) * 20.0)
    rows = np.zeros((len(masks), len(masks[0]) + 8), np.uint8)
    rows[:, : len(masks[0])] = masks
    return policy, rows


def test_masked_choices_are_out_of_question_for_both():
    masks = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]])
    policy, rows = masked(masks, Discrete(4))
    quick = in_numpy(policy)
    outputs = quick.inputs_and_outputs(rows)[1]
    np.testing.assert_array_equal(outputs == ILLEGAL, masks == 0)
    noise = policy.head.draw_noise(np.random.default_rng(0), 3)
    assert quick.act(rows, None).tolist() == [2, 1, 3]
    slow = InTorch(policy).actor
    assert slow.act(rows, None).tolist() == [2, 1, 3]
    assert slow.act(rows, noise).tolist() == quick.act(rows, noise).tolist()


@pytest.mark.parametrize(
    ("actions", "masks", "stuck"),
    [
        (Discrete(3), [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]], [1, 3]),
        (MultiDiscrete([2, 1]), [[1, 0, 1], [0, 0, 1], [1, 1, 0]], [1, 2]),
        (Dict(a=Discrete(2), b=MultiBinary(1)), [[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 1]], [1]),
    ],
    ids=["Discrete", "MultiDiscrete", "Dict"],
)
def test_whoever_has_no_legal_action_is_named_by_both(actions, masks, stuck):
    policy, rows = masked(masks, actions)
    noise = policy.head.draw_noise(np.random.default_rng(0), len(masks))
    env_ids = np.arange(len(masks)) * 10 + 5
    actors = [in_numpy(policy)]
    actors.append(InTorch(policy).actor)
    for acts in actors:
        with pytest.raises(NoLegalAction, match=r"^rows ") as caught:
            acts.act(rows, noise)
        assert caught.value.rows.tolist() == stuck
        with pytest.raises(NoLegalAction, match=r"^envs ") as caught:
            acts.act(rows, None, env_ids)
        assert caught.value.rows.tolist() == env_ids[stuck].tolist()


# ---- numbers that are not finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weight", "log_std"])
def test_actions_that_are_not_finite_are_refused_by_both(where, value):
    policy = make_policy(Box(-1.0, 1.0, (2,), np.float32))
    with torch.no_grad():
        (policy.actor[-1].bias if where == "weight" else policy.head.log_std)[1] = value
    obs, noise = np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)
    actors = [in_numpy(policy)]
    actors.append(InTorch(policy).actor)
    for acts in actors:
        if where == "log_std" and value == -np.inf:  # no spread at all
            assert np.isfinite(acts.act(obs, noise)).all()
            continue
        with pytest.raises(NonFiniteError, match="the policy's actions are not finite"):
            acts.act(obs, noise)


def test_numbers_that_are_not_finite_raise_no_warning(recwarn):
    """What has become of them is what is looked at."""
    policy = make_policy()
    obs = np.array([[np.inf, -np.inf, 1e38]], np.float32)
    in_numpy(policy).act(obs, np.zeros((1, 3), np.float32))
    assert not recwarn.list


def test_large_outputs_overflow_nowhere():
    policy = make_policy(Box(-1.0, 1.0, (2,), np.float32))
    with torch.no_grad():
        policy.actor[-1].bias.fill_(1e30)
    acts = in_numpy(policy)
    actions = acts.act(np.ones((2, 3), np.float32), None)
    assert acts.to_env(actions).tolist() == [[1.0, 1.0]] * 2
