"""torch_threads auto: what is measured, what it becomes, and where it is written."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_sinks import SMALL

from prl.config.command_line import parse, read_config
from prl.config.train_config import ConfigError, TrainConfig
from prl.run import threads
from prl.run.train import train
from workers.envs import env_factory

AUTO = dataclasses.replace(SMALL, torch_threads="auto", minibatch_size=64)


class MaskedImages(gym.Env):
    """What is hardest to invent observations for."""

    observation_space = gym.spaces.Dict(
        action_mask=gym.spaces.MultiBinary(3), image=gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    )
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return {"action_mask": np.ones(3, np.int8), "image": np.zeros((36, 36, 1), np.uint8)}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


def settle(config, seconds, monkeypatch, cores=4, device="cpu"):
    """The number and the line that come of measured seconds (on one thread, on all idle cores)."""
    measured = []
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(
        threads, "measure_threads", lambda config, factory, numbers: measured.append(numbers) or seconds
    )
    settled, [line] = threads.settle_threads(config, env_factory("CartPole-v1"), torch.device(device))
    assert dataclasses.replace(settled, torch_threads="auto") == config
    return settled.torch_threads, line, measured


@pytest.mark.parametrize(
    ("seconds", "number"), [((1.0, 0.5), 3), ((1.0, 0.9), 3), ((1.0, 0.92), 1), ((1.0, 1.5), 1)]
)
def test_more_threads_are_taken_only_if_they_are_a_tenth_faster(seconds, number, monkeypatch):
    found, line, measured = settle(dataclasses.replace(AUTO, num_workers=1), seconds, monkeypatch)
    assert (found, measured) == (number, [[1, 3]])
    assert line.startswith(f"torch_threads {number}: ")
    assert line.endswith(f"{seconds[1] * 1000:.3g} ms on 3")


@pytest.mark.parametrize(
    ("num_workers", "device", "words"), [(None, "cpu", "no core is idle"), (0, "cuda", "cuda")]
)
def test_nothing_is_measured_where_there_is_no_choice(num_workers, device, words, monkeypatch):
    config = dataclasses.replace(AUTO, num_workers=num_workers)
    found, line, measured = settle(config, (1.0, 0.1), monkeypatch, device=device)
    assert (found, measured) == (1, [])
    assert words in line


@pytest.mark.parametrize(
    ("cores", "num_workers", "num_envs", "idle"),
    [
        (8, 2, 32, 6),
        (8, 0, 32, 8),
        (8, 8, 32, 1),
        (8, 9, 32, 1),
        (8, None, 32, 1),
        (8, None, 3, 5),
        (1, 0, 8, 1),
    ],
)
def test_idle_cores_are_those_without_a_worker(cores, num_workers, num_envs, idle):
    assert threads.idle_cores(cores, num_workers, num_envs) == idle


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", MaskedImages], ids=str)
def test_steps_are_measured_with_each_number_of_threads_and_leave_nothing_behind(env, monkeypatch):
    monkeypatch.setattr(threads, "_TURNS", 1)
    seen = []
    timed = threads._timed
    monkeypatch.setattr(threads, "_timed", lambda step: seen.append(torch.get_num_threads()) or timed(step))
    before, generator = torch.get_num_threads(), torch.get_rng_state()
    found = threads.measure_threads(
        dataclasses.replace(AUTO, minibatch_size=4), env_factory(env, max_episode_steps=9), [1, 2]
    )
    assert len(found) == 2
    assert min(found) > 0.0
    assert seen == [1, 2, 1, 2]
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_number_is_written_and_does_the_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "measure_threads", lambda config, factory, numbers: [1.0, 0.5])
    lines = []
    summary = train(dataclasses.replace(AUTO, run_folder=tmp_path / "a"), log=lines.append)
    assert any(line.startswith("torch_threads 2: ") for line in lines)
    assert summary["torch_threads"] == 2
    assert json.loads((tmp_path / "a/summary.json").read_text())["torch_threads"] == 2
    again = read_config(TrainConfig, tmp_path / "a/config.yaml")
    assert again.torch_threads == 2
    repeated = train(dataclasses.replace(again, run_folder=tmp_path / "b"))
    assert repeated["weights_sha256"] == summary["weights_sha256"]


def test_the_flag_takes_a_number_or_auto():
    def read(value):
        return parse(TrainConfig, ["--env-id", "A", "--torch-threads", value], prog="x").torch_threads

    assert (read("auto"), read("3"), TrainConfig(env_id="A").torch_threads) == ("auto", 3, 1)
    for value in ("0", "many"):
        with pytest.raises(ConfigError, match=r"torch.threads must be"):
            read(value)
