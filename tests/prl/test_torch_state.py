"""Torch's global state: what envs and callers set neither reaches the learner nor is lost."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_sinks import SMALL
from threadpoolctl import threadpool_info

from prl.commands.play import PlayConfig, play
from prl.commands.suites.settings import BenchmarkConfig
from prl.commands.suites.stepping import make_task
from prl.run.build import reproducible
from prl.run.saved_run import evaluate_run
from prl.run.torch_state import standard_torch
from prl.run.train import train

pytestmark = pytest.mark.usefixtures("carried_by_value")


def state():
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
    }


def set_everything():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    np.seterr(all="raise")
    np.set_printoptions(precision=2)


class SetsEverything(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, meddles=True):
        if meddles:
            set_everything()

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        return self.rng.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        return self.rng.uniform(-1, 1, 2).astype(np.float32), float(action), False, False, {}


@pytest.fixture(autouse=True)
def _restored():
    """A test that fails here should fail alone."""
    gym.register("test/SetsEverything-v0", SetsEverything, max_episode_steps=5)
    before = state()
    yield
    del gym.registry["test/SetsEverything-v0"]
    torch.set_default_dtype(before["dtype"])
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_num_threads(before["threads"])
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(before["precision"])
    np.seterr(**before["numpy errors"])
    np.set_printoptions(**before["numpy printing"])


def test_a_block_has_the_defaults_and_leaves_no_trace():
    expected = state()
    with standard_torch():
        set_everything()
    assert state() == expected
    set_everything()
    mine = state()
    with standard_torch():
        assert torch.zeros(1).dtype is torch.float32
        assert torch.zeros(1).device.type == "cpu"
        assert torch.is_grad_enabled()
    assert state() == mine


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_env_that_sets_torchs_state_is_trained_played_and_measured_like_any_other(num_workers, tmp_path):
    before = state()
    hashes = []
    for meddles in (False, True):
        folder = tmp_path / str(meddles)
        config = dataclasses.replace(
            SMALL,
            env_id="test/SetsEverything-v0",
            env_kwargs={"meddles": meddles},
            num_workers=num_workers,
            close_timeout=20.0,
            total_timesteps=200,
            batch_size=100,
            eval_freq=100,
            eval_episodes=1,
            run_folder=folder,
        )
        hashes.append(train(config)["weights_sha256"])
        assert state() == before
    assert hashes[0] == hashes[1]
    played = [episode.episode_return for episode in play(PlayConfig(folder, episodes=2))]
    assert state() == before
    assert played == [episode.episode_return for episode in evaluate_run(folder, 2)]
    make_task(BenchmarkConfig("test/SetsEverything-v0"))
    assert state() == before


def test_what_the_caller_has_set_changes_no_weights(tmp_path):
    config = dataclasses.replace(SMALL, total_timesteps=200)
    expected = train(dataclasses.replace(config, run_folder=tmp_path / "a"))["weights_sha256"]
    set_everything()
    torch.set_num_threads(1)  # initial weights are computed on the caller's threads
    np.seterr(all="warn")
    mine = state()
    found = train(dataclasses.replace(config, run_folder=tmp_path / "b"))["weights_sha256"]
    assert state() == mine
    assert found == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_sets_the_threads_of_numpys_products_and_puts_them_back(threads):
    def blas():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas()
    with reproducible(threads, torch.device("cpu")):
        assert set(blas()) == {threads}
        assert torch.get_num_threads() == threads
    assert blas() == before
