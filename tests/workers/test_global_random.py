"""Envs that draw from global generators, which envs of one process share."""

import ast
import functools
import importlib
import inspect
import pkgutil
import random
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from workers.block import EnvBlock
from workers.envs import env_factory
from workers.errors import WorkerEnvFailed
from workers.global_random import KNOWN_PACKAGES, KNOWN_WRAPPERS, GloballySeededEnv, never_draws_globally
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.slab import SlabLayout

pytestmark = pytest.mark.usefixtures("carried_by_value")

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


OWN_GENERATORS = ("Generator", "SeedSequence", "PCG64")


def known_sources():
    """The files of all code that counts as known."""
    modules = {"gymnasium.core", "gymnasium.utils.seeding", *(kind.__module__ for kind in KNOWN_WRAPPERS)}
    for package in KNOWN_PACKAGES:
        folder = Path(gym.__file__).parents[1].joinpath(*package.split("."))
        assert folder.is_dir(), package
        yield from folder.rglob("*.py")
    for module in modules:
        yield Path(inspect.getfile(importlib.import_module(module)))


def uses_of_global_generators(source):
    """Names by which a module reaches a global generator."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in ("random", "numpy.random"))
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy", "numpy.random"):
            yield from (alias.name for alias in node.names if alias.name in ("random", *dir(random)))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("np.random.", "numpy.random.")):
            yield from {ast.unparse(node)} - {f"np.random.{name}" for name in OWN_GENERATORS}


def test_known_envs_do_not_use_global_generators():
    files = list(known_sources())
    assert len(files) > 40
    for file in files:
        assert not list(uses_of_global_generators(file.read_text(encoding="utf-8"))), file


@pytest.mark.parametrize(
    "line",
    ["import random", "from random import choice", "x = np.random.rand(3)", "from numpy import random"],
)
def test_the_search_for_global_generators_finds_them(line):
    assert list(uses_of_global_generators(line))


def test_the_packages_of_known_envs_are_those_of_gymnasium():
    found = {f"{gym.envs.__name__}.{module.name}." for module in pkgutil.iter_modules(gym.envs.__path__)}
    assert set(KNOWN_PACKAGES) < found


def cart_pole():
    return gym.make("CartPole-v1", disable_env_checker=True)


class Derived(type(cart_pole().unwrapped)):
    """A user's class."""


class Outer(gym.Wrapper):
    """A user's wrapper."""


def with_attribute(**attributes):
    env = cart_pole()
    vars(env.unwrapped).update(attributes)
    return env


@pytest.mark.parametrize(
    ("make", "known"),
    [
        (cart_pole, True),
        (lambda: gym.make("CartPole-v1"), True),  # with the passive checker
        (lambda: env_factory("Taxi-v4").build(), True),  # with a mask that prl has moved
        (lambda: with_attribute(gravity=1.6), True),
        (Derived, False),
        (lambda: Outer(cart_pole()), False),
        (lambda: gym.wrappers.TransformReward(cart_pole(), lambda reward: reward + random.random()), False),
        (lambda: with_attribute(reset=random.random), False),
        (lambda: with_attribute(step=functools.partial(print, 1)), False),
    ],
)
def test_which_envs_are_known_not_to_draw(make, known):
    assert never_draws_globally(make()) == known


def test_a_patched_class_is_not_known(monkeypatch):
    env = cart_pole()
    monkeypatch.setattr(type(env.unwrapped), "step", lambda self, action: None)
    assert not never_draws_globally(env)


@pytest.mark.parametrize("mixed", [False, True])
def test_generators_are_left_alone_only_if_no_env_may_draw(mixed):
    """An env that draws late sees what the resets of the others have left."""
    kinds = iter([cart_pole, Derived if mixed else cart_pole])
    factory = env_factory(cart_pole)
    used = []

    class Mixed(type(factory)):
        def build(self, env_index=0):
            return next(kinds)()

    mixture = Mixed(**vars(factory))
    slab = SlabLayout(factory.observation_space, factory.action_space, 2).attach()
    block = EnvBlock(mixture, 0, slab, before_use=lambda: used.append(global_state()))
    before = global_state()
    block.reset([0, 1], [5, 6])
    block.step([0, 1])
    assert (global_state() != before) == mixed
    assert bool(used) == mixed


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
