"""Rows 2, 5, 6, 9 to 12, the bootstrap of row 4, what row 13 shares, and that a learner can be continued."""

import copy
import dataclasses
import io
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import (
    Watch,
    identity_critic,
    log_prob,
    make_policy,
    make_rollout,
    numbered_batch,
    play,
    same_bits,
    sample_rows,
    vector_space,
    weights_of,
)
from torch import nn

from learner.actor import Actor
from learner.errors import NonFiniteError
from learner.losses import normalize
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.store import Store

SPACES = [gym.spaces.Discrete(3), gym.spaces.Box(-2.0, 1.0, (2,), np.float32)]
UNCLIPPED = 1e9


@pytest.fixture(autouse=True, params=["by-hand", "by-autograd"])
def kind_of_step(request, monkeypatch):
    """Everything here holds for both kinds of optimiser steps."""
    if request.param == "by-autograd":
        monkeypatch.setattr("learner.fused_step.fits", lambda policy: False)


def rng(seed=0):
    return np.random.default_rng(seed)


def learner_of(policy=None, **settings):
    return PPOLearner(make_policy() if policy is None else policy, PPOConfig(**settings))


def trainable(learner, *names):
    """Parameters by name, of the parts named (actor, critic, head) or of all."""
    return {
        name: p
        for name, p in learner.policy.named_parameters()
        if not names or name.partition(".")[0] in names
    }


def gradients(learner, *names):
    return {name: p.grad.clone() for name, p in trainable(learner, *names).items()}


def norm_of(tensors):
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors.values()))


# ---- row 2: Adam and its learning rate


def test_steps_are_adams_with_eps_1e_5_and_no_weight_decay():
    """Kingma & Ba 2015, algorithm 1, with the gradients that the product computed."""
    learner = learner_of(actor_lr=0.03, critic_lr=0.01, num_epochs=1, minibatch_size=64)
    batch = numbered_batch(learner.policy, 64)
    lr = {name: 0.01 if name.startswith("critic") else 0.03 for name in trainable(learner)}
    first = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in trainable(learner).items()}
    second = {name: m.clone() for name, m in first.items()}
    for t in range(1, 5):
        before = weights_of(learner.policy)
        learner.optimize(batch, rng(t))
        for name, p in trainable(learner).items():
            g = p.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g.square()
            m_hat, v_hat = first[name] / (1 - 0.9**t), second[name] / (1 - 0.999**t)
            expected = before[name].double() - lr[name] * m_hat / (v_hat.sqrt() + 1e-5)
            torch.testing.assert_close(p.detach().double(), expected, rtol=0.0, atol=1e-6)


def test_a_parameter_without_gradient_is_not_moved():
    learner = learner_of(actor_lr=0.1, ent_coef=0.0)
    batch = numbered_batch(learner.policy, 32)
    before = weights_of(learner.policy)
    learner.optimize(dataclasses.replace(batch, advantages=torch.zeros(32)), rng())
    after = weights_of(learner.policy)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("actor")


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 1.0), (0.25, 0.75), (0.9, 0.1), (1.0, 0.0), (1.5, 0.0)]
)
def test_annealing_is_linear_for_both_networks(progress, factor):
    learner = learner_of(actor_lr=0.02, critic_lr=0.05, anneal_lr=True, num_epochs=1, minibatch_size=64)
    batch = numbered_batch(learner.policy, 64)
    before = weights_of(learner.policy)
    metrics = learner.optimize(batch, rng(), progress)
    assert metrics["learning_rate"] == pytest.approx(0.02 * factor, abs=1e-12)
    for name, p in trainable(learner).items():
        lr = factor * (0.05 if name.startswith("critic") else 0.02)
        step = -lr * p.grad / (p.grad.abs() + 1e-5)  # Adam's first
        torch.testing.assert_close(p.detach() - before[name], step, rtol=0.0, atol=1e-6)


def test_without_annealing_progress_does_not_matter():
    results = []
    for progress in (0.0, 0.9):
        learner = learner_of()
        metrics = learner.optimize(numbered_batch(learner.policy, 64), rng(), progress)
        assert (metrics["learning_rate"], metrics["clip_range"]) == (1e-3, 0.2)
        results.append(weights_of(learner.policy))
    assert same_bits(*results)


@pytest.mark.parametrize(
    ("progress", "clip_range"), [(0.0, 0.4), (0.25, 0.3), (0.5, 0.2), (0.75, 0.1), (1.0, 0.0), (1.5, 0.0)]
)
def test_the_clip_range_is_annealed_linearly(progress, clip_range):
    """All actions have become 1.35 times likelier, and all of them were good."""
    learner = learner_of(clip_range=0.4, anneal_clip_range=True, normalize_advantage=False, num_epochs=1)
    batch = numbered_batch(learner.policy, 64)
    batch = dataclasses.replace(
        batch, log_probs=batch.log_probs - math.log(1.35), advantages=torch.full((64,), 2.0)
    )
    metrics = learner.optimize(batch, rng(), progress)
    assert metrics["clip_range"] == pytest.approx(clip_range, abs=1e-15)
    assert metrics["learning_rate"] == 1e-3  # that is annealed by a setting of its own
    assert metrics["policy_loss"] == pytest.approx(-2.0 * min(1.35, 1.0 + clip_range), rel=1e-5)
    assert metrics["clip_fraction"] == float(clip_range < 0.35)
    assert (norm_of(gradients(learner, "actor")) > 0.0) == (clip_range > 0.35)


def test_annealing_starts_anew_from_the_settings_each_time():
    learner = learner_of(clip_range=0.4, anneal_clip_range=True, anneal_lr=True)
    batch = numbered_batch(learner.policy, 32)
    for progress in (0.5, 0.5, 0.25):
        metrics = learner.optimize(batch, rng(), progress)
        assert metrics["clip_range"] == 0.4 * (1.0 - progress)
        assert metrics["learning_rate"] == 1e-3 * (1.0 - progress)


def test_a_tiny_critic_lr_leaves_the_critic_where_it_is_while_the_actor_moves():
    learner = learner_of(actor_lr=0.01, critic_lr=1e-12)
    before = weights_of(learner.policy)
    learner.update(play(learner.policy, [40, 20]), rng())
    for name, weights in weights_of(learner.policy).items():
        moved = float((weights - before[name]).abs().max())
        assert moved < 1e-8 if name.startswith("critic") else moved > 1e-3


# ---- row 5: minibatches


@pytest.mark.parametrize(("size", "minibatch", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 64, [3])])
def test_every_step_is_seen_once_per_epoch_in_a_new_order(size, minibatch, sizes):
    learner = learner_of(minibatch_size=minibatch, num_epochs=6)
    batch = numbered_batch(learner.policy, size)
    with Watch(learner) as watch:
        metrics = learner.optimize(batch, rng())
    assert metrics["minibatches"] == 6 * len(sizes)
    assert [len(rows) for rows in watch.rows] == 6 * sizes
    seen = [row for rows in watch.rows for row in rows]
    epochs = [seen[start : start + size] for start in range(0, 6 * size, size)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    orders = {tuple(epoch) for epoch in epochs}
    assert len(orders) >= (6 if size > 3 else 3)
    assert tuple(range(size)) not in orders or size == 3


def test_the_order_is_a_function_of_the_generator():
    orders = []
    for seed in (1, 1, 2):
        learner = learner_of(minibatch_size=4)
        batch = numbered_batch(learner.policy, 20)
        before = torch.get_rng_state()
        with Watch(learner) as watch:
            learner.optimize(batch, rng(seed))
        assert torch.equal(torch.get_rng_state(), before)
        orders.append(watch.rows)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


# ---- the gradient of a whole step (rows 6, 9 and the sign of everything)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("normalized", [True, False])
def test_the_first_gradient_is_that_of_the_policy_gradient_theorem(space, normalized):
    """At ratio 1 the surrogate's gradient is -A grad log pi; rows stay aligned through the shuffle."""
    policy = make_policy(space)
    learner = learner_of(
        policy, normalize_advantage=normalized, ent_coef=0.1, vf_coef=0.7, max_grad_norm=UNCLIPPED,
        num_epochs=1, minibatch_size=1000,
    )  # fmt: skip
    batch = learner.prepare(play(policy, [30, 20, 10]))
    advantages = batch.advantages
    if normalized:
        advantages = (advantages - advantages.mean()) / advantages.std()
    surrogate = -(advantages * log_prob(policy, batch.inputs, batch.actions)).mean()
    error = 0.5 * (policy.values(batch.inputs) - batch.returns).square().mean()
    entropy = policy.head.entropy(policy.outputs(batch.inputs, batch.masks)).mean()
    parameters = trainable(learner)
    expected = torch.autograd.grad(surrogate + 0.7 * error - 0.1 * entropy, list(parameters.values()))
    learner.optimize(batch, rng())
    for (name, found), wanted in zip(gradients(learner).items(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_advantages_are_normalised_within_each_minibatch():
    learner = learner_of(
        actor_lr=1e-12, minibatch_size=4, num_epochs=1, max_grad_norm=UNCLIPPED, vf_coef=0.0
    )  # fmt: skip
    policy = learner.policy
    batch = numbered_batch(policy, 8)
    batch = dataclasses.replace(batch, advantages=torch.arange(8.0) ** 3)
    with Watch(learner) as watch:
        learner.optimize(batch, rng())
    last = batch.rows(torch.tensor(watch.rows[-1]))
    surrogate = -(normalize(last.advantages) * log_prob(policy, last.inputs, last.actions)).mean()
    expected = torch.autograd.grad(surrogate, list(policy.actor.parameters()))
    for found, wanted in zip(policy.actor.parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, wanted, rtol=1e-3, atol=1e-6)


def test_a_minibatch_of_one_is_not_normalised():
    learner = learner_of(actor_lr=1e-12, minibatch_size=2, num_epochs=1)
    batch = numbered_batch(learner.policy, 3)
    batch = dataclasses.replace(batch, advantages=torch.tensor([10.0, 20.0, 40.0]))
    with Watch(learner) as watch:
        metrics = learner.optimize(batch, rng())
    (single,) = watch.rows[-1]
    # the first minibatch has the mean 0; the metric is the mean over both
    assert metrics["policy_loss"] == pytest.approx(-float(batch.advantages[single]) / 2.0, rel=1e-5)


def test_returns_are_never_normalised():
    learner = learner_of(actor_lr=1e-12, critic_lr=1e-12, minibatch_size=4, num_epochs=1)
    batch = numbered_batch(learner.policy, 8)
    batch = dataclasses.replace(batch, returns=100.0 + torch.arange(8.0))
    metrics = learner.optimize(batch, rng())
    error = 0.5 * (batch.values - batch.returns).double().square().mean()
    assert metrics["value_loss"] == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_the_entropy_bonus_carries_gradient(space):
    norms = []
    for ent_coef in (0.0, 0.01):
        learner = learner_of(make_policy(space), ent_coef=ent_coef, num_epochs=1, max_grad_norm=UNCLIPPED)
        batch = learner.prepare(play(learner.policy, [30]))
        learner.optimize(dataclasses.replace(batch, advantages=torch.zeros(30)), rng())
        norms.append(norm_of(gradients(learner, "actor", "head")))
    assert norms[0] == 0.0
    assert norms[1] > 1e-6


@pytest.mark.parametrize("space", SPACES)
def test_the_entropy_bonus_raises_the_entropy(space):
    learner = learner_of(make_policy(space), actor_lr=0.01, ent_coef=1.0)
    if isinstance(space, gym.spaces.Discrete):  # away from uniform, where there is nothing to gain
        learner.policy.actor[-1].bias.data += torch.tensor([1.0, 0.0, -1.0])
    batch = learner.prepare(play(learner.policy, [64]))
    batch = dataclasses.replace(batch, advantages=torch.zeros(64))
    losses = [learner.optimize(batch, rng(k))["entropy_loss"] for k in range(3)]
    assert losses[0] > losses[1] + 1e-3
    assert losses[1] > losses[2] + 1e-3


@pytest.mark.parametrize(
    ("settings", "moved", "pulled"),
    [
        ({}, 5.0, True),
        ({"clip_range_vf": 0.2}, 5.0, False),  # already far towards the return
        ({"clip_range_vf": 0.2}, 0.1, True),  # still inside the range
        ({"clip_range_vf": 0.2}, -5.0, True),  # far on the wrong side
    ],
)
def test_value_clipping_stops_values_that_have_moved_far_enough(settings, moved, pulled):
    learner = learner_of(num_epochs=1, **settings)
    batch = numbered_batch(learner.policy, 32)
    metrics = learner.optimize(
        dataclasses.replace(batch, values=batch.values - moved, returns=batch.values + 10.0), rng()
    )
    assert (norm_of(gradients(learner, "critic")) > 1e-3) == pulled
    assert metrics["value_loss"] == pytest.approx(0.5 * (9.8 + moved) ** 2 if not pulled else 50.0, rel=1e-4)


# ---- row 10: the gradient's norm


def test_the_norm_is_clipped_over_actor_and_critic_together():
    found = {}
    for bound in (UNCLIPPED, 0.05):
        learner = learner_of(make_policy(SPACES[1]), num_epochs=1, minibatch_size=100, max_grad_norm=bound)
        learner.update(play(learner.policy, [60, 40]), rng())
        found[bound] = gradients(learner)
    total = norm_of(found[UNCLIPPED])
    parts = {
        p: norm_of({n: g for n, g in found[UNCLIPPED].items() if n[:5] == p}) for p in ("actor", "criti")
    }
    assert min(parts.values()) > 0.05  # each part alone would be clipped, too
    assert norm_of(found[0.05]) == pytest.approx(0.05, rel=1e-4)
    for name, gradient in found[0.05].items():
        torch.testing.assert_close(gradient, found[UNCLIPPED][name] * (0.05 / total), rtol=1e-3, atol=1e-7)


def test_a_short_gradient_is_not_stretched():
    results = []
    for bound in (UNCLIPPED, 1e6):
        learner = learner_of(max_grad_norm=bound)
        learner.update(play(learner.policy, [50]), rng())
        results.append(weights_of(learner.policy))
    assert same_bits(*results)


# ---- row 11: the canary


@pytest.mark.parametrize("space", SPACES)
def test_the_ratio_is_1_in_the_first_minibatch_even_of_a_trained_policy(space):
    policy = make_policy(space, obs_dim=5)
    learner = learner_of(policy, actor_lr=0.01, minibatch_size=32)
    for k in range(4):
        metrics = learner.update(play(policy, [70, 1, 29], seed=k), rng(k))
        assert metrics["initial_ratio_error"] < 1e-5
        assert metrics["approx_kl"] > 1e-5  # and then the policy has moved


def test_the_canary_sings_when_log_probs_belong_to_other_rows():
    learner = learner_of(make_policy(SPACES[1]))
    batch = learner.prepare(play(learner.policy, [50]))
    metrics = learner.optimize(dataclasses.replace(batch, log_probs=batch.log_probs.roll(1)), rng())
    assert metrics["initial_ratio_error"] > 0.1


# ---- row 12: early stop


def test_early_stop_comes_before_the_step():
    learner = learner_of(actor_lr=0.01, minibatch_size=16, target_kl=1e-9)
    batch = numbered_batch(learner.policy, 64)
    with Watch(learner) as watch:
        metrics = learner.optimize(batch, rng())
    # the first minibatch has the divergence 0 and takes its step; the second one does not
    assert metrics["minibatches"] == len(watch.weights) == 2
    assert not same_bits(watch.weights[0], watch.weights[1])
    assert same_bits(weights_of(learner.policy), watch.weights[1])


def test_the_threshold_of_early_stop_is_1_5_times_the_target():
    def run(target_kl):
        learner = learner_of(actor_lr=0.01, minibatch_size=16, num_epochs=1, target_kl=target_kl)
        metrics = learner.optimize(numbered_batch(learner.policy, 32), rng())
        return weights_of(learner.policy), metrics["approx_kl"]

    free, mean_kl = run(None)
    kl = 2.0 * mean_kl  # of the second minibatch; that of the first is 0
    assert kl > 1e-6
    assert same_bits(run(kl / 1.49)[0], free)
    assert not same_bits(run(kl / 1.51)[0], free)


# ---- rows 3 and 4 through prepare: advantages computed by hand, V(obs) = obs


def column(*numbers):
    return np.array(numbers, np.float32)[:, None]


def test_prepare_bootstraps_from_the_final_observation_unless_terminated():
    learner = learner_of(identity_critic(make_policy(obs_dim=1)), gamma=0.9, gae_lambda=0.8)
    values, actions, rewards = column(0.5, 0.4, 0.3), np.zeros(3), [1.0, 2.0, 3.0]
    batch = learner.prepare(
        make_rollout(
            [
                (0, values, actions, rewards, True, [1.0]),  # V(final observation) must not count
                (1, values, actions, rewards, False, [1.0]),
            ]
        )
    )
    expected = [3.60608, 3.814, 2.7, 4.07264, 4.462, 3.6]
    np.testing.assert_allclose(batch.advantages, expected, atol=1e-6)
    np.testing.assert_allclose(batch.values, [0.5, 0.4, 0.3] * 2, atol=1e-7)
    np.testing.assert_allclose(batch.returns, np.array(expected) + [0.5, 0.4, 0.3] * 2, atol=1e-6)


def test_an_episode_that_goes_on_in_the_next_rollout_is_bootstrapped_where_it_was_cut():
    learner = learner_of(identity_critic(make_policy(obs_dim=1)), gamma=0.9, gae_lambda=0.8)
    values, actions, rewards = column(0.5, 0.4, 0.3), np.zeros(3), [1.0, 2.0, 3.0]
    batch = learner.prepare(
        make_rollout(
            [
                (0, values, actions, rewards, False, [1.0]),  # cut, and goes on with what it was cut at
                (0, column(1.0), [0], [5.0], True, [9.0]),
                (1, values, actions, rewards, False, [1.0]),
            ],
            continues=[0, 2],
        )
    )
    golden = [4.07264, 4.462, 3.6]
    np.testing.assert_allclose(batch.advantages, [*golden, 4.0, *golden], atol=1e-6)


def test_every_env_is_bootstrapped_from_its_own_final_observation():
    """Through the store: envs of different lengths, with ends in another order than that of the envs."""
    learner = learner_of(identity_critic(make_policy(obs_dim=1)), gamma=0.5, gae_lambda=0.0)
    policy = learner.policy
    store = Store(policy.observation_space, policy.head.action_space, 4)
    lengths, terminated = np.array([3, 1, 2, 1]), np.array([False, False, True, False])
    for step in range(3):
        ids = np.flatnonzero(lengths > step)
        ended = lengths[ids] == step + 1
        store.add_actions(ids, np.zeros((len(ids), 1)), np.zeros(len(ids)))
        final = (1.0 + ids[:, None]).astype(np.float32)
        store.add_outcomes(ids, final, np.zeros(len(ids)), ended & terminated[ids], ended)
    batch = learner.prepare(store.rollout())
    # one-step advantages: 0 within an episode, half of V(final) = env + 1 at its end
    np.testing.assert_allclose(batch.advantages, [0.0, 0.0, 0.5, 1.0, 0.0, 0.0, 2.0])


def test_prepare_carries_no_gradient_and_changes_nothing():
    learner = learner_of()
    before = weights_of(learner.policy)
    batch = learner.prepare(play(learner.policy, [5, 3]))
    assert len(batch) == 8
    columns = [getattr(batch, item.name) for item in dataclasses.fields(Batch)]
    assert not any(column.requires_grad for column in columns if isinstance(column, torch.Tensor))
    assert same_bits(weights_of(learner.policy), before)


@pytest.mark.parametrize("space", SPACES)
def test_known_values_and_log_probs_are_taken_as_they_are(space):
    learner = learner_of(make_policy(space))
    rollout = play(learner.policy, [5, 3])
    prepared = learner.prepare(rollout)
    columns = (prepared.actions, prepared.log_probs - 1.0, prepared.values + 2.0)
    known = learner.with_advantages(rollout, learner.policy, (prepared.inputs, prepared.masks, *columns))
    torch.testing.assert_close(known.log_probs, prepared.log_probs - 1.0)
    torch.testing.assert_close(known.values, prepared.values + 2.0)
    torch.testing.assert_close(known.returns, known.advantages + known.values)
    last = torch.as_tensor(rollout.ends)
    torch.testing.assert_close(known.advantages[last], prepared.advantages[last] - 2.0)


def test_a_rollout_of_older_weights_is_prepared_with_these():
    """The first ratio is then not 1, and `initial_ratio_error` still is rounding error."""
    learner = learner_of(num_epochs=1, minibatch_size=64)
    older = copy.deepcopy(learner.policy)
    rollout = play(older, [20, 12])
    learner.update(play(learner.policy, [64]), rng())
    expected = learner_of(older).prepare(rollout)
    batch = learner.prepare(rollout, older)
    for name in ("log_probs", "values", "advantages", "returns"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert not torch.equal(batch.log_probs, learner.prepare(rollout).log_probs)
    metrics = learner.optimize(batch, rng())
    assert metrics["initial_ratio_error"] < 1e-5
    assert metrics["approx_kl"] > 1e-6  # of the older weights from the present ones


# ---- row 13: an encoder that actor and critic share; observations of other kinds

IMAGE = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
MASKED = gym.spaces.Dict(obs=vector_space(3), action_mask=gym.spaces.MultiBinary(3))
MIXED = gym.spaces.Dict(image=IMAGE, numbers=vector_space(2), kind=gym.spaces.Discrete(3))


def rollout_of(policy, lengths, seed=0):
    """Random observations of any space, in which the policy itself has acted."""
    space, generator, episodes = policy.observation_space, rng(seed), []
    obs = sample_rows(space, sum(lengths) + len(lengths), seed)
    if space is MASKED:
        obs[:, -1] = 1  # or there might be nothing to choose
    noise = policy.head.draw_noise(generator, len(obs))
    actions = Actor(policy).act(obs, noise)
    for env, (length, start) in enumerate(zip(lengths, np.cumsum([0, *lengths[:-1]]), strict=True)):
        part = slice(start, start + length)
        rewards = generator.standard_normal(length)
        episodes.append((env, obs[part], actions[part], rewards, env % 2 == 0, obs[-1 - env]))
    rollout = make_rollout(episodes, policy.head.action_space.dtype)
    return dataclasses.replace(
        rollout, obs=rollout.obs.astype(obs.dtype), final_obs=rollout.final_obs.astype(obs.dtype)
    )


@pytest.mark.parametrize(
    "space", [IMAGE, MASKED, MIXED, gym.spaces.Discrete(4)], ids=["image", "masked", "mixed", "choice"]
)
def test_updates_from_observations_of_every_kind(space):
    policy = ActorCritic(space, gym.spaces.Discrete(3), (16,), normalize_obs=True)
    learner = learner_of(policy, actor_lr=1e-3, num_epochs=2, minibatch_size=16)
    for k in range(2):
        before = weights_of(policy)
        metrics = learner.update(rollout_of(policy, [20, 1, 11], seed=k), rng(k))
        assert metrics["initial_ratio_error"] < 1e-5
        assert metrics["minibatches"] == 4
        assert metrics["skipped_minibatches"] == 0
        after = weights_of(policy)
        assert not any(torch.equal(before[name], after[name]) for name in trainable(learner))


def test_a_shared_encoder_learns_from_both_losses_once_and_with_the_actors_step_size():
    policy = ActorCritic(vector_space(3), SPACES[1], (16,), encoder=nn.Linear(3, 5))
    learner = learner_of(
        policy, actor_lr=0.02, critic_lr=0.05, vf_coef=0.7, num_epochs=1, max_grad_norm=UNCLIPPED
    )
    batch = learner.prepare(play(policy, [30, 20]))
    before, parameters = weights_of(policy), trainable(learner, "encoder")
    outputs, values = policy.outputs_and_values(batch.inputs, batch.masks)
    surrogate = -(normalize(batch.advantages) * policy.head.log_prob(outputs, batch.actions)).mean()
    error = 0.5 * (values - batch.returns).square().mean()
    parts = [
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for loss in (surrogate, 0.7 * error)
    ]
    learner.optimize(batch, rng())
    for (name, p), of_actor, of_critic in zip(parameters.items(), *parts, strict=True):
        assert of_actor.abs().max() > 1e-4
        assert of_critic.abs().max() > 1e-4
        torch.testing.assert_close(p.grad, of_actor + of_critic, rtol=1e-3, atol=1e-6)
        step = -0.02 * p.grad / (p.grad.abs() + 1e-5)  # Adam's first
        torch.testing.assert_close(p.detach() - before[name], step, rtol=0.0, atol=1e-5)


def test_the_norm_is_clipped_over_a_shared_encoder_as_well():
    learner = learner_of(
        ActorCritic(vector_space(3), SPACES[1], (16,), encoder=nn.Linear(3, 5)),
        num_epochs=1,
        max_grad_norm=0.05,
    )
    learner.update(play(learner.policy, [50]), rng())
    assert norm_of(gradients(learner, "encoder")) > 0.0
    assert norm_of(gradients(learner)) == pytest.approx(0.05, rel=1e-4)


def test_frozen_parts_of_an_own_encoder_stay_as_they_are():
    encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    encoder[0].requires_grad_(False)
    policy = ActorCritic(vector_space(3), gym.spaces.Discrete(3), encoder=encoder)
    learner, before = learner_of(policy, actor_lr=0.01), weights_of(encoder)
    learner.update(play(policy, [30]), rng())
    after = weights_of(encoder)
    assert [name for name in before if torch.equal(before[name], after[name])] == ["0.weight", "0.bias"]


# ---- what may add to the advantages


class Curious:
    """Adds numbers that tell the rows apart, and records its calls. An `Exploration` and its own update."""

    def __init__(self):
        self.calls, self.rows = [], []

    def begin(self, rollout):
        self.calls.append("begin")
        self.advantages = np.arange(len(rollout)) * 1000.0
        return self

    def learn(self, rows):
        self.calls.append("learn")
        self.rows.append(rows.tolist())

    def finish(self):
        self.calls.append("finish")
        return {"curiosity": 7.0}

    def state_dict(self):
        return {"calls": len(self.calls)}

    def load_state_dict(self, state):
        self.loaded = state


def test_exploration_adds_to_advantages_and_to_nothing_else():
    curious = Curious()
    learner = PPOLearner(make_policy(), PPOConfig(), exploration=curious)
    rollout = play(learner.policy, [5, 3])
    batch, plain = learner.prepare(rollout), learner_of().prepare(rollout)
    torch.testing.assert_close(batch.advantages, plain.advantages + 1000.0 * torch.arange(8))
    for name in ("inputs", "actions", "log_probs", "values", "returns"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))


def test_exploration_learns_the_rows_of_each_minibatch_after_its_step():
    curious = Curious()
    learner = PPOLearner(make_policy(), PPOConfig(num_epochs=2, minibatch_size=4), exploration=curious)
    batch = numbered_batch(learner.policy, 10, curious)
    with Watch(learner) as watch:
        metrics = learner.optimize(batch, rng())
    assert curious.rows == watch.rows
    assert curious.calls == ["learn"] * 6 + ["finish"]
    assert metrics["curiosity"] == 7.0


def test_exploration_does_not_learn_from_the_minibatch_that_stops_the_update():
    curious = Curious()
    settings = {"actor_lr": 0.01, "minibatch_size": 16, "target_kl": 1e-9}
    learner = PPOLearner(make_policy(), PPOConfig(**settings), exploration=curious)
    assert learner.optimize(numbered_batch(learner.policy, 64, curious), rng())["minibatches"] == 2
    assert curious.calls == ["learn", "finish"]


def test_exploration_is_part_of_the_saved_state():
    learner = PPOLearner(make_policy(), PPOConfig(), exploration=Curious())
    learner.update(play(learner.policy, [5]), rng())
    state = learner.state_dict()
    assert state["exploration"] == {"calls": 1 + 10 + 1}
    other = PPOLearner(make_policy(), PPOConfig(), exploration=Curious())
    other.load_state_dict(state)
    assert other.exploration.loaded == state["exploration"]


# ---- gradients that are not finite


def broken(batch, rows, value=math.nan):
    advantages = batch.advantages.clone()
    advantages[rows] = value
    return dataclasses.replace(batch, advantages=advantages)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_minibatch_whose_gradient_is_not_finite_is_skipped(value):
    learner = learner_of(minibatch_size=8, num_epochs=6)
    before = weights_of(learner.policy)
    batch = broken(numbered_batch(learner.policy, 32), [3], value)
    with Watch(learner) as watch:
        metrics = learner.optimize(batch, rng())
    assert metrics["skipped_minibatches"] == 6  # more than three, but not in a row
    assert metrics["minibatches"] == 24
    seen = [*watch.weights, weights_of(learner.policy)]
    for number, rows in enumerate(watch.rows):
        assert same_bits(seen[number], seen[number + 1]) == (3 in rows)
    assert all(torch.isfinite(tensor).all() for tensor in seen[-1].values())
    assert not same_bits(seen[-1], before)


def test_three_in_a_row_end_the_update_with_the_last_good_weights():
    learner = learner_of(minibatch_size=8)
    batch = numbered_batch(learner.policy, 32)
    before = weights_of(learner.policy)
    with Watch(learner) as watch, pytest.raises(NonFiniteError, match="3 minibatches in a row"):
        learner.optimize(broken(batch, slice(None)), rng())
    assert len(watch.rows) == 3
    assert same_bits(weights_of(learner.policy), before)
    assert learner.optimize(batch, rng())["skipped_minibatches"] == 0  # and it can go on


def test_bad_minibatches_in_a_row_are_counted_over_updates_and_states():
    learner = learner_of(minibatch_size=8, num_epochs=1)
    bad = broken(numbered_batch(learner.policy, 16), slice(None))
    assert learner.optimize(bad, rng())["skipped_minibatches"] == 2
    resumed = learner_of(minibatch_size=8, num_epochs=1)
    resumed.load_state_dict(learner.state_dict())
    for one in (learner, resumed):
        with pytest.raises(NonFiniteError, match="3 minibatches in a row"), Watch(one) as watch:
            one.optimize(bad, rng())
        assert len(watch.rows) == 1


def test_a_broken_return_is_caught_as_well():
    learner = learner_of(minibatch_size=8)
    batch = numbered_batch(learner.policy, 32)
    before = weights_of(learner.policy)
    with pytest.raises(NonFiniteError):
        learner.optimize(dataclasses.replace(batch, returns=batch.returns * math.inf), rng())
    assert same_bits(weights_of(learner.policy), before)


# ---- saving by continuing


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("anneal_lr", [False, True])
def test_one_update_then_save_load_and_another_equal_two(space, anneal_lr):
    settings = {"actor_lr": 0.003, "minibatch_size": 16, "anneal_lr": anneal_lr, "ent_coef": 0.01}
    rollouts = [play(make_policy(space), [30, 20], seed=k) for k in range(2)]

    straight = learner_of(make_policy(space), **settings)
    straight.update(rollouts[0], rng(0), 0.0)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    straight_metrics = straight.update(rollouts[1], rng(1), 0.5)

    file.seek(0)
    resumed = learner_of(make_policy(space, seed=99), **settings)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed_metrics = resumed.update(rollouts[1], rng(1), 0.5)

    assert same_bits(weights_of(straight.policy), weights_of(resumed.policy))
    assert straight_metrics == resumed_metrics


def test_the_optimizers_state_is_part_of_the_saved_state():
    learner = learner_of()
    learner.update(play(learner.policy, [50]), rng())
    weights_only = learner_of()
    weights_only.policy.load_state_dict(learner.policy.state_dict())
    for continued in (learner, weights_only):
        continued.update(play(make_policy(), [50], seed=1), rng(1))
    assert not same_bits(weights_of(learner.policy), weights_of(weights_only.policy))


# ---- the whole


@pytest.mark.parametrize("space", SPACES)
def test_updates_are_reproducible_bit_for_bit(space):
    results = []
    for _ in range(2):
        learner = learner_of(make_policy(space))
        learner.update(play(learner.policy, [30, 40]), rng(3))
        results.append(weights_of(learner.policy))
    assert same_bits(*results)


def test_the_smallest_possible_batch():
    learner = learner_of()
    metrics = learner.update(play(learner.policy, [1]), rng())
    assert math.isnan(metrics.pop("explained_variance"))
    assert all(math.isfinite(value) for value in metrics.values())


def test_good_actions_become_likelier_and_bad_ones_less_likely():
    learner = learner_of(actor_lr=0.01)
    batch = numbered_batch(learner.policy, 96)
    batch = dataclasses.replace(batch, advantages=(batch.actions == 1).float() - (batch.actions == 2).float())
    learner.optimize(batch, rng())
    with torch.no_grad():
        probs = torch.softmax(learner.policy.outputs(batch.inputs, batch.masks), 1).mean(0)
    assert probs[1] > 0.4
    assert probs[2] < 0.26
