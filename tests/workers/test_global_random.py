"""Envs that draw from global generators, which envs of one process share."""

import random

import gymnasium as gym
import numpy as np
import pytest

from workers.envs import env_factory
from workers.errors import WorkerEnvFailed
from workers.global_random import GloballySeededEnv
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool

N = 4


class Drawing(gym.Env):
    """Draws from both global generators, when it is built, reset, and in every `every`-th step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, every=1):
        self.every = every
        self.offset = random.random()

    def draw(self):
        return np.array([self.offset, random.random(), np.random.randn()])  # noqa: NPY002

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.draw(), {}

    def step(self, action):
        self.steps += 1
        drawn = self.draw() if self.steps % self.every == 0 else np.zeros(3)
        return drawn, 0.0, False, self.steps == 5, {}


def played(pool):
    """What envs show, with episodes that end at different times."""
    ids = np.arange(N)
    with pool:
        pool.reset(ids, range(N))
        shown = [pool.recv().obs]
        for t in range(12):
            some = ids if t % 3 else ids[1:]
            pool.send(some, np.zeros(len(some), np.int64), [10 * t + env for env in some])
            batch = pool.recv()
            shown += [batch.obs, batch.next_obs]
    return np.concatenate(shown)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.usefixtures("leaves_nothing")
def test_the_same_episodes_on_any_number_of_workers(every):
    factory = env_factory(Drawing, env_kwargs={"every": every})
    inline = played(InlinePool(factory, N))
    assert len(np.unique(inline[:, 1])) > N  # they draw different numbers
    np.testing.assert_array_equal(played(InlinePool(factory, N)), inline)
    np.testing.assert_array_equal(played(ProcessPool(factory, N, 1)), inline)
    np.testing.assert_array_equal(played(ProcessPool(factory, N, 3)), inline)


class DrawingFirst(Drawing):
    """Chooses a task before it seeds its generator, or never seeds it."""

    def __init__(self, seeds):
        super().__init__()
        self.seeds = seeds

    def reset(self, *, seed=None, options=None):
        task = self.np_random.random()
        obs, info = super().reset(seed=seed if self.seeds else None)
        return np.array([task, *obs[1:]]), info


@pytest.mark.parametrize("seeds", [True, False])
@pytest.mark.usefixtures("leaves_nothing")
def test_a_generator_that_is_used_before_it_is_seeded(seeds):
    factory = env_factory(DrawingFirst, env_kwargs={"seeds": seeds})
    inline = played(InlinePool(factory, N))
    assert len(np.unique(inline[:N, 0])) == N
    np.testing.assert_array_equal(played(ProcessPool(factory, N, 3)), inline)


def test_a_generator_that_the_constructor_made_stays():
    env = DrawingFirst(seeds=False)
    env.np_random = np.random.default_rng(11)
    assert GloballySeededEnv(env).reset(seed=5)[0][0] == np.random.default_rng(11).random()


def global_state():
    return random.getstate(), [str(part) for part in np.random.get_state()]  # noqa: NPY002


def test_the_generators_of_this_process_are_left_as_they_were():
    before = global_state()
    factory = env_factory(Drawing)
    assert global_state() == before
    with InlinePool(factory, N) as pool:
        assert global_state() == before
        pool.reset(np.arange(N), range(N))
        pool.recv()
        assert global_state() == before
        for _ in range(6):
            pool.send(np.arange(N), np.zeros(N, np.int64), range(N))
            pool.recv()
            assert global_state() == before
    assert random.random() != played(InlinePool(factory, N))[0, 1]


class Raising(Drawing):
    def reset(self, *, seed=None, options=None):
        random.random()
        raise ValueError("boom")


def test_they_are_left_as_they_were_by_an_env_that_fails():
    factory = env_factory(Raising, use_action_masks=False)
    before = global_state()
    with InlinePool(factory, 1) as pool:
        pool.reset(np.arange(1), [1])
        with pytest.raises(WorkerEnvFailed, match="boom"):
            pool.recv()
    assert global_state() == before


def test_an_env_that_never_draws_is_stepped_without_a_detour():
    env = gym.make("CartPole-v1", disable_env_checker=True)
    seeded = GloballySeededEnv(env)
    seeded.reset(seed=1)
    for step in range(40):
        if seeded.step(step % 2)[2]:
            seeded.reset(seed=step)
    assert seeded.step == env.step


def test_an_env_that_draws_late_is_found_as_long_as_it_is_watched():
    seeded = GloballySeededEnv(Drawing(every=4))
    drawn = []
    for disturbance in (1, 2):
        seeded.reset(seed=7)
        for _ in range(3):
            seeded.step(0)
        random.seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        drawn.append(seeded.step(0)[0].tolist())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("seed", [0, 2**32, 2**40 + 3])
def test_any_seed_that_an_env_takes(seed):
    seeded = GloballySeededEnv(Drawing())
    assert seeded.reset(seed=seed)[0].tolist() == seeded.reset(seed=seed)[0].tolist()
