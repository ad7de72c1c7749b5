"""A policy on a device other than the CPU: nothing is left behind, and its numbers are the CPU's."""

import copy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from learner_helpers import make_rollout, sample_rows, vector_space
from second_device import DEVICE, SecondDevice, let_adam_use_it
from torch import nn

from learner.actor import Actor
from learner.gradient_step import AutogradStep
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.rnd import RND
from prl.pools import make_pool
from prl.run.weights import load_weights, save_weights
from prl.training.evaluate import evaluate
from prl.training.lagging import acting_copy
from prl.training.rounds import split_groups
from prl.training.trainer import Trainer
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.envs import env_factory
from workers.inline_pool import InlinePool

MASKED = Dict(action_mask=MultiBinary(3), choice=Discrete(4, start=1), vector=vector_space(2))
OBSERVATIONS = {
    "vector": vector_space(3),
    "scaled integers": Box(-5, 5, (2, 2), np.int64),
    "choices": MultiDiscrete([2, 3]),
    "image": Box(0, 255, (36, 36, 1), np.uint8),
    "masked": MASKED,
}
ACTIONS = {
    "discrete": Discrete(3),
    "box": Box(-2.0, 2.0, (2,), np.float32),
    "binary": MultiBinary(3),
    "composite": Dict(a=Discrete(2), b=Box(-1.0, 1.0, (1,), np.float32)),
}
PAIRS = [(name, "discrete") for name in OBSERVATIONS] + [("vector", name) for name in list(ACTIONS)[1:]]


@pytest.fixture(autouse=True)
def device(monkeypatch):
    let_adam_use_it(monkeypatch)
    with SecondDevice() as there:
        yield there


@pytest.fixture(params=PAIRS, ids=" and ".join)
def policies(request):
    """The same policy on the CPU and on the device, with statistics of some observations."""
    observation, action = request.param
    policy = ActorCritic(OBSERVATIONS[observation], ACTIONS[action], (8,), normalize_obs=True)
    policy.update_statistics(rows_of(policy, 20, seed=1))
    return policy, copy.deepcopy(policy).to(DEVICE)


def rows_of(policy, count, seed=0):
    rows = sample_rows(policy.observation_space, count, seed)
    if policy.observation_space is MASKED:
        rows[:, :3] = [1, 1, 0]  # the last choice is never legal
    return rows


def rollout_of(policy, lengths=(5, 3, 4), seed=0):
    """Episodes of random observations and rewards in which the policy has acted."""
    rng = np.random.default_rng(seed)
    episodes = []
    for env, length in enumerate(lengths):
        obs = rows_of(policy, length + 1, seed=env)
        actions = Actor(policy).act(obs[:-1], policy.head.draw_noise(rng, length))
        episodes.append((env, obs[:-1], actions, rng.standard_normal(length), env % 2 == 0, obs[-1]))
    rollout = make_rollout(episodes, policy.head.action_space.dtype)
    dtype = obs.dtype  # `make_rollout` makes floats of observations
    return type(rollout)(
        **{
            **vars(rollout),
            "obs": rollout.obs.astype(dtype),
            "final_obs": rollout.final_obs.astype(dtype),
        }
    )


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def on_cpu(policy):
    return {name: tensor.cpu() for name, tensor in policy.state_dict().items()}


# ---- the device of these tests


def test_what_lies_on_different_devices_does_not_mix():
    there = torch.arange(3.0, device=DEVICE)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.arange(3.0)
    with pytest.raises(RuntimeError, match="not supported"):
        there.numpy()
    assert (there + torch.tensor(1.0)).cpu().tolist() == [1.0, 2.0, 3.0]  # numbers may be anywhere
    assert there[torch.tensor([2, 0])].cpu().tolist() == [2.0, 0.0]  # and so may indices
    with pytest.raises(RuntimeError, match="same device"):
        torch.arange(3.0)[torch.tensor([2, 0], device=DEVICE)]


def test_waiting_for_the_device_is_noticed(device):
    there = torch.arange(3.0, device=DEVICE) * 2.0
    assert device.waits == 0
    assert (float(there.sum()), there.cpu().tolist()) == (6.0, [0.0, 2.0, 4.0])
    assert device.waits == 2


def test_half_a_policy_on_the_device_is_an_error():
    policy = ActorCritic(vector_space(3), Discrete(3))
    policy.critic.to(DEVICE)
    with pytest.raises(RuntimeError, match="same device"):
        policy.values(torch.zeros(2, 3))


# ---- policies and updates


def test_a_policy_acts_as_on_the_cpu(policies):
    here, there = policies
    rows = rows_of(here, 6)
    noise = here.head.draw_noise(np.random.default_rng(0), 6)
    for actions in (None, noise):
        np.testing.assert_allclose(Actor(there).act(rows, actions), Actor(here).act(rows, actions), rtol=1e-5)
    found, expected = Actor(there).act_with_values(rows, noise), Actor(here).act_with_values(rows, noise)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_policy_knows_probabilities_and_values_as_on_the_cpu(policies):
    here, there = policies
    rows = rows_of(here, 6)
    actions = Actor(here).act(rows, here.head.draw_noise(np.random.default_rng(0), 6))
    for policy in policies:
        policy.update_statistics(rows)
    results = []
    for policy in policies:
        inputs, masks = policy.preprocess(torch.as_tensor(rows, device=policy.device))
        chosen = torch.as_tensor(actions, device=policy.device)
        found = policy.evaluate_actions(inputs, masks, chosen)
        outputs, values = policy.outputs_and_values(inputs, masks)
        more = policy.head.entropy(outputs), policy.head.log_det(chosen), values
        again = policy.values_without_grad(torch.as_tensor(rows, device=policy.device))
        assert all(tensor.device == policy.device for tensor in (*found, *more, again))
        results.append([tensor.cpu() for tensor in (*found, *more, again)])
    assert_close(results[1], results[0])
    assert_close(on_cpu(there), on_cpu(here))


def test_updates_give_the_weights_and_metrics_of_the_cpu(policies):
    """With RND where the action space is the same, since that does not matter to RND."""
    config = PPOConfig(num_epochs=2, minibatch_size=6, normalize_reward=True, clip_range_vf=0.2, ent_coef=0.1)
    learners = []
    for policy in policies:
        rnd = None
        if policy.action_space == ACTIONS["discrete"]:
            rnd = RND(policy.observation_space, coef=0.5, hidden_sizes=(8,), device=policy.device)
        learners.append(PPOLearner(policy, config, rnd, make_step=AutogradStep))
    for number in range(2):
        rollout = rollout_of(policies[0], seed=number)
        metrics = [learner.update(rollout, np.random.default_rng(number)) for learner in learners]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-5)
    assert_close(on_cpu(policies[1]), on_cpu(policies[0]))


def test_a_learner_that_goes_on_from_a_state_gives_the_same_bits(policies):
    config = PPOConfig(num_epochs=1, minibatch_size=6, normalize_reward=True)
    rollout = rollout_of(policies[0])

    def learner(seed):
        policy = copy.deepcopy(policies[1])
        rnd = RND(policy.observation_space, coef=0.5, hidden_sizes=(8,), seed=seed, device=DEVICE)
        return PPOLearner(policy, config, rnd)

    first, second = learner(0), learner(1)
    first.update(rollout, np.random.default_rng(0))
    second.load_state_dict(first.state_dict())
    found = [one.update(rollout, np.random.default_rng(1)) for one in (first, second)]
    assert found[0] == found[1]
    assert all(map(torch.equal, on_cpu(first.policy).values(), on_cpu(second.policy).values()))


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # here it is no no-op
def test_weights_go_to_a_file_and_back(policies, tmp_path):
    here, there = policies
    save_weights(there, tmp_path / "policy.safetensors")
    for parameter in here.parameters():
        parameter.data.zero_()
    load_weights(here, tmp_path / "policy.safetensors")
    assert all(map(torch.equal, on_cpu(here).values(), on_cpu(there).values()))
    load_weights(there, tmp_path / "policy.safetensors")
    assert {tensor.device for tensor in there.state_dict().values()} == {DEVICE}


def test_nothing_waits_for_the_device_in_a_minibatch(device):
    """A minibatch on a GPU mostly takes the time to start its operations, so they must not be awaited."""
    waits = []
    for minibatch_size in (12, 3):
        policy = ActorCritic(vector_space(3), Discrete(3), (8,))
        rollout = rollout_of(policy)
        rnd = RND(policy.observation_space, coef=0.5, hidden_sizes=(8,), device=DEVICE)
        learner = PPOLearner(policy.to(DEVICE), PPOConfig(minibatch_size=minibatch_size), rnd)
        before = device.waits
        learner.update(rollout, np.random.default_rng(0))
        waits.append(device.waits - before)
    assert waits[0] == waits[1]


class Features(nn.Module):
    """A user's module, with weights, a buffer and a tensor that it makes itself."""

    def __init__(self, space):
        super().__init__()
        self.layer = nn.Linear(space.shape[0], 4)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, observations):
        return self.layer(observations) * self.scale + torch.zeros(4, device=observations.device)


def test_a_custom_encoder_comes_along():
    space = vector_space(3)
    policy = ActorCritic(space, Discrete(3), (8,), encoder=Features(space))
    there = copy.deepcopy(policy).to(DEVICE)
    rollout = rollout_of(policy)
    for one in (policy, there):
        PPOLearner(one, PPOConfig(num_epochs=1)).update(rollout, np.random.default_rng(0))
    assert_close(on_cpu(there), on_cpu(policy))


# ---- a whole run


@pytest.mark.parametrize("overlap", [False, True], ids=["in turns", "overlapped"])
def test_training_and_evaluation_give_the_weights_and_returns_of_the_cpu(overlap):
    factory = env_factory("CartPole-v1", max_episode_steps=20)
    outcomes = []
    for where in (torch.device("cpu"), DEVICE):
        policy = ActorCritic(factory.observation_space, factory.action_space, (8,), normalize_obs=True)
        learner = PPOLearner(policy.to(where), PPOConfig(num_epochs=1), make_step=AutogradStep)
        with InlinePool(factory, 3) as pool:
            trainer = Trainer(pool, learner, batch_size=60, total_timesteps=180, seed=0, overlap=overlap)
            reports = trainer.iterations()
            returns = [next(reports).returns.tolist() for _ in range(2)]
            episodes = evaluate(policy, pool, [1, 2, 3, 4])
            state = trainer.state_dict()
            trainer.load_state_dict(state)
            returns.append(next(reports).returns.tolist())
        outcomes.append((returns, episodes, on_cpu(policy)))
    assert outcomes[1][:2] == outcomes[0][:2]
    assert_close(outcomes[1][2], outcomes[0][2])


def test_what_acts_beside_an_update_is_on_the_cpu_where_numpy_can_compute_it(policies):
    here, there = policies
    copied = acting_copy(there)
    by_numpy = here.observation_space is not OBSERVATIONS["image"]
    assert copied.device == (torch.device("cpu") if by_numpy else DEVICE)
    assert there.device == DEVICE
    rows = rows_of(here, 6)
    assert all(map(torch.equal, on_cpu(copied).values(), on_cpu(there).values()))
    np.testing.assert_allclose(Actor(copied).act(rows, None), Actor(here).act(rows, None), rtol=1e-5)


def test_workers_act_on_the_cpu_while_the_device_learns():
    factory = env_factory("CartPole-v1", max_episode_steps=20)
    outcomes = []
    for where, num_workers in ((torch.device("cpu"), 0), (DEVICE, 1)):
        policy = ActorCritic(factory.observation_space, factory.action_space, (8,), normalize_obs=True)
        learner = PPOLearner(policy.to(where), PPOConfig(num_epochs=1), make_step=AutogradStep)
        kit = player_kit(acting_copy(policy))
        guests = {"groups": split_groups(4, 2), "guest": invitation(kit)} if num_workers else {}
        with make_pool(factory, 4, num_workers, **guests) as pool:
            trainer = Trainer(
                pool,
                learner,
                batch_size=60,
                total_timesteps=180,
                seed=0,
                num_groups=2,
                overlap=True,
                players=WorkerPlayers(pool, kit) if num_workers else None,
            )
            reports = trainer.iterations()
            found = [next(reports) for _ in range(3)]
        errors = [report.metrics["train/initial_ratio_error"] for report in found]
        assert max(errors) < 1e-5
        outcomes.append(([report.returns.tolist() for report in found], on_cpu(policy)))
    assert outcomes[1][0] == outcomes[0][0]
    assert_close(outcomes[1][1], outcomes[0][1])
