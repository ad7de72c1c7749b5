"""The checks of what an env returns. In this process: pools add nothing to them."""

import gymnasium as gym
import numpy as np
import pytest
from helpers import factory_of, faulty

from workers.block import EnvBlock
from workers.envs import env_factory
from workers.errors import EnvFailure
from workers.protocol import TERMINATED, TRUNCATED
from workers.slab import SlabLayout
from workers.testing import FaultWrapper, ProbeEnv, probe_obs, probe_reward


def block_of(factory, num_envs=3, first_env=0):
    slab = SlabLayout(factory.observation_space, factory.action_space, num_envs).attach()
    return EnvBlock(factory, first_env, slab), slab


class Canned(gym.Env):
    """Returns what it is told to, at reset and at each step."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, dtype, obs, reward=0.0, flags=(False, False)):
        self.observation_space = gym.spaces.Box(0, 1, np.shape(obs), np.dtype(dtype).type)
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
    ("obs_300", "uint8", "dtype int64, its space says uint8"),
    ("obs_300", "float32", "dtype int64, its space says float32"),
    ("obs_complex", "float32", "dtype complex128, its space says float32"),
    ("obs_object", "float32", "dtype object, its space says float32"),
    ("obs_ragged", "float32", "no array: ValueError"),
    ("obs_dict", "float32", "dtype object, its space says float32"),
    ("obs_none", "float32", "dtype object, its space says float32"),
    ("obs_nan", "float32", "not finite: .*nan"),
    ("obs_nan", "uint8", "dtype float64, its space says uint8"),
    ("obs_inf", "float64", "not finite: .*inf"),
]


@pytest.mark.parametrize("stage", ["reset", "step"])
@pytest.mark.parametrize(("fault", "dtype", "message"), BAD_OBS)
def test_a_bad_observation_is_refused_and_named(fault, dtype, message, stage):
    factory = env_factory(lambda: FaultWrapper(ProbeEnv(dtype=dtype), fault, stage=stage, seed=21, at_step=2))
    block, _ = block_of(factory, first_env=40)
    block.reset([0, 1, 2], [10, 11, 12])
    where = "step 0" if stage == "reset" else "step 2"
    with pytest.raises(EnvFailure, match=f"^env 41, episode 1, {where}: returned an observation.*{message}"):
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
        ("reward_list", r"the reward \[1.0\], which is not a number"),
        ("reward_nan", "the reward nan, which is not a finite float32"),
        ("reward_inf", "the reward inf, which is not a finite float32"),
        ("reward_huge", r"the reward 1e\+39, which is not a finite float32"),
    ],
)
def test_a_bad_reward_is_refused_and_named(fault, message):
    block, _ = block_of(env_factory(lambda: FaultWrapper(ProbeEnv(), fault, seed=21, at_step=2)))
    block.reset([0, 1, 2], [10, 11, 12])
    with pytest.raises(EnvFailure, match=f"^env 1, episode 1, step 2: returned {message}"):
        play(block)


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
        ("float32", ["0.5"]),
    ],
)
def test_an_observation_whose_value_could_change_is_refused(dtype, obs):
    block, _ = canned_block(dtype, obs)
    with pytest.raises(EnvFailure, match="an observation of dtype"):
        block.reset([0], [0])


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
    block._envs = [Keeps()]  # factories copy local classes; this one is to be looked at
    block.reset([0], [0])
    block.step([0])
    assert type(Keeps.kept[0]) is int

    box = env_factory(ProbeEnv, env_kwargs={"box_action": True})
    block, slab = block_of(box, 1)
    block._envs = [Keeps(box_action=True)]
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
    ("stage", "call"), [("reset", r"episode 0, step 0: reset\(seed=9\)"), ("step", r"step 1: step\(0\)")]
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
