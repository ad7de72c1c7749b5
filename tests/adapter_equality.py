"""Whether `prl.VectorEnv` gives what Gymnasium's `SyncVectorEnv` gives, for envs of several kinds."""

import functools

import gymnasium as gym
from adapter_envs import Composite, Pair, Talker, assert_same
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics

import prl

N = 5


def with_statistics(length):
    return RecordEpisodeStatistics(Talker(length))


def cart_pole(length):
    return RecordEpisodeStatistics(gym.make("CartPole-v1", max_episode_steps=length))


def cheetah(length):
    return gym.make("HalfCheetah-v5", max_episode_steps=length)  # needs MuJoCo


KINDS = {
    "talker": [functools.partial(Talker, length=3 + i) for i in range(N)],
    "statistics": [functools.partial(with_statistics, 4 + i) for i in range(N)],
    "dict": [Composite] * N,
    "tuple": [Pair] * N,
    "cartpole": [functools.partial(cart_pole, 15 + i) for i in range(N)],
    "cheetah": [functools.partial(cheetah, 15 + i) for i in range(N)],
}
POOLS = {
    "local": {"num_workers": 0},
    "shared-1": {"num_workers": 1},
    "shared-2": {"num_workers": 2},
    "shared-3": {"num_workers": 3},
    "pipe-1": {"num_workers": 1, "shared_memory": False},
    "pipe-2": {"num_workers": 2, "shared_memory": False},
    "pipe-3": {"num_workers": 3, "shared_memory": False},
}


def check_equal(kind, pool, steps):
    """Compare returned values and generators in all autoreset modes, one after the other.

    `autoreset_mode` is what `step` looks at, so one pair of vector envs serves for all of them.
    """
    expected = SyncVectorEnv(KINDS[kind])
    # A busy machine must not make warnings out of workers that take their time to end.
    found = prl.VectorEnv(KINDS[kind], **POOLS[pool], close_timeout=60.0)
    try:
        for mode in AutoresetMode:
            expected.autoreset_mode = found.autoreset_mode = mode
            assert_same(expected.reset(seed=7), found.reset(seed=7))
            expected.action_space.seed(3)
            for _ in range(steps):
                actions = expected.action_space.sample()
                returned = expected.step(actions)
                assert_same(returned, found.step(actions))
                ended = returned[2] | returned[3]
                if mode is AutoresetMode.DISABLED and ended.any():
                    resets = [env.reset(options={"reset_mask": ended}) for env in (expected, found)]
                    assert_same(*resets)
            # Without a seed all generators go on.
            assert_same(expected.reset(), found.reset())
            assert_same(expected.np_random_seed, found.np_random_seed)
            draws = [[generator.random() for generator in env.np_random] for env in (expected, found)]
            assert_same(*draws)
    finally:
        expected.close()
        found.close()
