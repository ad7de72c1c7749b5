"""Invariant 1: the same seed gives the same weights, wherever and however the envs are stepped."""

import dataclasses

import pytest

from prl.arguments import parse
from prl.config import TrainConfig
from prl.run import train

ENVS = {
    "CartPole-v1": {"total_timesteps": 3000, "batch_size": 512},
    "Pendulum-v1": {"total_timesteps": 1200, "batch_size": 512, "max_episode_steps": 50},
}


def weights(folder, env_id="CartPole-v1", **settings):
    config = TrainConfig(
        env_id=env_id, run_folder=folder, **({"num_envs": 10, "num_epochs": 2, **ENVS[env_id]} | settings)
    )
    summary = train(config)
    assert summary["iterations"] >= 2  # the second rollout is played with learnt weights
    return summary["weights_sha256"]


@pytest.fixture(scope="module", params=ENVS)
def reference(request, tmp_path_factory):
    """The env, and the weights that the pool without processes comes to."""
    folder = tmp_path_factory.mktemp("inline")
    return request.param, weights(folder / "run", request.param, num_workers=0, seed=3)


@pytest.mark.parametrize("transport", ["shared", "pipe"])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_and_transport_change_no_bit(reference, transport, num_workers, tmp_path):
    env_id, expected = reference
    found = weights(tmp_path / "run", env_id, num_workers=num_workers, transport=transport, seed=3)
    assert found == expected


def test_the_same_run_twice_gives_the_same_bits(reference, tmp_path):
    env_id, expected = reference
    assert weights(tmp_path / "run", env_id, num_workers=0, seed=3) == expected


def test_another_seed_gives_other_weights(reference, tmp_path):
    env_id, expected = reference
    assert weights(tmp_path / "run", env_id, num_workers=0, seed=4) != expected


def test_two_groups_change_no_bit_over_workers(tmp_path):
    inline = weights(tmp_path / "a", num_workers=0, num_groups=2)
    assert weights(tmp_path / "b", num_workers=3, num_groups=2) == inline
    assert weights(tmp_path / "c", num_workers=0, num_groups=1) != inline  # another order of noise


def test_a_saved_config_does_the_run_again(tmp_path):
    first = weights(
        tmp_path / "a", num_workers=0, seed=5, hidden_sizes=(16,), env_kwargs={"sutton_barto_reward": True}
    )
    again = parse(TrainConfig, ["--config", str(tmp_path / "a/config.yaml")], prog="train.py")
    assert again.run_folder is None
    assert train(dataclasses.replace(again, run_folder=tmp_path / "b"))["weights_sha256"] == first
