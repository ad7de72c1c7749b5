import dataclasses
import importlib
import os
import sys
import threading
import types
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction, TimeLimit, TransformReward

from workers.envs import env_factory
from workers.errors import EnvError
from workers.process_pool import ProcessPool
from workers.rows import unpack
from workers.testing import FaultWrapper, ProbeEnv, probe_obs, probe_reward


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
        "class Doubled(gymnasium.ObservationWrapper):\n"
        "    def observation(self, observation):\n"
        "        return 2 * observation\n"
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


def test_a_module_in_the_current_directory_is_pointed_at(tmp_path, monkeypatch):
    """An installed command looks for modules where Python is installed, and not where the user is."""
    (tmp_path / "my_file.py").touch()
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("my_file", "my_package"):
        hint = f"; {name} is in the current directory, where `python -m prl` looks, in place of `prl`"
        assert str(refusal(f"{name}:Env-v0")).endswith(f"No module named '{name}'{hint}")
        assert str(refusal("CartPole-v1", wrappers=[f"{name}:Wrapper"])).endswith(hint)
    assert "current directory" not in str(refusal("no_such_module:Env-v0"))


@pytest.mark.parametrize(("fault", "text"), [("raise", "ValueError: boom"), ("system_exit", "SystemExit: 3")])
def test_a_constructor_that_raises(fault, text):
    error = refusal(lambda: FaultWrapper(ProbeEnv(), fault, stage="init"))
    assert str(error) == f"the constructor of <lambda> raised {text}"
    assert "in _trigger" in error.traceback


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


def test_trial_envs_are_closed_and_nothing_is_said(capfd, tmp_path):
    """Copies are made only to look at them."""
    closed = tmp_path / "closed"

    class Closing(ProbeEnv):
        def close(self):
            with closed.open("a") as file:
                file.write(".")

    os.environ.pop("PYTHONWARNINGS", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env_factory(lambda: TimeLimit(Closing(), 5))
        env_factory(gym.make("CartPole-v1"))
    assert capfd.readouterr() == ("", "")
    assert closed.read_text() == "."


# --- wrappers by name ---------------------------------------------------------------------------------------

STACK = "gymnasium.wrappers:FrameStackObservation(stack_size=4)"
TIME = "gymnasium.wrappers:TimeAwareObservation"


@pytest.mark.parametrize(
    "env",
    ["CartPole-v1", gym.spec("CartPole-v1"), lambda: gym.make("CartPole-v1"), gym.make("CartPole-v1")],
    ids=["id", "spec", "function", "env"],
)
def test_wrappers_are_put_around_from_the_inside_out(env):
    factory = env_factory(env, wrappers=[TIME, STACK], max_episode_steps=3)
    names = layers(factory.build())
    assert names[:3] == ["FrameStackObservation", "TimeAwareObservation", "TimeLimit"]
    assert factory.observation_space.shape == (4, 5)
    assert factory.has_time_limit
    assert steps_until_the_end(factory) == (3, False, True)
    assert env_factory(env, wrappers=[STACK, TIME]).observation_space.shape == (4 * 4 + 1,)


def test_wrappers_are_not_put_around_twice():
    wrapped = env_factory("CartPole-v1", wrappers=[STACK]).build()
    names = ["FrameStackObservation", "TimeLimit", "OrderEnforcing", "CartPoleEnv"]
    assert layers(env_factory(wrapped).build()) == names
    again = env_factory(wrapped, wrappers=[TIME]).build()
    assert layers(again) == ["TimeAwareObservation", *names]


def test_keyword_values_of_wrappers_are_literals():
    env = env_factory(
        ProbeEnv, wrappers=["gymnasium.wrappers:ClipReward(min_reward=-1.0, max_reward = 2)"]
    ).build()
    assert layers(env) == ["ClipReward", "ProbeEnv"]
    env.reset(seed=4)
    assert probe_reward(probe_obs(4), 0) > 2
    assert env.step(0)[1] == 2
    wrapper = "workers.testing:FaultWrapper(fault='reward_none', stage='step', at_step=2, seed=None)"
    env = env_factory(ProbeEnv, wrappers=[wrapper]).build()
    env.reset(seed=4)
    assert [env.step(0)[1] is None for _ in range(2)] == [False, True]


def test_the_class_of_a_wrapper_is_found_in_a_worker(package):
    factory = env_factory(ProbeEnv, wrappers=[f"{package}:Doubled"])
    with ProcessPool(factory, 1, 1) as pool:
        pool.reset(np.zeros(1, np.int64), [5])
        np.testing.assert_array_equal(pool.recv().obs[0], 2 * probe_obs(5))


MALFORMED = (
    "a wrapper is given as 'module:Class' or 'module:Class(key=value, ...)' with literal values, not as"
)


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("TimeLimit", MALFORMED),
        (":TimeLimit", MALFORMED),
        ("gymnasium.wrappers:", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(5)", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(**{'max_episode_steps': 5})", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(max_episode_steps=2 + len('abc'))", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(max_episode_steps=__import__('os').getpid())", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(max_episode_steps=1, max_episode_steps=2)", MALFORMED),
        ("gymnasium.wrappers:TimeLimit(max_episode_steps=1)(2)", MALFORMED),
        ("gymnasium.wrappers:TimeLimmit", "is unknown: AttributeError: module 'gymnasium.wrappers' has no"),
        (
            "gymnasium.wrapers:TimeLimit",
            "cannot import the wrapper 'gymnasium.wrapers:TimeLimit': ModuleNotFound",
        ),
        ("gymnasium:__version__", "the wrapper 'gymnasium:__version__' is not a class"),
        (
            "gymnasium.wrappers:TimeLimit(steps=5)",
            "the wrapper 'gymnasium.wrappers:TimeLimit(steps=5)' raised TypeError: ",
        ),
        ("builtins:repr", "the wrapper 'builtins:repr' made a str, not a gymnasium.Env"),
    ],
)
def test_what_is_no_wrapper(wrapper, message):
    assert message in str(refusal("CartPole-v1", wrappers=[wrapper]))


# --- action masks -------------------------------------------------------------------------------------------


class Masked(ProbeEnv):
    """Tells in its info which actions it takes."""

    def __init__(self, mask, action_space=None, space=None):
        super().__init__()
        self.mask = mask
        self.space = space
        if action_space is not None:
            self.action_space = action_space
        if space is not None:
            self.observation_space = space

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return (obs if self.space is None else self.space.sample()), info | {"action_mask": self.mask}


@pytest.mark.parametrize(
    "env",
    ["Taxi-v4", gym.spec("Taxi-v4"), lambda: gym.make("Taxi-v4"), gym.make("Taxi-v4")],
    ids=["id", "spec", "function", "env"],
)
def test_a_mask_becomes_a_part_of_the_observation(env):
    factory = env_factory(env)
    space = gym.spaces.Dict([("obs", gym.spaces.Discrete(500)), ("action_mask", gym.spaces.MultiBinary(6))])
    assert factory.observation_space == space
    assert list(factory.observation_space.spaces) == ["obs", "action_mask"]
    assert factory.mask_from_info
    assert factory.has_time_limit
    built = factory.build()
    assert built.observation_space == space
    obs, info = built.reset(seed=0)
    assert obs["obs"] == 314
    for _ in range(20):
        assert obs["action_mask"].dtype == np.int8
        np.testing.assert_array_equal(obs["action_mask"], info["action_mask"])
        obs, _, _, _, info = built.step(int(np.flatnonzero(obs["action_mask"])[0]))


def test_a_mask_is_added_once():
    built = env_factory("Taxi-v4").build()
    factory = env_factory(built)
    assert layers(factory.build()) == layers(built)
    assert factory.observation_space == built.observation_space
    assert not factory.mask_from_info  # it is a part of the env's own observation


SPACES = gym.spaces
BITS = SPACES.MultiBinary(2)


@pytest.mark.parametrize(
    ("action_space", "length"),
    [
        (SPACES.Discrete(3, start=-1), 3),
        (SPACES.MultiDiscrete([[2, 3], [1, 4]]), 10),
        (SPACES.MultiBinary([2, 3]), 12),
        (SPACES.Dict(b=BITS, a=SPACES.Tuple([SPACES.Discrete(3), SPACES.MultiDiscrete([2, 2])])), 11),
    ],
)
def test_the_length_of_a_mask(action_space, length):
    for mask in (np.ones(length, np.bool_), np.ones((1, length, 1), np.int64), [1] * length):
        factory = env_factory(Masked, env_kwargs={"mask": mask, "action_space": action_space})
        assert factory.observation_space["action_mask"] == SPACES.MultiBinary(length)
        np.testing.assert_array_equal(factory.build().reset(seed=1)[0]["action_mask"], np.ones(length))


@pytest.mark.parametrize("last", [{}, {"action_mask": None}])
def test_the_last_observation_of_an_episode_needs_no_mask(last):
    class Ends(Masked):
        def step(self, action):
            return self.observation_space.sample(), 0.0, True, False, last

    env = env_factory(Ends, env_kwargs={"mask": [1] * 5}).build()
    env.reset(seed=0)
    assert env.step(0)[0]["action_mask"].tolist() == [1] * 5


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"a": [1, 1]}, "is object of shape (), not 5 numbers 0 or 1, the parts one after the other"),
        (([1, 1], [1, 1, 1]), "is not one flat array of 5 elements"),
        ([1, 1], "is int64 of shape (2,), not 5 numbers 0 or 1"),
    ],
)
def test_a_mask_that_is_no_flat_array_is_refused(mask, message):
    error = refusal(Masked, env_kwargs={"mask": mask})
    assert f"has an action mask that does not fit its actions: info['action_mask'] {message}" in str(error)


def test_an_env_whose_actions_have_no_masks_is_no_copy_of_one_whose_actions_have():
    factory = env_factory("Taxi-v4")
    factory = dataclasses.replace(factory, payload=env_factory("Pendulum-v1").payload)
    with pytest.raises(ValueError, match=r"the actions of Box.* have no masks"):
        factory.build()


def test_a_mask_joins_the_keys_of_a_dict():
    space = SPACES.Dict([("z", SPACES.Discrete(2)), ("text", SPACES.Text(4)), ("a", SPACES.Discrete(3))])
    factory = env_factory(Masked, env_kwargs={"mask": [1, 0, 1, 0, 0], "space": space})
    assert list(factory.observation_space.spaces) == ["z", "a", "action_mask"]
    obs = factory.build().reset(seed=0)[0]
    assert list(obs) == ["z", "a", "action_mask"]
    assert obs["action_mask"].tolist() == [1, 0, 1, 0, 0]

    own = SPACES.Dict(action_mask=SPACES.MultiBinary(5), x=SPACES.Discrete(2))
    factory = env_factory(Masked, env_kwargs={"mask": "another one", "space": own})
    assert (factory.observation_space, factory.mask_from_info) == (own, False)


def test_actions_without_masks_and_infos_without_them():
    box = SPACES.Dict(a=SPACES.Discrete(2), b=SPACES.Box(0, 1))
    for action_space in (box, SPACES.Box(0, 1)):
        factory = env_factory(Masked, env_kwargs={"mask": None, "action_space": action_space})
        assert not factory.mask_from_info
        assert factory.observation_space.shape == (8,)
    assert not env_factory("CartPole-v1").mask_from_info


def test_a_mask_for_actions_that_are_only_partly_choices_is_refused():
    space = SPACES.Dict(a=SPACES.Discrete(2), b=SPACES.Box(0, 1))
    with pytest.raises(EnvError, match="Masked gives an 'action_mask', but parts of its actions cannot be"):
        env_factory(Masked, env_kwargs={"mask": np.ones(2, np.int8), "action_space": space})


def test_ids_that_a_package_registers_on_import_are_named_with_it():
    with pytest.raises(EnvError, match=r"unknown env id 'MiniGrid-Foo-v0'.*: minigrid:MiniGrid-Foo-v0$"):
        env_factory("MiniGrid-Foo-v0")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(4, np.int8), "int8 of shape (4,), not 5 numbers 0 or 1"),
        (np.full(5, 0.5, np.float32), "holds other numbers than 0 and 1: [0.5, 0.5, 0.5, 0.5, 0.5]"),
        (
            np.array([1.0, np.nan, 0.0, 1.0, 1.0]),
            "holds other numbers than 0 and 1: [1.0, nan, 0.0, 1.0, 1.0]",
        ),
        (["1", "1", "1", "1", "0"], "<U1 of shape (5,), not 5 numbers 0 or 1"),
        (None, "object of shape (), not 5 numbers 0 or 1"),
        ([0, 1, 2, 0, 0], "holds other numbers than 0 and 1: [0, 1, 2, 0, 0]"),
        ([[1, 0], [1, 0, 1]], "ValueError: setting an array element"),
    ],
)
def test_what_is_no_mask(mask, message):
    error = refusal(Masked, env_kwargs={"mask": mask})
    assert str(error).startswith("Masked has an action mask that does not fit its actions: ")
    assert message.removeprefix("ValueError: ") in str(error)


@pytest.mark.parametrize(("fault", "text"), [("raise", "ValueError: boom"), ("system_exit", "SystemExit: 3")])
def test_a_first_reset_that_raises(fault, text):
    error = refusal(lambda: FaultWrapper(ProbeEnv(), fault, stage="reset"))
    assert str(error) == f"reset(seed=0) of <lambda> raised {text}"
    assert "in _trigger" in error.traceback
    # Actions that cannot have masks are not tried.
    env_factory(lambda: FaultWrapper(ProbeEnv(box_action=True), fault, stage="reset"))


# --- spaces -------------------------------------------------------------------------------------------------


class Spaces(gym.Env):
    """Samples its observations, and refuses actions that are none."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}


def spaces_of(observation_space, action_space=BITS):
    return lambda: Spaces(observation_space, action_space)


def test_what_is_not_made_of_numbers_is_left_out():
    inner = SPACES.Tuple(
        [SPACES.Sequence(BITS), BITS, SPACES.OneOf([BITS, BITS]), SPACES.Dict(a=SPACES.Text(3))]
    )
    space = SPACES.Dict(
        [("z", inner), ("g", SPACES.Graph(SPACES.Discrete(2), None)), ("b", SPACES.Box(0, 1))]
    )
    factory = env_factory(spaces_of(space))
    assert factory.ignored_observations == (
        "observation['z'][0] (Sequence)",
        "observation['z'][2] (OneOf)",
        "observation['z'][3]['a'] (Text)",
        "observation['g'] (Graph)",
    )
    assert factory.observation_space == SPACES.Dict(z=SPACES.Tuple([BITS]), b=SPACES.Box(0, 1))
    assert list(factory.observation_space.spaces) == ["z", "b"]
    env = factory.build()
    assert env.observation_space == factory.observation_space
    obs = env.reset(seed=3)[0]
    assert factory.observation_space.contains(obs)
    space.seed(3)
    np.testing.assert_array_equal(obs["z"][0], space.sample()["z"][1])
    # As a whole env: its observation has nothing to leave out any more.
    again = env_factory(env)
    assert (again.observation_space, again.ignored_observations) == (factory.observation_space, ())


def test_nothing_is_left_out_of_numbers():
    factory = env_factory(spaces_of(SPACES.Dict(a=BITS, b=SPACES.Tuple([SPACES.Discrete(2)]))))
    assert factory.ignored_observations == ()
    assert type(factory.build()) is Spaces


def test_minigrid():
    minigrid = pytest.importorskip("minigrid")
    assert minigrid
    factory = env_factory("minigrid:MiniGrid-Empty-5x5-v0")
    assert factory.ignored_observations == ("observation['mission'] (MissionSpace)",)
    assert list(factory.observation_space.spaces) == ["direction", "image"]
    assert sorted(factory.build().reset(seed=1)[0]) == ["direction", "image"]


TEXT = SPACES.Text(3)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (TEXT, BITS, "its elements are not numeric arrays"),
        (SPACES.Sequence(BITS), BITS, "its elements are not numeric arrays"),
        (SPACES.Dict(a=TEXT), BITS, "the elements of its part ['a'] are not numeric arrays"),
        (SPACES.Dict(), BITS, "it holds no numbers"),
        (BITS, TEXT, "its elements are not numeric arrays"),
        (BITS, SPACES.Tuple([BITS, TEXT]), "the elements of its part [1] are not numeric arrays"),
        (BITS, SPACES.Dict(), "it holds no numbers"),
    ],
)
def test_spaces_that_cannot_be_used(observation_space, action_space, message):
    error = refusal(spaces_of(observation_space, action_space))
    kind = "action" if observation_space is BITS else "observation"
    assert str(error).startswith(f"the {kind} space of <lambda>: the space ")
    assert str(error).endswith(f"is not supported: {message}")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"action_space": BITS}, "Bare has no observation_space; its constructor has to set one"),
        ({"observation_space": BITS}, "Bare has no action_space; its constructor has to set one"),
        (
            {"observation_space": None, "action_space": BITS},
            "the observation_space of Bare is of type NoneType, not a gymnasium.Space",
        ),
        (
            {"observation_space": BITS, "action_space": 2},
            "the action_space of Bare is of type int, not a gymnasium.Space",
        ),
        (
            {"observation_space": BITS, "action_space": property(lambda self: 1 / 0)},
            "the action_space of Bare raised ZeroDivisionError: division by zero",
        ),
    ],
)
def test_an_env_without_spaces_is_refused_in_one_line(own, message):
    assert str(refusal(type("Bare", (gym.Env,), own))) == message


def test_one_observation_and_one_action_of_a_plain_space():
    """Of a player with a single env: every env takes an int, fewer take NumPy scalars."""
    assert type(unpack(SPACES.Discrete(5), np.array([3])[0])) is int
    action = unpack(SPACES.Box(-1, 1, (2,)), np.array([0.5, 1.0], np.float32))
    assert (action.dtype, action.tolist()) == (np.float32, [0.5, 1.0])
    assert unpack(SPACES.Box(-1, 1, ()), np.float32(0.5)).shape == ()


def test_where_nobody_acts_a_mask_may_be_missing():
    class Ending(gym.Env):
        observation_space = SPACES.Discrete(2)
        action_space = SPACES.Discrete(3)

        def reset(self, *, seed=None, options=None):
            return 0, {"action_mask": [0, 1, 1]}

        def step(self, action):
            return 1, 0.0, action == 1, False, {}

    env = env_factory(Ending, max_episode_steps=5).build()
    assert env.reset(seed=0)[0]["action_mask"].tolist() == [0, 1, 1]
    assert env.step(1)[0]["action_mask"].tolist() == [1, 1, 1]
    env.reset(seed=0)
    with pytest.raises(ValueError, match="info has no 'action_mask'"):
        env.step(2)


# --- the user's wishes --------------------------------------------------------------------------------------


@pytest.fixture
def registered_with_a_limit_inside():
    gym.register("Inside-v0", entry_point=lambda: gym.make("Pendulum-v1"))
    yield
    del gym.registry["Inside-v0"]


@pytest.mark.parametrize("limit", [150, 500])
@pytest.mark.usefixtures("registered_with_a_limit_inside")
@pytest.mark.parametrize(
    "env",
    [
        "Inside-v0",
        lambda: gym.make("Pendulum-v1"),
        lambda: TransformReward(TimeLimit(gym.make("Pendulum-v1"), 300), abs),
        gym.make("Pendulum-v1"),
    ],
    ids=["id", "function", "two-limits", "env"],
)
def test_a_limit_replaces_those_of_the_env(env, limit):
    factory = env_factory(env, max_episode_steps=limit)
    assert steps_until_the_end(factory) == (limit, False, True)
    assert factory.notes == ()


class Limited(ProbeEnv):
    def __init__(self, max_steps=40):
        super().__init__()
        self.max_steps = max_steps


def test_a_shorter_limit_inside_the_env_is_noted():
    assert env_factory(Limited, max_episode_steps=40).notes == ()
    assert env_factory(Limited).notes == ()
    (note,) = env_factory(Limited, max_episode_steps=41).notes
    assert note.startswith("Limited ends its episodes itself after 40 steps (max_steps), so a limit of 41 ")
    assert env_factory(lambda: TransformReward(Limited(), abs), max_episode_steps=41).notes != ()
    assert env_factory(Limited, env_kwargs={"max_steps": True}, max_episode_steps=41).notes == ()


@pytest.mark.parametrize("limit", [0, -1, 10.0, "10"])
@pytest.mark.parametrize("env", ["CartPole-v1", ProbeEnv])
def test_a_limit_is_a_positive_integer(env, limit):
    message = f"max_episode_steps must be an integer of at least 1, got {limit!r}"
    assert str(refusal(env, max_episode_steps=limit)) == message


def test_a_function_that_returns_an_existing_env_leaves_that_alone():
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    env.unwrapped.force_mag = 3.0
    state = env.unwrapped.state
    copy = env_factory(lambda: env, max_episode_steps=7).build()
    assert env.unwrapped.state is state
    assert copy.unwrapped is not env.unwrapped
    assert (copy.unwrapped.force_mag, copy._max_episode_steps) == (3.0, 7)
    assert env._max_episode_steps == 500


def test_an_env_that_is_said_to_end_by_itself():
    assert not env_factory(ProbeEnv).has_time_limit
    assert env_factory(ProbeEnv, ends_by_itself=True).has_time_limit


def test_masks_of_the_info_are_ignored():
    factory = env_factory("Taxi-v4", use_action_masks=False)
    assert (factory.mask_from_info, factory.observation_space) == (False, gym.spaces.Discrete(500))
    assert layers(factory.build())[0] == "TimeLimit"
    # Even one that does not fit.
    env_factory(Masked, env_kwargs={"mask": "nonsense"}, use_action_masks=False)


def test_masks_of_the_observation_are_observations_like_any_other():
    space = SPACES.Dict(x=SPACES.Discrete(3), action_mask=SPACES.MultiBinary(5))
    factory = env_factory(spaces_of(space, SPACES.Discrete(5)), use_action_masks=False)
    assert factory.observation_space == SPACES.Dict(
        x=SPACES.Discrete(3), plain_action_mask=SPACES.MultiBinary(5)
    )
    env = factory.build()
    assert env.observation_space == factory.observation_space
    assert env.reset(seed=1)[0] in factory.observation_space
    assert "action_mask" in env_factory(spaces_of(space, SPACES.Discrete(5))).observation_space.spaces


@pytest.mark.parametrize("fault", ["raise", "system_exit"])
def test_a_trial_env_whose_close_raises(fault):
    factory = env_factory(lambda: FaultWrapper(ProbeEnv(), fault, stage="close"))
    assert factory.observation_space.shape == (8,)


@pytest.mark.usefixtures("real_trials")
def test_ids_of_this_process_are_known_to_functions_in_workers(package):
    """By a class, by a name in a package that workers do not import, and one that cannot be pickled."""
    lock = threading.Lock()
    gym.register("Local-v0", entry_point=ProbeEnv, kwargs={"shape": (3,)})
    gym.register("Wrapped-v0", entry_point=lambda: TimeLimit(gym.make("Local-v0"), 5))
    gym.register("Locked-v0", entry_point=lambda: (lock, ProbeEnv())[1])
    importlib.import_module(package)
    with pytest.raises(EnvError, match=r"Locked.*cannot be pickled: Locked-v0; register it in a module"):
        env_factory(lambda: gym.make("Locked-v0"))
    for env, shape in [
        (lambda: gym.make("Local-v0"), (3,)),
        (lambda: gym.make("Probe-v3"), (8,)),
        ("Wrapped-v0", (3,)),
    ]:
        with ProcessPool(env_factory(env), 1, 1) as pool:
            pool.reset(np.zeros(1, np.int64), [5])
            np.testing.assert_array_equal(pool.recv().obs[0], probe_obs(5, (), shape))


# --- the old gym package ------------------------------------------------------------------------------------


@pytest.fixture
def old_gym(monkeypatch, tmp_path):
    """What there is of the old gym package once something has imported it."""
    registration = types.ModuleType("gym.envs.registration")
    registration.registry = types.SimpleNamespace(env_specs={"Flappy-v0": None})
    monkeypatch.setitem(sys.modules, "gym.envs.registration", registration)
    (tmp_path / "flappy.py").write_text("")
    (tmp_path / "without_gym.py").write_text("raise ModuleNotFoundError('No module', name='gym')")
    monkeypatch.syspath_prepend(tmp_path)
    return type("Env", (), {"__module__": "gym.core"})


def test_envs_of_the_old_gym_package(old_gym):
    class Flappy(old_gym):
        pass

    advice = (
        "the old gym package, which prl does not use: look for a version of it for gymnasium, "
        "or convert it with shimmy"
    )
    for env, message in [
        ("flappy:Flappy-v0", f"unknown env id 'flappy:Flappy-v0'; it is registered with {advice}"),
        (
            "without_gym:Flappy-v0",
            f"cannot import 'without_gym' of the env id 'without_gym:Flappy-v0': it was written for {advice}",
        ),
        (Flappy, f"Flappy returned Flappy, not a gymnasium.Env; it is of {advice}"),
        (
            Flappy(),
            "an env is given as id, EnvSpec, class, function or env, not as Flappy; it is an env of "
            f"{advice}",
        ),
    ]:
        assert str(refusal(env)) == message


def test_ids_that_prl_registers_are_named_with_their_module(monkeypatch):
    from prl import pools

    assert pools
    monkeypatch.delitem(sys.modules, "prl.chain", raising=False)
    monkeypatch.delitem(gym.registry, "prl/Chain-v0", raising=False)
    assert str(refusal("prl/Chain-v0")).endswith(
        "; its package registers it on import: prl.chain:prl/Chain-v0"
    )
