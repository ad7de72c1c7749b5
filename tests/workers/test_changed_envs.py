"""Envs that were changed after they had been made: the workers get the change, or it is an error."""

import os
import sys
import threading
import types
from collections import deque
from datetime import datetime
from enum import Enum
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from gymnasium.wrappers import NormalizeReward, TimeLimit

from workers.env_compare import differences
from workers.envs import env_factory
from workers.errors import EnvError
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool

pytestmark = pytest.mark.usefixtures("carried_by_value")


class Engine:
    """Something that cannot be pickled, like a handle of a C library."""

    def __init__(self):
        self.handle = threading.Lock()


class Body:
    def __init__(self, mass):
        self.mass = mass


class Simulated(gym.Env):
    """With an engine, which copies have of their own, and things that users change."""

    observation_space = gym.spaces.Box(-99, 99, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, gravity=9.8, render_mode=None):
        self.render_mode = render_mode
        self.gravity = gravity
        self.body = Body(1.0)
        self.table = np.zeros(3)
        self.engine = Engine()
        self.contact = None
        self.window = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.contact = Engine()
        self.force = types.SimpleNamespace(last=0.0)
        return np.array([self.gravity, self.body.mass]), {}

    def step(self, action):
        self.force.last = float(action)
        return np.array([self.gravity, self.body.mass]), 0.0, False, False, {}

    def render(self):
        self.window = self.window or Engine()
        return np.zeros((4, 4, 3), np.uint8)


class Remade(Simulated, EzPickle):
    """Its pickle holds only the constructor's arguments."""

    def __init__(self, gravity=9.8, render_mode=None):
        EzPickle.__init__(self, gravity, render_mode)
        super().__init__(gravity, render_mode)


class Slotted(Simulated):
    """Some attributes lie in slots, one of them under a mangled name, and there is a property."""

    __slots__ = ("__secret", "_force", "scale", "spare")

    def __init__(self, gravity=9.8, render_mode=None):
        super().__init__(gravity, render_mode)
        self.scale = self.spare = 1.0
        self.__secret = [0]

    @property
    def secret(self):
        return self.__secret


@pytest.fixture(params=[Simulated, Remade])
def make(request):
    gym.register("Simulated-v0", entry_point=request.param, max_episode_steps=50)
    yield lambda **kwargs: gym.make("Simulated-v0", **kwargs)
    del gym.registry["Simulated-v0"]


def test_an_attribute_of_the_env(make):
    env = make()
    env.unwrapped.gravity = 1.6
    assert env_factory(env).build().unwrapped.gravity == 1.6
    assert make().unwrapped.gravity == 9.8


def test_what_an_attribute_holds(make):
    env = make()
    env.unwrapped.body.mass = 3.0
    env.unwrapped.table[1] = 5.0
    copy = env_factory(env).build()
    assert copy.unwrapped.body.mass == 3.0
    assert copy.unwrapped.table.tolist() == [0.0, 5.0, 0.0]
    assert copy.unwrapped.body is not env.unwrapped.body


def test_attributes_that_refer_to_the_env(make):
    env = make()
    env.unwrapped.listener = types.SimpleNamespace(env=env.unwrapped, limit=env)
    copy = env_factory(env).build()
    assert copy.unwrapped.listener.env is copy.unwrapped
    assert isinstance(copy.unwrapped.listener.limit, TimeLimit)


def test_attributes_of_wrappers(make):
    env = make()
    env._max_episode_steps = 7
    env.set_wrapper_attr("gravity", 2.5)
    copy = env_factory(env).build()
    assert copy._max_episode_steps == 7
    assert copy.get_wrapper_attr("gravity") == 2.5


def test_attributes_that_are_gone(make):
    env = make()
    del env.unwrapped.table
    assert not hasattr(env_factory(env).build().unwrapped, "table")


@pytest.mark.parametrize("kind", [Slotted, type("Derived", (Slotted,), {})])
def test_attributes_in_slots(kind):
    gym.register("Slotted-v0", entry_point=kind)
    try:
        env = gym.make("Slotted-v0")
        env.unwrapped.scale = 5.0
        env.unwrapped.secret.append(7)
        del env.unwrapped.spare
        copy = env_factory(env).build().unwrapped
    finally:
        del gym.registry["Slotted-v0"]
    assert (copy.scale, copy.secret) == (5.0, [0, 7])
    assert not hasattr(copy, "spare")


def test_a_method_that_was_replaced(make):
    env = make()
    env.unwrapped.render = lambda: "replaced"
    assert env_factory(env).build().unwrapped.render() == "replaced"


@pytest.mark.usefixtures("leaves_nothing")
def test_changes_reach_worker_processes(make):
    env = make()
    env.unwrapped.gravity, env.unwrapped.body.mass = 1.5, 2.5
    with ProcessPool(env_factory(env), 2, 2) as pool:
        pool.reset(np.arange(2), [1, 2])
        np.testing.assert_array_equal(pool.recv().obs, [[1.5, 2.5]] * 2)


def test_an_env_that_was_played_and_shown(make):
    """What came about by itself does not matter, though it cannot be pickled; what was changed does."""
    env = make(render_mode="rgb_array")
    env.reset(seed=3)
    env.render()
    env.step(1)
    assert env_factory(env).build().reset(seed=1)[0].tolist() == [9.8, 1.0]
    env.unwrapped.gravity = 4.0
    copy = env_factory(env).build()
    assert copy.reset(seed=1)[0].tolist() == [4.0, 1.0]
    assert copy.unwrapped.window is None


def test_a_change_that_cannot_be_sent_is_an_error_that_names_it(make):
    env = make()
    env.unwrapped.extra = Engine()
    with pytest.raises(EnvError) as caught:
        env_factory(env)
    kind = type(env.unwrapped).__name__
    assert str(caught.value).startswith(
        f"Simulated-v0 was changed after it had been made, and {kind}.extra cannot be sent to a worker "
        "process: "
    )
    assert str(caught.value).endswith("; pass a function that makes the env and changes it")
    assert "\n" not in str(caught.value)


def test_an_env_without_a_spec_whose_pickle_holds_only_arguments():
    env = Remade()
    env.gravity = 5.5
    assert env_factory(TimeLimit(env, 9)).build().unwrapped.gravity == 5.5


def test_the_statistics_of_a_wrapper_are_copied():
    env = NormalizeReward(gym.make("CartPole-v1"))
    env.return_rms.var = np.array(4.0)
    assert env_factory(env).build().return_rms.var == 4.0


def test_the_env_itself_stays_open_and_as_it_was(make):
    env = make()
    env.reset(seed=5)
    env.unwrapped.gravity = 1.0
    state = env.unwrapped.np_random.bit_generator.state
    env_factory(env)
    assert env.unwrapped.np_random.bit_generator.state == state
    env.step(0)


class Color(Enum):
    RED = 1
    BLUE = 2


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Named(list):
    pass


def named(values, name):
    made = Named(values)
    made.name = name
    return made


def adder(number):
    return lambda value: value + number


def circle(value):
    made = Body(value)
    made.self = made
    return made


@pytest.mark.parametrize(
    ("first", "equal", "other"),
    [
        (1, 1, 2),
        (1, 1, True),
        (1.0, 1.0, np.float64(1.0)),
        (float("nan"), float("nan"), 0.0),
        (-1, -1, -2),
        ("a", "a", "b"),
        (None, None, 0),
        (Color.RED, Color.RED, Color.BLUE),
        (np.arange(3), np.arange(3), np.arange(4)),
        (np.array([np.nan]), np.array([np.nan]), np.array([0.0])),
        (np.zeros(2), np.zeros(2), np.zeros(2, np.float32)),
        (np.array(["a", None], object), np.array(["a", None], object), np.array(["b", None], object)),
        ([1, (2, {"a": 3})], [1, (2, {"a": 3})], [1, (2, {"a": 4})]),
        ([1], [1], [1, 2]),
        ({"a": 1}, {"a": 1}, {"b": 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}),
        ({1, 2}, {2, 1}, {1, 3}),
        (deque([1], maxlen=3), deque([1], maxlen=3), deque([2], maxlen=3)),
        (Body(np.ones(2)), Body(np.ones(2)), Body(np.zeros(2))),
        (circle(1), circle(1), circle(2)),
        (Slotted(1), Slotted(1), Slotted(2)),
        (named([1], "a"), named([1], "a"), named([1], "b")),
        (adder(1), adder(1), adder(2)),
        (datetime(2020, 1, 1), datetime(2020, 1, 1), datetime(2020, 1, 2)),
        (gym.spaces.Discrete(3), gym.spaces.Discrete(3), gym.spaces.Discrete(4)),
        (np.random.default_rng(1), np.random.default_rng(2), None),
        (threading.Lock(), threading.Lock(), None),
    ],
)
def test_values_that_are_equal_and_others(first, equal, other):
    envs = [gym.Env(), gym.Env(), gym.Env()]
    for env, value in zip(envs, (first, equal, other), strict=True):
        env.observation_space = env.action_space = gym.spaces.Discrete(2)
        env.value = value
    assert differences(envs[0], envs[1]) == []
    assert differences(envs[0], envs[2]) == [(0, "value")]


def test_tensors_of_an_env():
    torch = pytest.importorskip("torch")
    envs = [gym.Env(), gym.Env(), gym.Env()]
    for env, value in zip(envs, (1.0, 1.0, 2.0), strict=True):
        env.observation_space = env.action_space = gym.spaces.Discrete(2)
        env.model = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(env.model.weight, value)
        torch.nn.init.zeros_(env.model.bias)
    assert differences(envs[0], envs[1]) == []
    assert differences(envs[0], envs[2]) == [(0, "model")]


# --- the working directory ----------------------------------------------------------------------------------


class Silencing(Simulated):
    def __init__(self):
        super().__init__()
        sys.stdout = sys.stderr = None


def test_a_constructor_that_takes_the_streams_away(monkeypatch):
    streams = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)  # restored even if this test fails
    InlinePool(env_factory(Silencing, max_episode_steps=5), 1).close()
    assert (sys.stdout, sys.stderr) == streams


def test_a_constructor_that_changes_the_working_directory(tmp_path):
    class Moving(Simulated):
        def __init__(self):
            super().__init__()
            os.chdir(tmp_path)

    before = os.getcwd()
    env_factory(Moving)
    assert os.getcwd() == before
