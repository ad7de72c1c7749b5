import os
import sys
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction, TimeLimit, TransformReward

from workers.envs import env_factory
from workers.errors import EnvError
from workers.testing import FaultWrapper, ProbeEnv, probe_obs


def layers(env):
    names = []
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    return [*names, type(env).__name__]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package outside the project whose import registers envs; what it registers is removed again."""
    folder = tmp_path / "some_envs"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import gymnasium\n"
        "from workers.testing import ProbeEnv\n"
        "def needs_extra():\n"
        "    raise gymnasium.error.DependencyNotInstalled('no engine; run `pip install engine`')\n"
        "gymnasium.register('Probe-v3', entry_point='workers.testing:ProbeEnv', max_episode_steps=9)\n"
        "gymnasium.register('Extra-v0', entry_point=needs_extra)\n"
        "gymnasium.register('Nowhere-v0', entry_point='no_such_module:Env')\n"
    )
    (tmp_path / "broken_envs.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(gym.registry)
    yield "some_envs"
    for env_id in set(gym.registry) - known:
        del gym.registry[env_id]
    sys.modules.pop("some_envs", None)


def test_a_registered_id():
    factory = env_factory("CartPole-v1")
    assert factory.name == "CartPole-v1"
    assert factory.observation_space.shape == (4,)
    assert factory.action_space == gym.spaces.Discrete(2)
    assert factory.has_time_limit
    # No passive checker: the worker checks every observation itself.
    assert layers(factory.build()) == ["TimeLimit", "OrderEnforcing", "CartPoleEnv"]


def test_each_build_is_a_new_env():
    factory = env_factory("CartPole-v1")
    first, second = factory.build(), factory.build()
    first.reset(seed=1)
    second.reset(seed=2)
    state = second.unwrapped.state
    first.step(0)
    np.testing.assert_array_equal(second.unwrapped.state, state)


def test_an_id_with_its_module(package):
    factory = env_factory(f"{package}:Probe-v3")
    assert factory.name == "Probe-v3"
    # As in a worker, which has not imported the package.
    for env_id in ("Probe-v3", "Extra-v0", "Nowhere-v0"):
        del gym.registry[env_id]
    del sys.modules[package]
    env = factory.build()
    np.testing.assert_array_equal(env.reset(seed=5)[0], probe_obs(5))
    assert package in sys.modules


def test_a_spec():
    spec = gym.spec("CartPole-v1")
    assert layers(env_factory(spec).build()) == ["TimeLimit", "OrderEnforcing", "CartPoleEnv"]


def test_keyword_arguments_reach_the_constructor():
    for env in (ProbeEnv, "Probe-v0"):
        if env == "Probe-v0":
            gym.register(env, entry_point=ProbeEnv)
        try:
            factory = env_factory(env, env_kwargs={"shape": (3, 4), "dtype": "uint8"})
        finally:
            gym.registry.pop("Probe-v0", None)
        assert factory.observation_space == gym.spaces.Box(0, 255, (3, 4), np.uint8)
        assert factory.build().observation_space == factory.observation_space


def test_a_class_and_a_function():
    factory = env_factory(ProbeEnv)
    assert (factory.name, factory.has_time_limit) == ("ProbeEnv", False)
    shape = (2, 2)
    factory = env_factory(lambda: TimeLimit(ProbeEnv(shape=shape), 7))
    assert factory.observation_space.shape == (2, 2)
    assert factory.has_time_limit


def test_an_env_is_rebuilt_from_its_spec_with_all_its_wrappers():
    env = TransformReward(
        RescaleAction(gym.make("Pendulum-v1", g=9.0, max_episode_steps=33), np.float32(-1), np.float32(1)),
        lambda reward: 2 * reward,
    )
    env.reset(seed=1)
    factory = env_factory(env)
    copy = factory.build()
    assert factory.name == "Pendulum-v1"
    assert layers(copy) == ["TransformReward", "RescaleAction", "TimeLimit", "OrderEnforcing", "PendulumEnv"]
    assert copy.unwrapped.g == 9.0
    assert copy.get_wrapper_attr("_max_episode_steps") == 33
    assert factory.has_time_limit
    for each in (env, copy):
        each.reset(seed=3)
    action = np.array([0.5], np.float32)
    for mine, theirs in zip(env.step(action)[:4], copy.step(action)[:4], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert copy.unwrapped is not env.unwrapped


def test_an_env_without_a_spec_is_copied():
    env = ProbeEnv(shape=(5,))
    env.reset(seed=8)
    copy = env_factory(env).build()
    assert type(copy) is ProbeEnv
    assert copy is not env
    np.testing.assert_array_equal(copy.reset(seed=9)[0], probe_obs(9, (), (5,)))


def test_an_env_that_differs_from_its_spec_is_copied():
    """Its spec says 500 steps, but the wrapper was taken off."""
    env = gym.make("CartPole-v1").unwrapped
    factory = env_factory(env)
    assert layers(factory.build()) == ["CartPoleEnv"]
    assert not factory.has_time_limit

    env = gym.make("CartPole-v1").unwrapped
    env.observation_space = gym.spaces.Box(-9, 9, (4,), np.float32)
    assert env_factory(env).build().observation_space == env.observation_space


def test_an_env_whose_wrapper_did_not_record_its_arguments_is_copied():
    env = FaultWrapper(gym.make("CartPole-v1"), "reward_nan", at_step=1)
    copy = env_factory(env).build()
    assert layers(copy)[0] == "FaultWrapper"
    copy.reset(seed=1)
    assert np.isnan(copy.step(0)[1])


# --- time limits --------------------------------------------------------------------------------------------


def steps_until_the_end(factory):
    env = factory.build()
    env.reset(seed=2)
    for step in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample() * 0)
        if terminated or truncated:
            return step, terminated, truncated
    return None


@pytest.mark.parametrize(
    ("env", "limit", "steps"),
    [
        ("Pendulum-v1", None, 200),
        ("Pendulum-v1", 17, 17),
        ("Pendulum-v1", 300, 300),  # replaces the registered limit, also by a later one
        (gym.spec("Pendulum-v1"), 19, 19),
        (lambda: gym.make("Pendulum-v1"), 23, 23),
        (lambda: gym.make("Pendulum-v1").unwrapped, 29, 29),
    ],
    ids=["registered", "id-17", "id-300", "spec", "function", "bare"],
)
def test_time_limits(env, limit, steps):
    factory = env_factory(env, max_episode_steps=limit)
    assert factory.has_time_limit
    assert steps_until_the_end(factory) == (steps, False, True)


def test_a_time_limit_for_an_existing_env():
    factory = env_factory(gym.make("Pendulum-v1"), max_episode_steps=11)
    assert factory.has_time_limit
    assert steps_until_the_end(factory) == (11, False, True)


def test_an_env_without_a_time_limit():
    factory = env_factory(lambda: gym.make("Pendulum-v1").unwrapped)
    assert not factory.has_time_limit
    assert steps_until_the_end(factory) is None


# --- what cannot be used ------------------------------------------------------------------------------------


def refusal(env, **options):
    with pytest.raises(EnvError) as caught:
        env_factory(env, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPoole-v1", "unknown env id 'CartPoole-v1'; did you mean 'CartPole-v1'?"),
        ("CartPole-v77", "unknown env id 'CartPole-v77'; did you mean"),
        ("Zzzzzzzzzzzzzzz-v0", "unknown env id 'Zzzzzzzzzzzzzzz-v0': "),
        ("no_such_module:Env-v0", "cannot import 'no_such_module' of the env id 'no_such_module:Env-v0'"),
        ("broken_envs:Env-v0", "cannot import 'broken_envs' of the env id 'broken_envs:Env-v0'"),
        ("some_envs:Prob-v3", "unknown env id 'some_envs:Prob-v3'; did you mean 'Probe-v3'?"),
        (
            "some_envs:Extra-v0",
            "Extra-v0 needs a package that is not installed: no engine; run `pip install engine`",
        ),
        ("some_envs:Nowhere-v0", "the constructor of Nowhere-v0 raised ModuleNotFoundError: No module named"),
        (17, "an env is given as id, EnvSpec, class, function or env, not as int"),
        (lambda: "CartPole-v1", "<lambda> returned str, not a gymnasium.Env"),
    ],
)
@pytest.mark.usefixtures("package")
def test_what_is_no_env(env, message):
    assert message in str(refusal(env))


@pytest.mark.parametrize(("fault", "text"), [("raise", "ValueError: boom"), ("system_exit", "SystemExit: 3")])
def test_a_constructor_that_raises(fault, text):
    error = refusal(lambda: FaultWrapper(ProbeEnv(), fault, stage="init"))
    assert str(error) == f"the constructor of <lambda> raised {text}"
    assert "in _happens" in error.traceback


def test_keyword_arguments_for_an_existing_env():
    assert "env_kwargs cannot be applied" in str(refusal(ProbeEnv(), env_kwargs={"shape": (2,)}))


class Locked(ProbeEnv):
    def __init__(self):
        super().__init__()
        self.guard = threading.Lock()


def test_the_attribute_that_cannot_be_pickled_is_named():
    assert "Locked cannot be sent to a worker process: guard: cannot pickle" in str(refusal(Locked()))
    assert "process: env.guard: cannot pickle" in str(refusal(TimeLimit(Locked(), 5)))


def test_the_variable_that_cannot_be_pickled_is_named():
    my_lock = threading.Lock()

    def make():
        with my_lock:
            return ProbeEnv()

    assert "make cannot be sent to a worker process: my_lock: cannot pickle" in str(refusal(make))
    assert "process: make.my_lock: cannot pickle" in str(refusal(lambda: TimeLimit(make(), 5)))


def test_the_argument_that_cannot_be_pickled_is_named():
    error = refusal(lambda lock: ProbeEnv(), env_kwargs={"lock": threading.Lock()})
    assert "process: lock: cannot pickle" in str(error)


def test_trial_envs_are_closed_and_nothing_is_said(capfd):
    """Copies are made only to look at them."""
    closed = []

    class Closing(ProbeEnv):
        def close(self):
            closed.append(self)

    os.environ.pop("PYTHONWARNINGS", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env_factory(lambda: TimeLimit(Closing(), 5))
        env_factory(gym.make("CartPole-v1"))
    assert capfd.readouterr() == ("", "")
    assert len(closed) == 1
