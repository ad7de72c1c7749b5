"""Vector envs from an id, and wrappers around them."""

import functools
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from adapter_envs import assert_same
from adapter_equality import cart_pole

import prl
from prl import LegacyInfos, make_vec
from workers.errors import EnvError

VectorEnv = functools.partial(prl.VectorEnv, close_timeout=60.0)
pytestmark = pytest.mark.usefixtures("leaves_nothing")


def test_make_vec_takes_what_gymnasium_takes():
    arguments = {"num_envs": 3, "wrappers": [gym.wrappers.TimeAwareObservation], "max_episode_steps": 4}
    env = make_vec("CartPole-v1", num_workers=0, vector_kwargs={"autoreset_mode": "SameStep"}, **arguments)
    sync = gym.make_vec(
        "CartPole-v1", vectorization_mode="sync", vector_kwargs={"autoreset_mode": "SameStep"}, **arguments
    )
    for _ in range(2):
        assert_same(sync.reset(seed=4), env.reset(seed=4))
        for _ in range(9):
            assert_same(sync.step(np.array([0, 1, 1])), env.step(np.array([0, 1, 1])))
        assert env.spec.kwargs["num_envs"] == 3
        env.close()
        env = make_vec(env.spec, num_workers=0)  # the spec makes it once more
    env.close()
    sync.close()
    with pytest.raises(EnvError, match="did you mean 'CartPole-v1'"):
        make_vec("CartPol-v1")
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got '3'"):
        make_vec("CartPole-v1", "3")
    with pytest.raises(ValueError, match="wrappers must be a list of functions"):
        make_vec("CartPole-v1", wrappers=gym.wrappers.TimeAwareObservation)
    with pytest.raises(EnvError, match="an env is given by its id or spec, not as function"):
        make_vec(make_vec)
    with pytest.raises(ValueError, match="vectorization_mode is one of"):
        make_vec("CartPole-v1", vectorization_mode="vector_entry_point")


def test_gymnasiums_vector_wrappers_work_on_it():
    def wrapped(env):
        env = gym.wrappers.vector.RecordEpisodeStatistics(env)
        env = gym.wrappers.vector.NormalizeObservation(env)
        env = gym.wrappers.vector.NormalizeReward(env)
        return gym.wrappers.vector.ClipReward(env, -1, 1)

    ours = wrapped(make_vec("CartPole-v1", 4, num_workers=0))
    theirs = wrapped(gym.make_vec("CartPole-v1", 4, "sync"))
    assert_same(theirs.reset(seed=1), ours.reset(seed=1))
    for t in range(60):
        assert_same(theirs.step(np.arange(4) * t % 2), ours.step(np.arange(4) * t % 2))
    ours.close()
    theirs.close()


def test_legacy_infos_are_dicts_of_ended_envs():
    fns = [functools.partial(cart_pole, 9)] * 3
    env = LegacyInfos(VectorEnv(fns, num_workers=0, autoreset_mode="SameStep"))
    env.reset(seed=1)
    episodes = 0
    for _ in range(20):
        _, _, terminated, truncated, infos = env.step(np.zeros(3, int))
        assert ("final_info" in infos) == bool((terminated | truncated).any())
        for info in infos.get("final_info", []):
            if info and "episode" in info:
                assert info["episode"]["r"] == info["episode"]["l"]
                episodes += 1
        for obs in infos.get("final_observation", []):
            assert obs is None or obs.shape == (4,)
    assert episodes >= 5
    env.close()
    plain = VectorEnv(fns, num_workers=0)
    with pytest.raises(ValueError, match="needs an env with autoreset_mode="):
        LegacyInfos(plain)
    plain.close()


def test_it_works_without_torch():
    code = (
        "import sys; from prl import VectorEnv, make_vec\n"
        "make_vec('CartPole-v1', num_workers=0).close(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
