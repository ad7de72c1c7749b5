"""Odd values that `step` and `reset` return: taken where nothing is lost, else named in one line."""

import decimal
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import OrderEnforcing, RecordEpisodeStatistics, TimeLimit, TransformReward
from helpers import run_python

from workers.block import EnvBlock
from workers.envs import env_factory
from workers.errors import EnvFailure, WorkerEnvFailed
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.returns import ReturnError, api_error, flag_of, reset_values, reward_of, step_values
from workers.rows import pack
from workers.slab import SlabLayout
from workers.wrappers import ActionMask, NumericObservation, PlainActionMask


class Detached:
    """Like a tensor that has a gradient: no array, but a number."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach() first")

    def __float__(self):
        return 2.0


@pytest.mark.parametrize(
    ("reward", "want"),
    [
        (2, 2.0),
        (True, 1.0),
        (np.float16(0.5), 0.5),
        (np.int64(-3), -3.0),
        (np.array(2.0), 2.0),
        (np.array([2.0]), 2.0),
        (np.array([[2]]), 2.0),
        ([2.0], 2.0),
        (np.array([2.5], object), 2.5),
        (decimal.Decimal("0.5"), 0.5),
        (Detached(), 2.0),
    ],
)
def test_one_number_is_a_reward_whatever_holds_it(reward, want):
    found = reward_of(reward)
    assert type(found) is float
    assert found == want


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "the reward None, which is not a number"),
        ("1.5", "the reward '1.5', which is not a number"),
        (["1.5"], r"the reward \['1.5'\], which is not a number"),
        (b"1", "the reward b'1', which is not a number"),
        (1j, "the reward 1j, which is not a number"),
        (np.datetime64("2020-01-01"), "the reward .*datetime64.*, which is not a number"),
        (np.ma.masked_array([1.0], [True]), "the reward masked_array.*, which is not a number"),
        ({"a": 1.0, "b": 2.0}, "the reward {.*}, which is not a number; .* not one per agent"),
        (np.array([1.0, 2.0]), r"the reward of shape \(2,\); prl takes one number: add a wrapper"),
        ([0, 0], r"the reward of shape \(2,\); prl takes one number"),
        ([], r"the reward of shape \(0,\); prl takes one number"),
        (math.nan, "the reward nan, which is not a finite float32"),
        (np.array([-math.inf]), r"the reward array\(\[-inf\]\), which is not a finite float32"),
        (10**400, "the reward 1000.*000, which is not a finite float32"),
        (1e39, r"the reward 1e\+39, which is not a finite float32"),
    ],
)
def test_what_is_no_reward_is_named_in_one_short_line(reward, message):
    with pytest.raises(ReturnError, match=f"^returned {message}") as caught:
        reward_of(reward)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("flag", [True, False])
def test_one_bool_is_a_flag_whatever_holds_it(flag):
    for kind in (np.bool_, int, float, np.int8, np.float32, np.array, lambda x: np.array([x]), lambda x: [x]):
        assert flag_of(kind(flag), "terminated") is flag


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("False", "'False', which is neither True nor False$"),
        (math.nan, "nan, which is neither True nor False$"),
        (None, "None, which is neither True nor False$"),
        (2, "2, which is neither True nor False$"),
        (np.array([0.5]), r"array\(\[0.5\]\), which is neither True nor False$"),
        ({"a": False, "__all__": False}, "{.*}, which is neither .*; prl takes one bool per env"),
        ({}, "{}, which is neither True nor False; .* not one per agent$"),
        ([False, False], r"of shape \(2,\); prl takes one bool: add a wrapper that makes one of them$"),
        (np.zeros(3, bool), r"of shape \(3,\); prl takes one bool"),
    ],
)
def test_what_is_no_flag_is_named(flag, message):
    with pytest.raises(ReturnError, match=f"^returned truncated {message}"):
        flag_of(flag, "truncated")


def test_values_of_step_and_reset():
    values = (1, 0.0, False, False, {})
    assert step_values(values) == values
    assert tuple(step_values(list(values))) == values
    assert reset_values((1, {})) == (1, {})
    assert reset_values([1, None]) == (1, None)


STEP = "not the 5 values observation, reward, terminated, truncated and info"
OLD = r" \(an env of the old gym API\? shimmy adapts those\)"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((1, 0.0, False, {}), f"4 values, {STEP}{OLD}$"),
        ((1, 0.0, 0.0, False, False, {}), f"6 values, {STEP}$"),
        ((1,), f"1 value, {STEP}$"),
        (None, f"None, {STEP}$"),
        (np.zeros(5), f"a value of type ndarray, {STEP}$"),  # five elements, but no five values
        (dict.fromkeys("abcde"), f"a value of type dict, {STEP}$"),
    ],
)
def test_other_values_of_step(returned, message):
    with pytest.raises(ReturnError, match=f"^step returned {message}"):
        step_values(returned)


RESET = "not the 2 values observation and info"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(2), f"reset returned a value of type ndarray, {RESET}{OLD}$"),
        ({"a": 1, "b": 2}, f"reset returned a value of type dict, {RESET}{OLD}$"),
        ([0.5, 0.5], "reset returned observation and info, but info is of type float, not a dict$"),
        ((1, 2, {}), f"reset returned 3 values, {RESET}$"),
        (None, f"reset returned None, {RESET}$"),
    ],
)
def test_other_values_of_reset(returned, message):
    with pytest.raises(ReturnError, match=f"^{message}"):
        reset_values(returned)


# --- the same behind wrappers, which unpack what an env returns ---------------------------------------------


OBS = np.zeros(2, np.float32)


class Returns(gym.Env):
    """An env that returns what it was made with."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, reset=(OBS, {}), step=(OBS, 0.0, False, False, {})):
        self.on_reset, self.on_step = reset, step

    def reset(self, *, seed=None, options=None):
        return self.on_reset

    def step(self, action):
        return self.on_step


class OldReset(Returns):
    def reset(self):
        return np.zeros(2)


class Raises(Returns):
    def step(self, action):
        one, two, three, four, five = self.on_step[:4]  # its own mistake
        return one, two, three, four, five


def block_of(env):
    """A block whose only env is this one."""
    block = EnvBlock(
        env_factory(Returns),
        0,
        SlabLayout(Returns.observation_space, Returns.action_space, 1).attach(),
    )
    block._envs[:] = [env]
    return block


def failure_of(env):
    with pytest.raises(EnvFailure) as caught:
        reset_and_step(block_of(env))
    return caught.value


def reset_and_step(block):
    block.reset([0], [7])
    block.step([0])


BARE = {"reset": np.zeros(3, np.float32)}
FOUR = {"step": (OBS, 0.0, False, {})}
SIX = {"step": (OBS, 0.0, 0.0, False, False, {})}
NONE = {"step": None}
WRAPPERS = {
    "none": lambda env: env,
    "time limit": lambda env: OrderEnforcing(TimeLimit(env, 9)),
    "statistics": lambda env: RecordEpisodeStatistics(TimeLimit(env, 9)),
    "reward": lambda env: TransformReward(env, lambda reward: reward),
    "numeric": NumericObservation,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (FOUR, "step returned 4 values, not the 5 values .*shimmy"),
        (SIX, "step returned (6|more than 5) values, not the 5 values observation, reward"),
        (NONE, "step returned None, not the 5 values"),
        (
            BARE,
            "reset returned (a value of type ndarray|3 values|more than 2 values), not the 2 values .*shimmy",
        ),
    ],
)
def test_a_wrong_number_of_values_is_named_behind_wrappers_too(returned, message, wrap):
    failure = failure_of(wrap(Returns(**returned)))
    step = 1 if "step" in returned else 0
    assert failure.args[0].startswith(f"env 0, seed 7, step {step}: ")
    with pytest.raises(EnvFailure, match=message):
        raise failure
    assert failure.traceback == ""  # there is no code of the env to be shown


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_reset_without_seed_is_named(wrap):
    failure = failure_of(wrap(OldReset()))
    assert "step 0: reset takes no argument 'seed', as Gymnasium's does" in str(failure)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_mistakes_of_an_env_in_its_own_code_stay_its_own(wrap):
    failure = failure_of(wrap(Raises()))
    assert "step(0) raised ValueError: not enough values to unpack (expected 5, got 4)" in str(failure)
    assert "one, two, three, four, five = " in failure.traceback


def test_an_exception_that_was_never_raised_says_nothing_about_the_api():
    assert api_error(ValueError("not enough values to unpack (expected 5, got 4)")) is None


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        (np.zeros(2), "a value of type ndarray"),
        ({"obs": 1, "more": 2}, "a value of type dict"),  # two keys are no observation and info
    ],
)
def test_prls_own_wrappers_name_a_bare_reset(reset, message):
    for env in (ActionMask(Returns(reset=reset)), NumericObservation(Returns(reset=reset))):
        with pytest.raises(ReturnError, match=f"^reset returned {message}, not the 2"):
            env.reset(seed=1)


def test_a_mask_is_taken_as_floats_and_only_looked_for_where_actions_follow():
    first = (OBS, {"action_mask": np.array([1.0, 0.0])})
    env = ActionMask(Returns(reset=first, step=(OBS, 0.0, np.array([True]), False, None)))
    mask = env.reset(seed=1)[0]["action_mask"]
    assert (mask.dtype, mask.tolist()) == (np.int8, [1, 0])
    assert env.step(0)[0]["action_mask"].tolist() == [1, 1]
    env.env.on_step = (OBS, 0.0, False, False, None)
    with pytest.raises(ReturnError, match=r"^info has no 'action_mask'"):
        env.step(0)
    env.env.on_step = (OBS, 0.0, {"a": True}, False, {})
    with pytest.raises(
        ReturnError, match=r"^returned terminated {'a': True}, which is neither True nor False"
    ):
        env.step(0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([True, False], object), ""),
        (np.array([1, 0.5], object), "holds other numbers than 0 and 1"),
        (np.array([1, "a"], object), "is <U21 of shape"),
        ([1], "is int64 of shape (1,)"),
        ([[1], [1, 2]], "is not one flat array of 2 elements"),
    ],
)
def test_odd_masks_in_info(mask, message):
    env = ActionMask(Returns(reset=(OBS, {"action_mask": mask}), step=None))
    if not message:
        assert env.reset(seed=1)[0]["action_mask"].tolist() == [1, 0]
        return
    with pytest.raises(ReturnError) as caught:
        env.reset(seed=1)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; --no-action-masks (use_action_masks=False) ignores masks")


def test_tensors_with_a_gradient_are_numbers_and_arrays(recwarn):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(1, requires_grad=True) * 2
    assert reward_of(tensor) == 2.0
    assert pack(gym.spaces.Box(-9, 9, (1,)), tensor).tolist() == [2.0]
    assert not recwarn.list


def test_an_ignored_mask_is_an_observation_like_any_other():
    class Masked(Returns):
        observation_space = gym.spaces.Dict(action_mask=gym.spaces.MultiBinary(2), x=gym.spaces.Discrete(3))

    obs = {"action_mask": np.array([1, 0], np.int8), "x": 2}
    env = PlainActionMask(Masked(reset=(obs, {}), step=(None, 0.0, False, False, {})))
    assert list(env.observation_space.spaces) == ["plain_action_mask", "x"]
    assert env.observation_space.contains(env.reset(seed=1)[0])
    assert env.step(0)[0] is None  # left for the checks of the worker


# --- what a user sees ---------------------------------------------------------------------------------------


def in_this_process(factory):
    return InlinePool(factory, 1)


def in_a_worker(factory):
    return ProcessPool(factory, 1, 1, step_timeout=20.0)


@pytest.mark.parametrize("make", [in_this_process, in_a_worker])
def test_a_traceback_is_shown_only_if_it_leads_to_the_code_of_the_env(make):
    """Of a value that is refused, the only code to be shown is prl's own."""
    bad_reward = Returns(step=(OBS, "much", False, False, {}))
    bad_obs = Returns(step=(OBS[:1], 0.0, False, False, {}))
    tracebacks = []
    for env in (bad_reward, bad_obs, Raises()):
        with make(env_factory(env, max_episode_steps=9)) as pool, pytest.raises(WorkerEnvFailed) as caught:
            play_a_step(pool)
        tracebacks.append(caught.value.traceback)
    assert tracebacks[:2] == ["", ""]
    assert "one, two, three, four, five = " in tracebacks[2]
    assert "EnvFailure" not in tracebacks[2]


def play_a_step(pool):
    env_ids = np.zeros(1, np.int64)
    pool.reset(env_ids, [1])
    pool.recv()
    pool.send(env_ids, env_ids)
    pool.recv()


def test_a_worker_does_not_import_masked_arrays_to_find_none():
    code = "import sys, workers.child; print('numpy.ma' in sys.modules)"
    assert run_python(["-c", code]) == ["False"]
