"""The checks of what an env returns. In this process: pools add nothing to them."""

import dataclasses

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from helpers import factory_of, faulty

from workers.block import EnvBlock
from workers.envs import env_factory
from workers.errors import EnvFailure
from workers.pool import TERMINATED, TRUNCATED
from workers.rows import pack
from workers.slab import SlabLayout
from workers.testing import CompositeProbe, FaultWrapper, ProbeEnv, probe_obs, probe_reward


def block_of(factory, num_envs=3, first_env=0):
    slab = SlabLayout(factory.observation_space, factory.action_space, num_envs).attach()
    return EnvBlock(factory, first_env, slab), slab


class Canned(gym.Env):
    """Returns the same values at reset and at each step."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space, obs, reward=0.0, flags=(False, False)):
        """The space is given as a dtype, if it is to be a Box for the observation."""
        if not isinstance(space, gym.Space):
            space = gym.spaces.Box(0, 1, np.shape(obs), np.dtype(space).type)
        self.observation_space = space
        self._obs, self._reward, self._flags = obs, reward, flags

    def reset(self, *, seed=None, options=None):
        return self._obs, {}

    def step(self, action):
        return self._obs, self._reward, *self._flags, {}


def canned_block(*args, **kwargs):
    return block_of(env_factory(lambda: Canned(*args, **kwargs)), 1)


def test_rows_hold_what_the_envs_returned_and_others_are_left_alone():
    block, slab = block_of(env_factory(ProbeEnv))
    block.reset([0, 1, 2], [10, 11, 12])
    slab.action[:] = [4, 2, 3]
    block.step([0, 2])
    for row, seed, actions in ((0, 10, [4]), (1, 11, []), (2, 12, [3])):
        np.testing.assert_array_equal(slab.obs[row], probe_obs(seed, actions))
        want = probe_reward(probe_obs(seed), actions[0]) if actions else 0.0
        assert slab.reward[row] == want
    block.close()


@pytest.mark.parametrize("flags", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_flags(flags):
    block, slab = canned_block("float32", [0.5], flags=tuple(map(np.bool_, flags)))
    block.reset([0], [0])
    block.step([0])
    assert bool(slab.flags[0] & TERMINATED) == flags[0]
    assert bool(slab.flags[0] & TRUNCATED) == flags[1]
    block.reset([0], [1])
    assert slab.flags[0] == 0


BAD_OBS = [
    # fault, dtype of the space, what the message says
    ("obs_short", "float32", r"shape \(7,\), its space says \(8,\)"),
    ("obs_size_one", "float32", r"shape \(1,\), its space says \(8,\)"),
    ("obs_300", "uint8", r"dtype int64, its space says uint8, which cannot hold \d{3} at index \(0,\)$"),
    ("obs_complex", "float32", "dtype complex128, its space says float32"),
    ("obs_object", "float32", "dtype object, its space says float32"),
    ("obs_ragged", "float32", "no array: ValueError"),
    ("obs_dict", "float32", r"type dict, its space says float32 of shape \(8,\)"),
    ("obs_none", "float32", r"type NoneType, its space says float32 of shape \(8,\)"),
    ("obs_nan", "float32", r"not finite as float32: nan at index \(3,\)$"),
    ("obs_nan", "uint8", r"dtype float64, its space says uint8, which cannot hold nan at index \(3,\)$"),
    ("obs_inf", "float64", r"not finite as float64: -inf at index \(0,\)$"),
]


@pytest.mark.parametrize("stage", ["reset", "step"])
@pytest.mark.parametrize(("fault", "dtype", "message"), BAD_OBS)
def test_a_bad_observation_is_refused_and_named(fault, dtype, message, stage):
    factory = env_factory(lambda: FaultWrapper(ProbeEnv(dtype=dtype), fault, stage=stage, seed=21, at_step=2))
    block, _ = block_of(factory, first_env=40)
    block.reset([0, 1, 2], [10, 11, 12])
    where = "step 0" if stage == "reset" else "step 2"
    with pytest.raises(EnvFailure, match=f"^env 41, seed 21, {where}: returned an observation.*{message}"):
        play(block)


def play(block):
    """The second episode of the env in row 1."""
    block.reset([0, 1], [20, 21])
    block.step([0, 1])
    block.step([0, 1])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("reward_none", "the reward None, which is not a number"),
        ("reward_text", "the reward 'much', which is not a number"),
        ("reward_list", r"the reward of shape \(2,\); prl takes one number: add a wrapper"),
        ("reward_nan", "the reward nan, which is not a finite float32"),
        ("reward_inf", "the reward inf, which is not a finite float32"),
        ("reward_huge", r"the reward 1e\+39, which is not a finite float32"),
    ],
)
def test_a_bad_reward_is_refused_and_named(fault, message):
    block, _ = block_of(env_factory(lambda: FaultWrapper(ProbeEnv(), fault, seed=21, at_step=2)))
    block.reset([0, 1, 2], [10, 11, 12])
    with pytest.raises(EnvFailure, match=f"^env 1, seed 21, step 2: returned {message}"):
        play(block)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (np.float64(0.1), None),
        (np.float64(-3e38), None),
        (np.float64(np.nan), r"the reward np.float64\(nan\), which is not a finite float32"),
        (np.float64(1e39), r"the reward np.float64\(1e\+39\), which is not a finite float32"),
        (3.4028236e38, r"the reward 3\.4028236e\+38, which is not a finite float32"),  # rounds to the largest
    ],
)
def test_rewards_of_float64(reward, message):
    block, slab = canned_block("float32", [0.5], reward)
    block.reset([0], [0])
    if message is None:
        block.step([0])
        assert slab.reward[0] == np.float32(reward)
        return
    with pytest.raises(EnvFailure, match=f"^env 0, seed 0, step 1: returned {message}$"):
        block.step([0])


def test_a_number_that_is_not_finite_is_found_among_many():
    block, _ = canned_block("float32", np.zeros((300, 100), np.float32))
    block.reset([0], [0])
    block.step([0])
    block._envs[0].env.unwrapped._obs[299, 98] = np.nan
    with pytest.raises(EnvFailure, match=r"not finite as float32: nan at index \(299, 98\)$"):
        block.step([0])


@pytest.mark.parametrize(("row", "seed", "step"), [(0, 4, 2), (1, 2, 3), (2, 3, 4)])
def test_each_env_counts_its_own_steps(row, seed, step):
    """Whether all envs step, or some of them, and with episodes that start at different times."""
    block, slab = block_of(env_factory(lambda: Canned("float32", [0.5])))
    block.reset([0, 1, 2], [1, 2, 3])
    block.step([0, 1, 2])
    block.step([0, 2])
    block.reset([0], [4])
    block.step([0, 1, 2])
    block._envs[row].env.unwrapped._reward = None
    with pytest.raises(EnvFailure, match=f"^env {row}, seed {seed}, step {step}: returned the reward"):
        block.step([0, 1, 2])
    np.testing.assert_array_equal(slab.flags, 0)


def test_flags_are_those_of_the_last_step():
    block, slab = block_of(env_factory(lambda: Canned("float32", [0.5])))
    block.reset([0, 1, 2], [1, 2, 3])
    for row, flags, ended in ((1, (True, True), [0, 3, 0]), (2, (0, np.True_), [0, 3, 2])):
        block._envs[row].env.unwrapped._flags = flags
        block.step([0, 1, 2] if row == 1 else [0, 2])
        assert slab.flags.tolist() == ended
    block._envs[1].env.unwrapped._flags = (np.False_, False)
    block.step([0, 1, 2])
    assert slab.flags.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("dtype", "obs"),
    [
        ("float32", [0.25, 0.5]),  # a list
        ("float32", np.array([0.25, 0.5], np.float64)),
        ("float64", np.array([0.25, 0.5], np.float32)),
        ("float32", (np.uint8(1), np.uint8(0))),
        ("int8", np.array([-3, 127], np.int64)),  # wider, but the values fit
        ("uint8", np.array([True, False])),
        ("int64", 1),  # a scalar for the shape ()
        (np.bool_, np.array([True, False])),
        (np.bool_, [False, True]),
        (np.bool_, np.array([1, 0], np.int8)),
        ("float32", np.array([0, 2**24], np.int64)),  # integers that the floats hold exactly
        ("float32", [-3, 2**25]),
        ("float16", [2048, 4096]),
        ("float64", np.array([2**60], np.uint64)),
        ("int64", np.array([3.0, -(2.0**63)])),  # and the other way round
        ("uint8", np.array([0.0, 255.0], np.float16)),
        (np.bool_, [0.0, 1.0]),
        ("float32", np.array([0.5, 1, True], object)),  # as a row of a data frame is
        ("float32", np.ma.masked_array([0.5, 1.0], [False, False])),
        ("float32", np.arange(6.0)[::-2]),  # gaps in memory
    ],
)
def test_an_observation_that_loses_nothing_is_taken(dtype, obs):
    block, slab = canned_block(dtype, obs)
    block.reset([0], [0])
    np.testing.assert_array_equal(slab.obs[0], obs)
    assert slab.obs.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "obs"),
    [
        ("int64", 0.5),
        ("uint8", np.array([-1], np.int64)),
        ("uint64", np.array([-1], np.int64)),
        ("int64", np.array([2**63], np.uint64)),
        ("float32", np.array([2**24 + 1], np.int64)),
        ("float64", np.array([2**63 - 1], np.int64)),
        ("float16", np.array([70_000], np.int64)),
        ("float32", np.array([1e300])),
        ("int64", np.array([2.0**63])),
        ("uint8", [256.0]),
        ("uint8", [-1.0]),
        ("int32", [np.inf]),
        (np.bool_, np.array([2, 0], np.int8)),
        (np.bool_, [0.5, 1.0]),
        ("float32", ["0.5"]),
        ("float32", np.array(["0.5", 1.0], object)),
        ("float32", np.array([None, 1.0], object)),
        ("float32", np.array([1j])),
        ("int64", np.array(["2020-01-01"], "datetime64[D]")),
    ],
)
def test_an_observation_whose_value_could_change_is_refused(dtype, obs):
    block, _ = canned_block(dtype, obs)
    with pytest.raises(EnvFailure, match="an observation of dtype"):
        block.reset([0], [0])


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (gym.spaces.Discrete(4), 3, 4),
        (gym.spaces.Discrete(4, start=-2), -2, np.int64(2)),
        (gym.spaces.MultiDiscrete([2, 3]), [1, 2], [2, 0]),
        (gym.spaces.MultiBinary(2), [0, 1], np.array([0, 2], np.int8)),
    ],
)
def test_an_observation_outside_of_a_discrete_space_is_refused(space, inside, outside):
    factory = env_factory(lambda: Canned(space, inside))
    block, slab = block_of(factory, 3, first_env=5)
    block.reset([0, 1, 2], [1, 2, 3])
    block.step([0, 2])
    np.testing.assert_array_equal(slab.obs, [inside] * 3)
    block._envs[1].env.unwrapped._obs = outside
    with pytest.raises(EnvFailure, match=r"^env 6, seed 2, step 1: returned an observation outside of its"):
        block.step([0, 1, 2])
    with pytest.raises(EnvFailure, match=r"^env 6, seed 1, step 0: returned an observation outside of its"):
        block.reset([1], [1])


def test_an_observation_outside_of_its_space_is_found_in_the_next_episode_too():
    factory = env_factory(lambda: Canned(gym.spaces.Discrete(4), 1, flags=(True, False)))
    block, _ = block_of(factory, 2)
    block.reset([0, 1], [1, 2])
    block._envs[1].reset = lambda seed: (4, {})
    with pytest.raises(EnvFailure, match=r"^env 1, seed 4, step 0: returned an observation outside .*: 4$"):
        block.step([0, 1], [3, 4])


GOAL = gym.spaces.Dict(goal=gym.spaces.Tuple([gym.spaces.Discrete(4), gym.spaces.Box(-1, 1, (2,))]))


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(16, np.uint8), "observation of type ndarray, its space says dict"),  # as if it were a row
        ({}, r"no observation\['goal'\], which its space has"),
        ({"goal": (1, [0.0, 0.0]), "more": 1}, r"observation\['more'\], which its space does not have"),
        ({"goal": (1,)}, r"observation\['goal'\] of length 1, its space says 2"),
        ({"goal": (1, [0.0])}, r"observation\['goal'\]\[1\] of shape \(1,\), its space says \(2,\)"),
        ({"goal": (1, [np.inf, 0])}, r"observation\['goal'\]\[1\] that is not finite as float32"),
        ({"goal": (5, [0.0, 0.0])}, r"observation\['goal'\]\[0\] outside of its space Discrete\(4\): 5"),
    ],
)
def test_a_bad_leaf_is_refused_and_named(obs, message):
    factory = env_factory(lambda: Canned(GOAL, {"goal": (2, np.array([0.25, 0.5]))}))
    block, slab = block_of(factory, first_env=40)
    assert slab.obs.shape == (3, 16)
    block.reset([0, 1, 2], [10, 11, 12])
    block.step([0, 1])
    row = np.int64(2).tobytes() + np.array([0.25, 0.5], np.float32).tobytes()
    assert [each.tobytes() for each in slab.obs] == [row] * 3
    block._envs[1].env.unwrapped._obs = obs
    with pytest.raises(EnvFailure, match=f"^env 41, seed 11, step 2: returned {message}"):
        block.step([0, 1, 2])


def test_a_mask_that_is_missing_later_is_an_error_that_names_its_step():
    block, _ = block_of(env_factory("Taxi-v4"), 2)
    block.reset([0, 1], [1, 2])
    block.step([0, 1])
    env = block._envs[1].env.env
    step = env.step
    env.step = lambda action: (*step(action)[:4], {"prob": 1.0})
    message = r"^env 1, seed 2, step 2: info has no 'action_mask', though the one of the first reset had$"
    with pytest.raises(EnvFailure, match=message) as caught:
        block.step([0, 1])
    assert caught.value.traceback == ""


def test_what_is_left_out_of_observations_is_not_looked_at():
    space = gym.spaces.Dict(text=gym.spaces.Text(5), x=gym.spaces.Discrete(9))
    factory = env_factory(lambda: Canned(space, {"text": "hello", "x": 7}))
    block, slab = block_of(factory, 2)
    block.reset([0, 1], [1, 2])
    block._envs[0].env.unwrapped._obs = {"text": None, "x": 8}
    block.step([0, 1])
    assert slab.obs.view(np.int64).tolist() == [[8], [7]]


def test_other_spaces_than_the_first_ones_after_leaving_out():
    factory = env_factory(
        lambda: Canned(gym.spaces.Dict(t=gym.spaces.Text(5), x=gym.spaces.Discrete(9)), None)
    )
    for other, message in ((gym.spaces.Text(7), None), (gym.spaces.Discrete(2), "Dict.*Discrete.2.")):
        space = gym.spaces.Dict(t=other, x=gym.spaces.Discrete(9))
        payload = cloudpickle.dumps(lambda space=space: Canned(space, None))
        changed = dataclasses.replace(factory, payload=payload)
        if message is None:
            block_of(changed)
            continue
        with pytest.raises(EnvFailure, match=f"^env 0: its observation_space is {message}"):
            block_of(changed)


def test_nested_actions_own_their_memory():
    kept = []

    class Keeps(gym.Wrapper):
        def step(self, action):
            kept.append(action)
            return self.env.step(action)

    factory = env_factory(CompositeProbe)
    block, slab = block_of(factory, 2)
    block._envs[:] = [Keeps(env.env) for env in block._envs]
    factory.action_space.seed(5)
    actions = [factory.action_space.sample() for _ in range(2)]
    block.reset([0, 1], [10, 11])
    for row, action in enumerate(actions):
        slab.action[row] = pack(factory.action_space, action)
    block.step([0, 1])
    slab.action[:] = 255
    for found, action in zip(kept, actions, strict=True):
        assert type(found) is dict
        assert type(found["kind"]) is int
        assert type(found["move"]) is tuple
        assert found["kind"] == action["kind"]
        for mine, theirs in zip(found["move"], action["move"], strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


def test_observations_are_copied_from_the_env():
    """An env may write each observation into the same array."""
    obs = np.zeros(2, np.float32)
    block, slab = canned_block("float32", obs)
    block.reset([0], [0])
    obs[:] = 1.0
    np.testing.assert_array_equal(slab.obs[0], [0.0, 0.0])


def test_discrete_actions_are_plain_ints_and_box_actions_own_their_memory():
    class Keeps(ProbeEnv):
        kept = ()

        def step(self, action):
            Keeps.kept += (action,)
            return super().step(action)

    block, slab = block_of(factory_of(Keeps), 1)
    block._envs[:] = [Keeps()]  # factories copy local classes; this one is to be looked at
    block.reset([0], [0])
    block.step([0])
    assert type(Keeps.kept[0]) is int

    box = env_factory(ProbeEnv, env_kwargs={"box_action": True})
    block, slab = block_of(box, 1)
    block._envs[:] = [Keeps(box_action=True)]
    block.reset([0], [0])
    slab.action[:] = 1.5
    block.step([0])
    slab.action[:] = 0.0  # the env keeps the action that it got
    np.testing.assert_array_equal(Keeps.kept[1], np.array([1.5, 1.5], np.float32))


def start_and_step(block):
    block.reset([0], [9])
    block.step([0])


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "ValueError: boom"),
        ("raise_awkward", "AwkwardError: left and right"),
        ("system_exit", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize(
    ("stage", "call"), [("reset", r"seed 9, step 0: reset\(seed=9\)"), ("step", r"step 1: step\(0\)")]
)
def test_an_env_that_raises_is_named(fault, text, stage, call):
    block, _ = block_of(faulty(fault, stage=stage), 1, first_env=3)
    with pytest.raises(EnvFailure, match=f"^env 3, .*{call} raised {text}") as caught:
        start_and_step(block)
    assert type(caught.value.__cause__).__name__ == text.partition(":")[0]


class Closing(ProbeEnv):
    """The second one cannot be built. Counts how many are open."""

    built = 0
    closed = 0

    def __init__(self, limit):
        super().__init__()
        if Closing.built == limit:
            raise RuntimeError("no licence left")
        Closing.built += 1

    def close(self):
        Closing.closed += 1


def test_envs_are_closed_again_when_a_later_one_cannot_be_built(monkeypatch):
    monkeypatch.setattr(Closing, "built", 0)
    monkeypatch.setattr(Closing, "closed", 0)
    with pytest.raises(EnvFailure, match=r"^env 2: its constructor raised RuntimeError: no licence left"):
        block_of(factory_of(lambda: Closing(2)))
    assert Closing.closed == 2


@pytest.mark.parametrize("fault", ["raise", "system_exit"])
def test_close_closes_every_env_whatever_the_first_one_does(monkeypatch, fault):
    monkeypatch.setattr(Closing, "closed", 0)
    monkeypatch.setattr(Closing, "built", 0)
    block, _ = block_of(factory_of(lambda: FaultWrapper(Closing(9), "slow", stage="init")), 2)
    block._envs[0] = FaultWrapper(Closing(9), fault, stage="close")
    block.close()
    block.close()
    assert Closing.closed == 1  # the second; the first broke before it got that far
