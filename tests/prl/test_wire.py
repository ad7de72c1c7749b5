"""Weights and rollouts as bytes: what goes in comes out, and what makes no sense is refused."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from helpers import same_fields
from player_world import kind_of
from telling_envs import Telling

from learner.actor import Actor
from learner.policy import ActorCritic
from prl.training.group_round import PlayingTime, play_groups
from prl.training.wire import RolloutCodec, WeightsLayout
from prl.training.worker_players import player_kit
from workers.envs import env_factory
from workers.errors import ProtocolError
from workers.final_infos import SUCCESS, info_column
from workers.inline_pool import InlinePool
from workers.seeding import Stream
from workers.testing import CompositeProbe, ProbeEnv

SECONDS = PlayingTime(1.5, 0.25, 3.0)
ENVS = {
    "vector": ProbeEnv,
    "bytes": lambda: ProbeEnv(shape=(2, 4), dtype="uint8"),
    "scalar": lambda: ProbeEnv(shape=(), dtype="float64"),
    "continuous": lambda: ProbeEnv(box_action=True),
    "nested": CompositeProbe,
    "telling": Telling,
}
COLUMNS = (SUCCESS, info_column("distance"))


def played(env="vector", num_steps=None, seed=3):
    """A codec, and something to encode with it."""
    factory = env_factory(ENVS[env], max_episode_steps=100)
    policy = ActorCritic(factory.observation_space, factory.action_space, (4,))
    kit = player_kit(policy)
    with InlinePool(factory, 3, COLUMNS) as pool:
        task = kind_of(num_steps, policy, 3, seed).task(7, np.arange(3), (Stream.NOISE, 0))
        (part,) = play_groups(pool, Actor(policy).now(), [task])
    return kit.codec(), part


@pytest.mark.parametrize("num_steps", [None, 1, 25])
@pytest.mark.parametrize("env", ENVS)
def test_a_rollout_comes_out_as_it_went_in(env, num_steps):
    codec, part = played(env, num_steps)
    found, seconds = codec.decode(codec.encode(part, SECONDS), 2)
    same_fields(part, found)
    assert seconds == SECONDS
    assert (found.obs is None) == (num_steps is None)
    assert found.group == 7


def test_a_round_in_which_no_episode_has_ended_has_none():
    codec, part = played(num_steps=1)
    assert len(part.episodes.lengths) == 0
    assert codec.decode(codec.encode(part, SECONDS), 2)[0].episodes.returns.shape == (0,)


@pytest.mark.parametrize("num_steps", [None, 4])
def test_a_rollout_that_is_cut_anywhere_is_refused(num_steps):
    codec, part = played(num_steps=num_steps)
    payload = codec.encode(part, SECONDS)
    for size in [*range(0, 100), *range(100, len(payload), 37), len(payload) - 1]:
        with pytest.raises(ProtocolError, match="not a rollout"):
            codec.decode(payload[:size], 2)
    with pytest.raises(ProtocolError, match=f"{len(payload) + 1} bytes, expected {len(payload)}"):
        codec.decode(payload + b"\0", 2)


@pytest.mark.parametrize("where", range(1, 5), ids=["steps", "ends", "episodes", "envs"])
@pytest.mark.parametrize("change", [1, 10**6, 1 << 62])
def test_counts_that_do_not_fit_are_refused(where, change):
    codec, part = played(num_steps=4)
    payload = bytearray(codec.encode(part, SECONDS))
    numbers = np.frombuffer(payload, np.int64, 8)
    numbers[where] += change
    with pytest.raises(ProtocolError, match="not a rollout"):
        codec.decode(bytes(payload), 2)


def test_a_codec_of_another_space_refuses_it():
    codec, part = played()
    other = RolloutCodec(Box(-1.0, 1.0, (3,), np.float32), Discrete(5))
    with pytest.raises(ProtocolError):
        other.decode(codec.encode(part, SECONDS), 2)


def test_another_number_of_infos_is_refused():
    codec, part = played("telling")
    assert np.isfinite(part.episodes.infos[:, 1]).all()
    for other in (0, 1, 3):
        with pytest.raises(ProtocolError, match="not a rollout"):
            codec.decode(codec.encode(part, SECONDS), other)


# ---- weights


def test_every_array_has_its_own_aligned_place():
    rng = np.random.default_rng(0)
    arrays = [
        rng.random(3),
        rng.random((2, 2)),
        *(rng.random(s).astype(np.float32) for s in [(5,), (3, 1), ()]),
    ]
    layout = WeightsLayout.of(arrays)
    assert layout.nbytes == 128  # 24 + 32 + 20 + 12 + 4 = 92, in whole cache lines
    memory = np.zeros(layout.nbytes, np.uint8)
    views = layout.views(memory)
    for view, array in zip(views, arrays, strict=True):
        assert view.flags.aligned
        view[...] = array
    for view, array in zip(layout.views(memory.tobytes()), arrays, strict=True):
        assert (view.dtype, view.shape, view.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert not memory[92:].any()


@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize(
    "actions", [Discrete(3), MultiDiscrete([2, 3]), Box(-1.0, 1.0, (3,), np.float32)], ids=str
)
def test_the_arrays_of_every_policy_are_aligned(actions, normalizes):
    space = Dict(a=Box(-1.0, 1.0, (3,), np.float64), b=Tuple([Discrete(3), Box(-1.0, 1.0, (1,), np.float32)]))
    kit = player_kit(ActorCritic(space, actions, (5,), normalize_obs=normalizes))
    memory = np.zeros(2 * kit.layout.nbytes, np.uint8)
    assert kit.layout.nbytes % 64 == 0
    for slot in (0, 1):
        views = kit.layout.views(memory[slot * kit.layout.nbytes :])
        assert all(view.flags.aligned for view in views)
