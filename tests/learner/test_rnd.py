"""Random Network Distillation: novelty, its scale and its advantages; and it finds what chance does not."""

import copy
import dataclasses
import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import make_policy, make_rollout, same_bits, vector_space

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.rnd import RND, ReturnFilter
from learner.spaces import row_field
from prl.async_ppo import AsyncPPO
from prl.chain import Chain
from prl.config.train_config import TrainConfig
from prl.quickstart import PPO
from prl.run.build import build_learner
from prl.run.weights import weights_sha256
from prl.training.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool

SMALL = {"coef": 1.0, "hidden_sizes": (32, 32)}


@pytest.fixture(autouse=True, params=["by-hand", "by-autograd"])
def kind_of_step(request, monkeypatch):
    """Everything here holds for both kinds of optimiser steps."""
    if request.param == "by-autograd":
        monkeypatch.setattr("learner.fused_rnd.fits", lambda networks: False)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_rollout(lengths=(4, 3, 5), envs=(0, 0, 1), size=3, seed=0, shift=0.0):
    """Episodes of random observations; every other one ends in a terminal state."""
    rng = np.random.default_rng(seed)
    obs = [rng.standard_normal((length + 1, size)) + shift for length in lengths]
    return make_rollout(
        [
            (env, o[:-1], np.zeros(n, np.int64), rng.standard_normal(n), episode % 2 == 0, o[-1])
            for episode, (env, n, o) in enumerate(zip(envs, lengths, obs, strict=True))
        ]
    )


def rollout_in(space, steps=6, seed=0):
    """Two envs, one unfinished episode each, of observations drawn from any space."""
    shape, dtype = row_field(space)
    rng = np.random.default_rng(seed)

    def rows(count):
        high = int(space.n) if isinstance(space, gym.spaces.Discrete) else 256 if dtype == np.uint8 else 2
        return rng.integers(0, high, (count, *shape)).astype(dtype)

    base = random_rollout((steps, steps), (0, 1))
    return dataclasses.replace(base, obs=rows(2 * steps), final_obs=rows(2), continues=np.ones(2, bool))


def learn(rnd, rollout, epochs=4, batch=8, seed=0):
    """One update as `PPOLearner` does it: (advantages, metrics)."""
    rng = np.random.default_rng(seed)
    update = rnd.begin(rollout)
    for _ in range(epochs):
        order = rng.permutation(len(rollout))
        for start in range(0, len(rollout), batch):
            update.learn(order[start : start + batch])
    return update.advantages, update.finish()


def novelty(rnd, obs):
    """The raw intrinsic reward of observations [S, *O], f64[S]."""
    with torch.no_grad():
        inputs = rnd.networks.preprocess(torch.as_tensor(obs))
        error = (rnd.networks.predictor(inputs) - rnd.networks.target(inputs)).square().mean(dim=1)
    return error.double().numpy()


def values_of(rnd, obs):
    with torch.no_grad():
        return rnd.networks.critic(rnd.networks.preprocess(torch.as_tensor(obs)))[:, 0].double().numpy()


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---- novelty


def test_the_target_never_changes():
    rnd = RND(vector_space(3), **SMALL)
    target, predictor = (
        copy.deepcopy(net.state_dict()) for net in (rnd.networks.target, rnd.networks.predictor)
    )
    learn(rnd, random_rollout())
    assert not any(parameter.requires_grad for parameter in rnd.networks.target.parameters())
    assert same_bits(rnd.networks.target.state_dict(), target)
    assert not same_bits(rnd.networks.predictor.state_dict(), predictor)
    assert any(name.startswith("target.") for name in rnd.state_dict()["networks"])


def test_what_was_seen_often_is_no_longer_new():
    rnd = RND(vector_space(3), **SMALL)
    seen = random_rollout((60,), (0,))
    losses = [learn(rnd, seen, batch=20)[1]["rnd_loss"] for _ in range(30)]
    assert losses[-1] < 0.05 * losses[0]
    unseen = random_rollout((60,), (0,), seed=1, shift=3.0)
    assert novelty(rnd, unseen.next_obs()).mean() > 5.0 * novelty(rnd, seen.next_obs()).mean()


def test_the_advantage_prefers_the_new_state():
    """Env 0 visits known states, env 1 new ones."""
    rnd = RND(vector_space(3), **SMALL)
    for seed in range(20):
        learn(rnd, random_rollout((30, 30), (0, 1), seed=seed), batch=20)
    new = random_rollout((30,), (1,), seed=100, shift=3.0)
    both = random_rollout((30, 30), (0, 1), seed=101)
    obs = np.concatenate([both.obs[:30], new.obs])
    final = np.concatenate([both.final_obs[:1], new.final_obs])
    advantages = rnd.begin(dataclasses.replace(both, obs=obs, final_obs=final)).advantages
    assert advantages[30:].mean() > advantages[:30].max()


def test_the_networks_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = RND(vector_space(3), **SMALL)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(2)
    assert same_bits(one.networks.state_dict(), RND(vector_space(3), **SMALL).networks.state_dict())
    other = RND(vector_space(3), seed=1, **SMALL).networks.target.layers[0].weight
    assert not torch.equal(one.networks.target.layers[0].weight, other)
    actor = make_policy(hidden_sizes=(32, 32)).actor[0].weight
    assert not torch.equal(one.networks.target.layers[0].weight, actor), "the policy's weights"


def test_statistics_are_frozen_while_they_are_in_use():
    rnd = RND(vector_space(3), **SMALL)
    normalizer = rnd.networks.encoder.normalizer
    first, second = random_rollout(seed=0), random_rollout(seed=1)
    learn(rnd, first)
    mean = normalizer.mean.clone()
    # The first rollout stands in for the random steps of the paper, too.
    np.testing.assert_allclose(mean, first.next_obs().astype(np.float64).mean(axis=0), rtol=1e-12)
    update = rnd.begin(second)
    update.learn(np.arange(len(second)))
    assert torch.equal(normalizer.mean, mean)
    update.finish()
    all_three = np.concatenate([first.next_obs(), first.next_obs(), second.next_obs()]).astype(np.float64)
    np.testing.assert_allclose(normalizer.mean, all_three.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.var, all_three.var(axis=0), rtol=1e-12)


# ---- scale and advantages


def test_the_filter_runs_on_within_each_env():
    scaler = ReturnFilter(0.99)
    rewards, env_ids = np.ones(6), np.array([0, 0, 0, 2, 2, 2])
    scaled = scaler.scaled(rewards, env_ids)
    sums = np.array([1.0, 1.99, 2.9701] * 2)
    np.testing.assert_allclose(scaler.sums, [2.9701, 0.0, 2.9701], rtol=1e-12)
    assert scaler.std == pytest.approx(sums.std(), rel=1e-12)
    np.testing.assert_allclose(scaled, 1.0 / sums.std(), rtol=1e-6)
    scaler.scaled(np.ones(1), np.array([2]))
    assert scaler.sums[2] == pytest.approx(1.0 + 0.99 * 2.9701, rel=1e-12)


def slow_advantages(rewards, values, next_values, env_ids, gamma, gae_lambda):
    """A_t = sum over k >= t of the same env of (gamma lambda)^(k - t) delta_k, in O(T^2)."""
    deltas = rewards + gamma * next_values - values
    steps = range(len(rewards))
    return np.array(
        [
            sum(
                (gamma * gae_lambda) ** (k - t) * deltas[k]
                for k in steps
                if k >= t and env_ids[k] == env_ids[t]
            )
            for t in steps
        ]
    )


def test_advantages_against_a_slow_reference():
    """Episodes of env 0 end terminated and truncated on the way: neither cuts, and no value is 0."""
    rnd = RND(vector_space(3), coef=0.25, gamma=0.9, gae_lambda=0.8, hidden_sizes=(32, 32))
    learn(rnd, random_rollout(seed=7))
    rollout = random_rollout((3, 1, 4, 2), (0, 0, 0, 1))
    values, finals = values_of(rnd, rollout.obs), values_of(rnd, rollout.final_obs)
    # What each env shows next: after the ends in rows 2 and 3 the first observation of the next episode.
    next_values = np.array([*values[1:8], finals[2], values[9], finals[3]])
    raw = novelty(rnd, rollout.next_obs())
    found = rnd.begin(rollout).advantages
    scaled = raw / np.sqrt(rnd.returns.std**2 + 1e-8)
    want = 0.25 * slow_advantages(scaled, values, next_values, rollout.env_ids, 0.9, 0.8)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
    assert found.dtype == np.float64


def test_the_critic_learns_the_returns():
    rnd = RND(vector_space(3), lr=3e-3, **SMALL)
    rollout = random_rollout((40,), (0,))
    update = rnd.begin(rollout)
    returns = update.batch.returns.double().numpy()
    before = np.square(values_of(rnd, rollout.obs) - returns).mean()
    for _ in range(300):
        update.learn(np.arange(len(rollout)))
    assert np.square(values_of(rnd, rollout.obs) - returns).mean() < 0.05 * before


@pytest.mark.parametrize("metric", ["rnd_reward_mean", "rnd_reward_std"])
def test_metrics_are_of_raw_rewards(metric):
    rnd = RND(vector_space(3), **SMALL)
    learn(rnd, random_rollout())
    raw = novelty(rnd, random_rollout(seed=1).next_obs())
    _, metrics = learn(rnd, random_rollout(seed=1))
    assert metrics[metric] == pytest.approx(getattr(raw, metric.rpartition("_")[2])(), rel=1e-5)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights():
    rnd = RND(vector_space(3), **SMALL)
    rollout = random_rollout()
    update = rnd.begin(rollout)
    update.batch.targets[0] = float("nan")
    before = copy.deepcopy(rnd.networks.state_dict())
    update.learn(np.arange(len(rollout)))
    assert same_bits(rnd.networks.state_dict(), before)


def test_the_gradients_norm_is_bounded_over_predictor_and_critic_together():
    def norm_after(max_grad_norm):
        rnd = RND(vector_space(3), **SMALL, max_grad_norm=max_grad_norm)
        rollout = random_rollout()
        rnd.begin(rollout).learn(np.arange(len(rollout)))
        learnt = [p for p in rnd.networks.parameters() if p.requires_grad]
        return float(torch.stack([p.grad.norm() for p in learnt]).norm())

    free = norm_after(1e9)
    assert free > 0.2
    assert norm_after(0.1) == pytest.approx(0.1, rel=1e-4)
    assert norm_after(2.0 * free) == pytest.approx(free, rel=1e-6)


@pytest.mark.parametrize(
    "space", [vector_space(3), gym.spaces.Box(0, 255, (36, 36), np.uint8)], ids=["vector", "image"]
)
def test_observations_are_clipped_to_five_standard_deviations(space):
    rnd = RND(space, **SMALL)
    rollout = random_rollout() if space.shape == (3,) else rollout_in(space)
    learn(rnd, rollout)
    far = np.full((2, *space.shape), 255, space.dtype)
    if space.shape == (3,):
        far[0], far[1] = 1e6, -1e6
        assert rnd.networks.preprocess(torch.as_tensor(far)).tolist() == [[5.0] * 3, [-5.0] * 3]
    assert float(rnd.networks.preprocess(torch.as_tensor(far)).abs().max()) <= 5.0


def test_the_settings_of_a_run_reach_it():
    config = TrainConfig(
        env_id="CartPole-v1",
        rnd=True,
        rnd_coef=0.7,
        rnd_gamma=0.8,
        rnd_lr=2e-4,
        gae_lambda=0.6,
        max_grad_norm=0.3,
        hidden_sizes=(7,),
        seed=5,
    )
    rnd = build_learner(make_policy(), config).exploration
    same = RND(vector_space(3), coef=0.7, hidden_sizes=(7,), seed=5)
    assert (rnd.coef, rnd.gamma, rnd.returns.gamma, rnd.gae_lambda) == (0.7, 0.8, 0.8, 0.6)
    assert (rnd.max_grad_norm, rnd.lr) == (0.3, 2e-4)
    assert same_bits(rnd.networks.state_dict(), same.networks.state_dict())


def test_the_quick_starts_beta_is_its_weight():
    ppo = PPO(is_continuous=False, action_dim=2, observ_dim=3, use_RND=True, beta=0.7, GAE_lambda=0.6)
    rnd = ppo.learner.exploration
    assert (rnd.coef, rnd.gamma, rnd.gae_lambda) == (0.7, 0.99, 0.6)


def test_an_update_without_a_step_has_no_losses():
    rnd = RND(vector_space(3), **SMALL)
    learn(rnd, random_rollout())
    metrics = rnd.begin(random_rollout()).finish()
    assert np.isnan([metrics["rnd_loss"], metrics["rnd_value_loss"]]).all()
    assert metrics["rnd_reward_mean"] > 0.0


def test_updates_of_two_rollouts_do_not_share_losses():
    rnd = RND(vector_space(3), **SMALL)
    first, second = rnd.begin(random_rollout()), rnd.begin(random_rollout(seed=1))
    first.learn(np.arange(12))
    assert first.finish()["rnd_loss"] > 0.0
    assert np.isnan(second.finish()["rnd_loss"])


# ---- spaces

IMAGE = gym.spaces.Box(0, 255, (84, 84, 1), np.uint8)
SPACES = {
    "discrete": gym.spaces.Discrete(5),
    "binary": gym.spaces.MultiBinary(4),
    "image": IMAGE,
    "stack": gym.spaces.Box(0, 255, (2, 40, 36), np.uint8),
    "floats": gym.spaces.Box(0.0, 1.0, (40, 36), np.float32),
    "dict": gym.spaces.Dict(
        {"eye": IMAGE, "n": gym.spaces.MultiBinary(2), "action_mask": gym.spaces.MultiBinary(3)}
    ),
    "tuple": gym.spaces.Tuple((gym.spaces.MultiBinary(3), gym.spaces.Box(0, 255, (2,), np.uint8))),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_kind_of_observation(name):
    rnd = RND(SPACES[name], lr=1e-3, **SMALL)
    rollout = rollout_in(SPACES[name])
    advantages, first = learn(rnd, rollout, epochs=2)
    assert advantages.shape == (len(rollout),)
    assert np.isfinite(advantages).all()
    for _ in range(4):
        _, last = learn(rnd, rollout, epochs=2)
    assert last["rnd_loss"] < 0.7 * first["rnd_loss"]
    assert all(np.isfinite(value) for value in last.values())
    if name == "dict":
        assert rnd.networks.target.layers[0].in_features == 512 + 2, "the mask is no observation"


def test_more_choices_than_memory_holds_are_refused():
    with pytest.raises(ValueError, match=r"^262,145 choices are too many: .*without --rnd"):
        RND(gym.spaces.Discrete(2**18 + 1), **SMALL)


def test_images_are_normalised_per_pixel():
    rnd = RND(IMAGE, **SMALL)
    rollout = rollout_in(IMAGE)
    rnd.begin(rollout)
    pixels = rollout.next_obs().astype(np.float64).transpose(0, 3, 1, 2).reshape(12, -1)
    want = ((pixels - pixels.mean(axis=0)) / pixels.std(axis=0)).clip(-5.0, 5.0)
    found = rnd.networks.preprocess(torch.as_tensor(rollout.next_obs()))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_an_unseen_choice_is_new():
    rnd = RND(gym.spaces.Discrete(5), **SMALL)
    rollout = dataclasses.replace(
        rollout_in(gym.spaces.Discrete(5)), obs=np.arange(12) % 3, final_obs=np.array([0, 1])
    )
    for _ in range(40):
        learn(rnd, rollout)
    errors = novelty(rnd, np.arange(5))
    assert errors[3:].min() > 30.0 * errors[:3].max()


# ---- in training

CARTPOLE = vector_space(4)


def trained(
    pool,
    iterations,
    *,
    space=CARTPOLE,
    hidden_sizes=(16, 16),
    rnd=None,
    seed=3,
    num_steps=None,
    state=None,
    **settings,
):
    """The trainer and its last report."""
    policy = ActorCritic(space, gym.spaces.Discrete(2), hidden_sizes, seed)
    exploration = None if rnd is None else RND(space, hidden_sizes=hidden_sizes, **rnd)
    config = PPOConfig(**({"num_epochs": 2, "minibatch_size": 64} | settings))
    trainer = Trainer(
        pool,
        PPOLearner(policy, config, exploration),
        batch_size=128,
        total_timesteps=10_000,
        seed=seed,
        num_steps=num_steps,
    )
    if state is not None:
        trainer.load_state_dict(state)
    for count, report in enumerate(trainer.iterations(), start=1):
        if count == iterations:
            return trainer, report


def cartpole(num_envs=4):
    return InlinePool(env_factory("CartPole-v1"), num_envs)


def sha(trainer):
    return weights_sha256(trainer.learner.policy)


def test_a_weight_of_0_is_plain_ppo():
    hashes = []
    for rnd in (None, {"coef": 0.0}, {"coef": 0.5}):
        with cartpole() as pool:
            hashes.append(sha(trained(pool, 3, rnd=rnd)[0]))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("num_steps", [None, 32])
def test_metrics_of_both_kinds_of_rounds(num_steps):
    with cartpole() as pool:
        _, report = trained(pool, 2, rnd={"coef": 0.5}, num_steps=num_steps)
    for name in ("loss", "reward_mean", "reward_std", "value_loss", "return_std"):
        assert report.metrics[f"train/rnd_{name}"] > 0.0


def test_continuing_is_not_stopping():
    with cartpole() as pool:
        straight, _ = trained(pool, 4, rnd={"coef": 0.5})
    with cartpole() as pool:
        half = through_a_file(trained(pool, 2, rnd={"coef": 0.5})[0].state_dict())
    with cartpole() as pool:
        other = {"coef": 0.5, "seed": 99}  # everything must come from the state
        resumed, _ = trained(pool, 2, rnd=other, state=half)
    assert sha(resumed) == sha(straight)
    one, two = (t.learner.exploration.state_dict() for t in (resumed, straight))
    assert same_bits(one["networks"], two["networks"])
    assert same_bits(one["returns"], two["returns"])
    assert len(one["returns"]["running"]) == 4


def test_workers_give_the_same_bits():
    with cartpole() as pool:
        want = sha(trained(pool, 2, rnd={"coef": 0.5})[0])
    with ProcessPool(env_factory("CartPole-v1"), 4, 2) as pool:
        assert sha(trained(pool, 2, rnd={"coef": 0.5})[0]) == want


def quick(**changes):
    return PPO(False, 2, 4, batch_size=64, mini_batch_size=64, k_epochs=2, hidden_sizes=(16, 16), **changes)


def test_the_quick_start_explores():
    hashes = set()
    for beta, use_rnd in ((0.0, True), (0.5, True), (0.5, False)):
        ppo = quick(use_RND=use_rnd, beta=beta)
        AsyncPPO("CartPole-v1", ppo, num_envs=3, steps=200, num_workers=0).run()
        hashes.add((use_rnd and beta > 0.0, weights_sha256(ppo.policy)))
    assert len(hashes) == 2


# ---- probe 12: a chain of 14 states, whose reward a random policy finds once in 2**13 episodes

CHAIN = {
    "hidden_sizes": (64, 64),
    "num_epochs": 4,
    "minibatch_size": 52,
    "actor_lr": 1e-3,
    "critic_lr": 2.5e-3,
    "ent_coef": 0.01,
}


@pytest.mark.parametrize("seed", [1, 2])
def test_12_a_reward_at_the_end_of_a_chain_is_found(seed):
    factory = env_factory(lambda: Chain(length=14), max_episode_steps=13)
    returns = {}
    for name, rnd in (("plain", None), ("rnd", {"coef": 0.5, "seed": seed})):
        with InlinePool(factory, 16) as pool:
            _, report = trained(pool, 30, space=factory.observation_space, rnd=rnd, seed=seed, **CHAIN)
        returns[name] = report.mean_return
    assert returns["plain"] < 0.1
    assert returns["rnd"] > 0.9
