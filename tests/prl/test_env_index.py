"""Copies of an env that are told apart by an argument of its constructor."""

import gymnasium as gym
import numpy as np
import pytest
from changing_envs import Levels

from prl.config.train_config import TrainConfig
from prl.run import train as run_train
from workers.envs import env_factory
from workers.errors import EnvError
from workers.process_pool import ProcessPool

WRAPPED = {"wrappers": ["gymnasium.wrappers:RecordEpisodeStatistics"], "max_episode_steps": 5}


@pytest.mark.parametrize("env", [Levels, "changing_envs:Levels-v0", lambda copy: Levels(copy=copy)])
def test_the_constructor_gets_the_index(env):
    factory = env_factory(env, env_index_kwarg="copy", own_process=False, **WRAPPED)
    assert [factory.build(index).unwrapped.copy for index in (3, 0)] == [3, 0]
    assert isinstance(factory.build(1), gym.wrappers.RecordEpisodeStatistics)


def test_it_is_the_index_in_the_pool_whoever_hosts_the_env():
    factory = env_factory(Levels, env_index_kwarg="copy")
    with ProcessPool(factory, 5, 2) as pool:
        assert pool.env_calls.get(np.arange(5), "copy") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("env", "name", "message"),
    [
        (Levels, "nothing", "unexpected keyword argument 'nothing'"),
        (Levels, "2nd", "env_index_kwarg must be the name of an argument, such as .*, got '2nd'"),
        (Levels(), "copy", "an env that exists already cannot get its index as copy; pass its id or class"),
    ],
)
def test_what_gets_no_index(env, name, message):
    with pytest.raises(EnvError, match=message):
        env_factory(env, env_index_kwarg=name, own_process=False)


def test_an_argument_that_is_given_already():
    with pytest.raises(EnvError, match="copy cannot be an argument of the env and get its index, too"):
        env_factory(Levels, env_kwargs={"copy": 1}, env_index_kwarg="copy", own_process=False)


def test_the_envs_of_evaluations_have_further_numbers(tmp_path, monkeypatch):
    copies = []

    def look(config, factory, num_envs, *rest):
        copies.append([factory.build(env).unwrapped.copy for env in range(num_envs)])
        return build_pool(config, factory, num_envs, *rest)

    build_pool = run_train.build_pool
    monkeypatch.setattr(run_train, "build_pool", look)
    run_train.train(
        TrainConfig(
            env_id="changing_envs:Levels-v0",
            env_index_kwarg="copy",
            max_episode_steps=9,
            num_envs=3,
            num_workers=0,
            batch_size=20,
            total_timesteps=20,
            eval_freq=20,
            eval_episodes=2,
            run_folder=tmp_path / "run",
        )
    )
    assert copies == [[0, 1, 2], [3, 4]]
    assert "env_index_kwarg: copy" in (tmp_path / "run" / "config.yaml").read_text()
