"""prl's workers as the vectorised env of Stable-Baselines3, beside its own `DummyVecEnv`."""

import functools
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from adapter_envs import Breaks, Composite, Custom, Talker, assert_same
from gymnasium.error import ResetNeeded

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import prl.sb3
from workers.data_pickle import NotData
from workers.errors import WorkerDied, WorkerEnvFailed

# A busy machine must not make warnings out of workers that take their time to end.
VecEnv = functools.partial(prl.sb3.VecEnv, close_timeout=60.0)
pytestmark = pytest.mark.usefixtures("leaves_nothing")

N = 4
TALKERS = [functools.partial(Talker, 3 + i) for i in range(N)]
POOLS = [{"num_workers": 0}, {"num_workers": 2}, {"num_workers": 3, "shared_memory": False}]


@pytest.fixture(autouse=True)
def _one_thread():
    """More threads of torch would compete with the workers, and change the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def monitored(length):
    return Monitor(Talker(length))


class Goals(gym.Env):
    """A Dict observation, and infos that hindsight replay reads at every step."""

    observation_space = gym.spaces.Dict(
        {key: gym.spaces.Box(-1, 1, (2,)) for key in ("observation", "achieved_goal", "desired_goal")}
    )
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._obs(), {}

    def _obs(self):
        return {key: self.np_random.uniform(-1, 1, 2).astype(np.float32) for key in self.observation_space}

    def step(self, action):
        self._steps += 1
        success = bool(self.np_random.random() < 0.2)
        return self._obs(), float(action[0]), success, self._steps == 7, {"is_success": success}


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize(
    "fns",
    [TALKERS, [functools.partial(monitored, 4 + i) for i in range(N)], [Goals] * N],
    ids=["talker", "monitored", "goals"],
)
def test_it_equals_dummy_vec_env(fns, pool):
    expected, found = DummyVecEnv(fns), VecEnv(fns, **pool)
    for env in (expected, found):
        env.seed(5)
    assert_same(expected.reset(), found.reset())
    expected.action_space.seed(1)
    for _ in range(60):
        actions = np.array([expected.action_space.sample() for _ in range(N)])
        one, other = expected.step(actions), found.step(actions)
        for info in (*one[3], *other[3]):
            info.get("episode", {}).pop("t", None)
        assert_same(one, (*other[:3], other[3]))
        assert_same(list(expected.reset_infos), found.reset_infos)
        other[1][:] += 1  # PPO adds to the rewards
    assert found.reset().keys() == expected.reset().keys() if fns[0] is Goals else True
    found.close()


def weights_of(make, env_id, wrap):
    env = wrap(make_vec_env(env_id, n_envs=3, seed=3, vec_env_cls=make))
    model = PPO("MlpPolicy", env, n_steps=100, batch_size=100, n_epochs=2, seed=3, device="cpu")
    model.learn(600)
    assert len(model.ep_info_buffer) >= 2
    env.close()
    return [tensor.detach().numpy().tobytes() for tensor in model.policy.parameters()]


@pytest.mark.parametrize(
    ("env_id", "wrap"),
    [
        ("CartPole-v1", lambda env: env),
        ("CartPole-v1", VecNormalize),
        ("Pendulum-v1", lambda env: env),  # its episodes are truncated, and so bootstrapped
    ],
)
def test_ppo_learns_the_same_weights(env_id, wrap):
    ours = weights_of(functools.partial(VecEnv, num_workers=2), env_id, wrap)
    assert ours == weights_of(DummyVecEnv, env_id, wrap)


def test_evaluation_beside_training(tmp_path):
    env = make_vec_env("CartPole-v1", n_envs=4, seed=0, vec_env_cls=VecEnv, vec_env_kwargs={"num_workers": 1})
    other = make_vec_env("CartPole-v1", n_envs=2, vec_env_cls=VecEnv, vec_env_kwargs={"num_workers": 1})
    evaluation = EvalCallback(other, eval_freq=50, n_eval_episodes=4, log_path=str(tmp_path), verbose=0)
    A2C("MlpPolicy", env, seed=0, device="cpu").learn(400, callback=evaluation)
    assert len(evaluation.evaluations_results) == 2
    env.close()
    other.close()


def test_seeds_and_options_are_used_once():
    env = VecEnv(TALKERS, num_workers=2)
    env.seed(11)
    env.set_options([{"level": i} for i in range(N)])
    env.reset()
    env.set_options({"level": 9})
    env.reset()
    env.reset()
    assert env.get_attr("seen_options") == [[{"level": i}, {"level": 9}, None] for i in range(N)]
    assert env.env_method("get_wrapper_attr", "np_random_seed") == [11, 12, 13, 14]
    env.close()


def test_attributes_and_methods_of_chosen_envs():
    env = VecEnv([functools.partial(monitored, 3 + i) for i in range(N)], num_workers=2)
    assert env.get_attr("length") == [3, 4, 5, 6]
    assert env.get_attr("length", indices=[2, 0, -1]) == [5, 3, 6]
    assert env.env_method("add", 1, two=2, indices=1) == [7]
    assert env.env_method("add", 1, indices=[]) == []
    with pytest.raises(IndexError, match="indices of envs are integers from -4 to 3, got 4"):
        env.get_attr("length", indices=4)
    with pytest.raises(IndexError, match="indices of envs are integers from -4 to 3, got 'a'"):
        env.get_attr("length", indices="a")
    env.set_attr("length", 50, indices=[1])  # of the wrapper, as Stable-Baselines3 has it
    assert env.get_attr("length") == [3, 50, 5, 6]
    assert env.env_method("add", 0) == [3, 4, 5, 6]
    assert env.env_is_wrapped(Monitor) == [True] * N
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, indices=0) == [False]
    assert env.has_attr("length")
    assert not env.has_attr("no_such_thing")
    assert env.has_attr("_unpicklable")  # whether it is there is asked in the worker
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    with pytest.raises(NotData, match="Custom"):
        env.env_method("make_object")
    with pytest.warns(UserWarning, match="the render mode is None"):
        assert env.get_images() == [None] * N
    env.close()
    env.close()


def test_images_of_all_envs():
    env = VecEnv(
        [functools.partial(Talker, i, "rgb_array") for i in range(N)], num_workers=2, any_objects=True
    )
    assert [frame[0, 0, 0] for frame in env.get_images()] == [0, 1, 2, 3]
    assert env.render().shape == (4, 4, 3)
    assert [type(made) for made in env.env_method("make_object")] == [Custom] * N
    env.close()


def test_what_fails_is_named_and_ends_all_workers():
    env = VecEnv([Talker, Breaks], num_workers=2)
    env.reset()
    with pytest.raises(WorkerEnvFailed, match=r"env 1, step 1: step\(3\) raised RuntimeError"):
        env.step([3, 3])
    assert env.closed
    with pytest.raises(ValueError, match="nested observation spaces"):
        VecEnv([Composite])


@pytest.mark.parametrize(
    ("verb", "shared"),
    [
        (lambda env: env.step([0] * N), True),
        (lambda env: env.step([0] * N), False),
        (lambda env: env.reset(), True),
        (lambda env: env.env_method("add", 1), True),
    ],
    ids=["step", "step, pipe", "reset", "env_method"],
)
def test_a_killed_worker_is_an_error_at_once(verb, shared):
    env = VecEnv(TALKERS, num_workers=2, shared_memory=shared)
    env.reset()
    os.kill(env._envs.pool.worker_pids[0], signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(WorkerDied, match=r"worker 0 \(envs 0..1\) died with signal SIGKILL"):
        verb(env)
    env.close()
    assert time.monotonic() - start < 5
    with pytest.raises(RuntimeError, match="this VecEnv is closed"):
        verb(env)


def test_after_a_refused_action_the_envs_go_on_as_if_it_had_not_been():
    dummy, env = DummyVecEnv(TALKERS), VecEnv(TALKERS, num_workers=2)
    for vec_env in (dummy, env):
        vec_env.seed(3)
    assert_same(dummy.reset(), env.reset())
    for _ in range(10):
        with pytest.raises(ValueError, match=r"env 2: the action 4 is not in the action space Discrete\(4\)"):
            env.step(np.array([0, 1, 4, 3]))
        assert_same(dummy.step(np.array([0, 1, 2, 3])), env.step(np.array([0, 1, 2, 3])))
    env.close()


def test_what_comes_out_of_order_is_refused():
    env = VecEnv(TALKERS, num_workers=2)
    with pytest.raises(RuntimeError, match="step_wait without step_async before it"):
        env.step_wait()
    with pytest.raises(ResetNeeded, match=r"step before the first reset: call reset\(\)"):
        env.step([0] * N)
    env.seed(3)
    first = env.reset()
    env.step_async([0] * N)
    for wrong in (lambda: env.step_async([0] * N), lambda: env.env_method("add", 1)):
        with pytest.raises(RuntimeError, match="while a step is pending: call step_wait first"):
            wrong()
    env.step_wait()
    env.step_async([0] * N)
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)  # waits for the step
    env.close()
    with pytest.raises(RuntimeError, match="this VecEnv is closed"):
        env.step_wait()
