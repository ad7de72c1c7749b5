"""The chain pays for one sequence of actions and no other."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from prl.chain import Chain
from workers.envs import env_factory

LENGTH = 30
BEST = 1.0 - 0.01 * 29 / 30


@pytest.fixture
def env():
    """As prl builds it, with the registered limit."""
    env = env_factory("prl.chain:prl/Chain-v0").build()
    yield env
    env.close()


def play(env, actions):
    """The return, the number of steps and how it ended."""
    env.reset(seed=0)
    total = 0.0
    for count, action in enumerate(actions, start=1):
        _, reward, terminated, truncated, _ = env.step(action)
        total += reward
        if terminated or truncated:
            return total, count, terminated, truncated
    raise AssertionError("the episode did not end")


def test_the_best_play(env):
    total, steps, terminated, _ = play(env, env.unwrapped.right)
    assert total == pytest.approx(BEST, abs=1e-12)
    assert (steps, terminated) == (29, True)


@pytest.mark.parametrize("wrong", [0, 14, 28])
def test_one_wrong_step_loses_the_reward(env, wrong):
    """Right in every state but for one step to the left: 28 tolls, and the limit comes before the end."""
    env.reset(seed=0)
    total, truncated = 0.0, False
    for step in range(29):
        state = int(np.argmax(env.unwrapped._observation()))
        right = env.unwrapped.right[state]
        _, reward, terminated, truncated, _ = env.step(right if step != wrong else 1 - right)
        total += reward
        assert not terminated
    assert truncated
    assert total == pytest.approx(-28 * 0.01 / 30, abs=1e-12)


def test_never_moving_costs_nothing(env):
    assert play(env, [1 - env.unwrapped.right[0]] * 29) == (0.0, 29, False, True)


def test_left_goes_back_one_state():
    env = Chain(length=5)
    env.reset()
    env.step(env.right[0])
    env.step(env.right[1])
    observation, reward, *_ = env.step(1 - env.right[2])
    assert observation.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert observation.dtype == np.float32
    assert reward == 0.0


def test_the_mapping_is_a_function_of_its_seed():
    assert Chain(mapping_seed=3).right.tolist() == Chain(mapping_seed=3).right.tolist()
    assert Chain(mapping_seed=3).right.tolist() != Chain(mapping_seed=4).right.tolist()
    assert 8 <= Chain().right[:-1].sum() <= 21, "neither action should be right nearly everywhere"


def test_the_mapping_does_not_depend_on_the_episode():
    env = Chain()
    before = env.right.copy()
    env.reset(seed=123)
    assert env.right.tolist() == before.tolist()


def test_the_constant_policies_fail(env):
    for action in (0, 1):
        assert play(env, [action] * 29)[0] <= 0.0


def test_gymnasium_finds_no_fault():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(Chain(), skip_render_check=True)


def test_gymnasium_makes_it_by_name():
    env = gym.make("prl.chain:prl/Chain-v0")
    assert env.spec.max_episode_steps == 29
    assert env.observation_space.shape == (30,)
    env.close()


def test_another_length():
    factory = env_factory("prl.chain:prl/Chain-v0", env_kwargs={"length": 5}, max_episode_steps=4)
    env = factory.build()
    assert factory.has_time_limit
    assert play(env, env.unwrapped.right)[0] == pytest.approx(1.0 - 0.01 * 4 / 5)
    with pytest.raises(ValueError, match="at least 2"):
        Chain(length=1)


def test_it_loads_no_torch():
    code = "import sys, prl.chain; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
