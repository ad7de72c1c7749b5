"""Weights on disk: what is saved comes back, and nothing else is taken."""

import os
import pickle

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.policy import ActorCritic
from prl.run.weights import WeightsError, load_weights, save_weights, weights_sha256


def policy(seed=0, hidden=(8,), actions=2):
    return ActorCritic(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(actions), hidden, seed)


def test_round_trip_keeps_every_bit(tmp_path):
    saved, other = policy(seed=1), policy(seed=2)
    file = save_weights(saved, tmp_path / "new" / "weights")
    assert weights_sha256(saved) != weights_sha256(other)
    load_weights(other, tmp_path / "new" / "weights")
    assert weights_sha256(saved) == weights_sha256(other)
    load_weights(policy(seed=3), file)  # the file itself will do as well


def test_the_hash_covers_names_types_shapes_and_bytes():
    found = {weights_sha256(policy()), weights_sha256(policy(seed=1)), weights_sha256(policy(hidden=(9,)))}
    changed = policy()
    with torch.no_grad():
        changed.actor[0].bias[0] = 1e-30
    assert len(found | {weights_sha256(changed)}) == 4
    assert weights_sha256(policy()) == weights_sha256(policy())


def test_saving_leaves_one_complete_file(tmp_path):
    save_weights(policy(seed=1), tmp_path)
    save_weights(policy(seed=2), tmp_path)
    assert os.listdir(tmp_path) == ["policy.safetensors"]
    fresh = policy()
    load_weights(fresh, tmp_path)
    assert weights_sha256(fresh) == weights_sha256(policy(seed=2))


class Tied(torch.nn.Module):
    """Two layers that share their weights, and a second name for one of them."""

    def __init__(self, dtype):
        super().__init__()
        self.first, self.second = (torch.nn.Linear(3, 3, dtype=dtype) for _ in range(2))
        self.second.weight = self.first.weight
        self.again = self.first

    def forward(self, obs):
        return self.second(self.first(obs.to(self.first.weight.dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_layers_share_and_types_that_numpy_lacks(dtype, tmp_path):
    box = gym.spaces.Box(-1, 1, (3,))
    saved, other = (ActorCritic(box, gym.spaces.Discrete(2), encoder=Tied(dtype)) for _ in range(2))
    assert weights_sha256(saved) != weights_sha256(other)
    save_weights(saved, tmp_path)
    load_weights(other, tmp_path)
    assert weights_sha256(saved) == weights_sha256(other)
    assert other.encoder.module.second.weight is other.encoder.module.first.weight


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def damage(file, kind):
    tensors = load_file(file)
    if kind == "missing":
        file.unlink()
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(Evil()))
    elif kind == "nan":
        tensors["actor.0.bias"][0] = float("nan")
        save_file(tensors, file)
    elif kind == "names":
        tensors["extra"] = torch.zeros(1)
        save_file(tensors, file)
    elif kind == "dtype":
        save_file({name: tensor.double() for name, tensor in tensors.items()}, file)
    else:
        save_weights(policy(hidden=(9,)), file.parent)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no weights at"),
        ("truncated", "damaged"),
        ("pickle", "damaged"),
        ("nan", "actor.0.bias holds numbers that are not finite"),
        ("names", "another network: extra"),
        ("dtype", "torch.float64"),
        ("shape", r"actor.0.bias is \(9,\) torch.float32, the policy needs \(8,\)"),
    ],
)
def test_what_is_not_this_policys_weights_is_refused(tmp_path, monkeypatch, kind, message):
    monkeypatch.chdir(tmp_path)
    damage(save_weights(policy(seed=1), tmp_path), kind)
    target = policy(seed=2)
    with pytest.raises(WeightsError, match=message):
        load_weights(target, tmp_path)
    assert weights_sha256(target) == weights_sha256(policy(seed=2))  # untouched
    assert not (tmp_path / "executed").exists()
