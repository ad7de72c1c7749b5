"""The step by autograd in bfloat16, and compiled; `test_ppo` and `test_fused_step` have the rest."""

import copy
import functools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from learner_helpers import make_policy, numbered_batch, same_bits, sample_rows, weights_of

from learner.actor import Actor
from learner.exploration import NoExplorationUpdate
from learner.fused_step import FusedStep, fastest_step
from learner.gradient_step import AutogradStep
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.settings import ConfigError
from learner.skips import Skips

VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = Box(0, 255, (36, 36, 1), np.uint8)
PAIRS = {
    "discrete": (VECTOR, Discrete(3)),
    "box": (VECTOR, Box(-2.0, 2.0, (2,), np.float32)),
    "multi-discrete": (VECTOR, MultiDiscrete([2, 3])),
    "binary": (VECTOR, MultiBinary(3)),
    "image": (IMAGE, Discrete(3)),
}


def gradient_of(step, policy, batch, clip_range=0.2):
    found = step.gradient(batch, clip_range)
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()]), found


def batch_of(policy, size=64):
    """Observations of any space; as after some steps, ratios are not 1."""
    rng = np.random.default_rng(0)
    rows = sample_rows(policy.observation_space, size)
    actions = torch.as_tensor(Actor(policy).act(rows, policy.head.draw_noise(rng, size)))
    inputs, masks = policy.preprocess(torch.as_tensor(rows))
    log_probs, values = policy.evaluate_actions(inputs, masks, actions)
    noise = torch.as_tensor(rng.standard_normal((3, size)), dtype=torch.float32)
    log_probs = log_probs + 0.1 * noise[0]
    advantages, returns = noise[1], values + noise[2]
    return Batch(
        inputs, masks, actions, log_probs, values, advantages, returns, policy, NoExplorationUpdate(size)
    )


# ---- bfloat16


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_in_bfloat16_are_close_to_those_in_float32(pair):
    policy = ActorCritic(*PAIRS[pair], (32,))
    batch = batch_of(policy)
    config = PPOConfig(ent_coef=0.01)
    expected, wanted = gradient_of(AutogradStep(policy, config), policy, batch)
    found, statistics = gradient_of(AutogradStep(policy, PPOConfig(ent_coef=0.01, bf16=True)), policy, batch)
    assert found.dtype is torch.float32
    difference = (found - expected).norm() / expected.norm()
    # bfloat16 has 8 bits: less would mean that it was not used. Five layers round more often than two.
    assert 1e-4 < difference < (4e-2 if pair == "image" else 2e-2)
    for one, other in zip(statistics, wanted, strict=True):
        assert one.dtype is torch.float64
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_weights_and_adam_stay_float32_and_the_same_run_gives_the_same_bits():
    policy = make_policy()
    batch = numbered_batch(policy, 40)
    results = []
    for _ in range(2):
        learner = PPOLearner(copy.deepcopy(policy), PPOConfig(bf16=True, num_epochs=2, minibatch_size=16))
        learner.optimize(batch, np.random.default_rng(0))
        results.append(weights_of(learner.policy))
        moments = learner.state_dict()["optimizer"]["state"].values()
        kinds = {tensor.dtype for state in moments for tensor in state.values()}
        assert kinds | {tensor.dtype for tensor in results[-1].values()} == {torch.float32}
    assert same_bits(*results)
    assert not same_bits(results[0], weights_of(policy))


def test_bfloat16_is_refused_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    policy = make_policy()
    monkeypatch.setattr(ActorCritic, "device", torch.device("cuda"))
    with pytest.raises(ConfigError, match="bf16 needs a GPU"):
        AutogradStep(policy, PPOConfig(bf16=True))


# ---- compiled


@pytest.fixture
def _traced(monkeypatch):
    """As `torch.compile` does it, without the minute that it takes to compile what was traced."""
    compiled = functools.partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", compiled)
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("pair", ["discrete", "box"])
def test_the_loss_is_traced_as_a_whole_once_for_all_sizes(pair):
    policy = ActorCritic(*PAIRS[pair], (8,))
    config = PPOConfig(ent_coef=0.01, clip_range_vf=0.2)
    plain, compiled = (
        AutogradStep(policy, config),
        AutogradStep(policy, PPOConfig(**vars(config) | {"compile": True})),
    )
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for size in (16, 9, 12, 5):
        batch = batch_of(policy, size)
        expected, wanted = gradient_of(plain, policy, batch)
        found, statistics = gradient_of(compiled, policy, batch)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert_close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
        assert_close(torch.stack(tuple(statistics)), torch.stack(tuple(wanted)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    compiled.apply(1e-3, 1e-3, Skips())
    moved = gradient_of(compiled, policy, batch)[0]
    torch.testing.assert_close(moved, gradient_of(plain, policy, batch)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "there is no no-such-compiler"), ("cuda", "needs the package triton")]
)
def test_compiling_is_refused_without_a_compiler(device, message, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    policy = make_policy()
    monkeypatch.setattr(ActorCritic, "device", torch.device(device))
    with pytest.raises(ConfigError, match=message):
        AutogradStep(policy, PPOConfig(compile=True))


@pytest.mark.usefixtures("_traced")
def test_both_take_the_step_by_autograd():
    kinds = [
        type(fastest_step(make_policy(), PPOConfig(**options)))
        for options in ({}, {"bf16": True}, {"compile": True})
    ]
    assert kinds == [FusedStep, AutogradStep, AutogradStep]
