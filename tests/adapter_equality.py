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


def check_equal(kind, pools, steps):
    """Compare returned values and generators in all autoreset modes, one after the other.

    `autoreset_mode` is what `step` looks at, so one vector env serves for all of them. Pools step at the same
    time, beside one `SyncVectorEnv`.
    """
    expected = SyncVectorEnv(KINDS[kind])
    # A busy machine must not make warnings out of workers that take their time to end.
    found = {pool: prl.VectorEnv(KINDS[kind], **POOLS[pool], close_timeout=60.0) for pool in pools}
    try:
        for mode in AutoresetMode:
            for env in (expected, *found.values()):
                env.autoreset_mode = mode
            _compare_resets(expected, found, seed=7)
            expected.action_space.seed(3)
            for _ in range(steps):
                ended = _compare_steps(expected, found)
                if mode is AutoresetMode.DISABLED and ended.any():
                    _compare_resets(expected, found, options={"reset_mask": ended})
            # Without a seed all generators go on.
            _compare_resets(expected, found)
            generators = expected.np_random_seed, [generator.random() for generator in expected.np_random]
            for pool, env in found.items():
                draws = [generator.random() for generator in env.np_random]
                assert_same(generators, (env.np_random_seed, draws), pool)
    finally:
        for env in (expected, *found.values()):
            env.close()


def _compare_resets(expected, found, seed=None, options=None):
    # Gymnasium takes the mask out of the dict.
    returned = expected.reset(seed=seed, options=None if options is None else dict(options))
    for env in found.values():
        env.reset_async(seed=seed, options=options)
    for pool, env in found.items():
        assert_same(returned, env.reset_wait(), pool)


def _compare_steps(expected, found):
    """Compare a step with random actions; bool[N], the envs whose episode it has ended."""
    actions = expected.action_space.sample()
    for env in found.values():
        env.step_async(actions)
    returned = expected.step(actions)
    for pool, env in found.items():
        assert_same(returned, env.step_wait(), pool)
    return returned[2] | returned[3]
