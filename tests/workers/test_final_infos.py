"""The last infos of episodes, on their way from an env to the learner."""

import decimal

import numpy as np
import pytest
import torch
from helpers import factory_of
from telling_envs import Odd, Telling

from workers.envs import env_factory
from workers.final_infos import SUCCESS, info_column
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool
from workers.testing import FaultWrapper, ProbeEnv

N = 5
COLUMNS = (SUCCESS, info_column("distance"))
POOLS = {
    "inline": lambda factory: InlinePool(factory, N, COLUMNS),
    **{
        f"{transport}-{workers}": lambda factory, transport=transport, workers=workers: ProcessPool(
            factory, N, workers, transport=transport, step_timeout=20.0, info_columns=COLUMNS
        )
        for transport in ("pipe", "shared")
        for workers in (1, 2)
    },
}


def said(seed, steps):
    return [np.nan if seed % 2 else float(seed % 4 == 0), seed + steps / 8]


def check_episodes(pool, restarts, steps=30):
    """Play, and compare what infos have said; the number of episodes."""
    everyone, seeds, lengths = np.arange(N), np.arange(100, 100 + N), np.zeros(N, np.int64)
    pool.reset(everyone, seeds)
    assert pool.recv().final_info.shape == (0, 2)
    active, ends = everyone, 0
    for step in range(steps):
        following = seeds + 1
        pool.send(active, (active + step) % 5, following[active] if restarts else None)
        batch = pool.recv()
        lengths[active] += 1
        over = active[batch.ended]
        np.testing.assert_array_equal(
            batch.final_info, np.reshape([said(seeds[env], lengths[env]) for env in over], (-1, 2))
        )
        ends += len(over)
        if restarts:
            seeds[over], lengths[over] = following[over], 0
        else:
            active = active[~batch.ended]
            if not len(active):
                break
    return ends


@pytest.mark.parametrize("make_pool", POOLS.values(), ids=POOLS.keys())
def test_every_pool_tells_what_the_last_infos_say(make_pool):
    with make_pool(env_factory(Telling)) as pool:
        assert pool.info_columns == COLUMNS
        assert check_episodes(pool, restarts=False) == N
        assert check_episodes(pool, restarts=True) > 2 * N


def recovering(transport="shared", **fault):
    factory = factory_of(lambda: Telling(FaultWrapper(ProbeEnv(), "sigkill", **fault)))
    pool = ProcessPool(factory, N, 2, transport=transport, step_timeout=20.0, info_columns=COLUMNS)
    return RecoveringPool(pool)


@pytest.mark.filterwarnings("ignore:worker .* it is started again")
@pytest.mark.parametrize("transport", ["shared", "pipe"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_worker_that_dies_in_the_last_step_changes_nothing(restarts, transport, tmp_path):
    """The episode of seed 102 has five steps."""
    with recovering(transport, at_step=5, seed=102, once=str(tmp_path / "once")) as pool:
        check_episodes(pool, restarts)
        assert pool.restarts == 1


@pytest.mark.filterwarnings("ignore:worker .* it is started again")
@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_a_lost_episode_says_nothing(transport):
    with recovering(transport, at_step=2, seed=104) as pool:
        for first in (200, 100):  # an episode before it has said something in the same row
            active = np.arange(N)
            pool.reset(active, np.arange(first, first + N))
            pool.recv()
            while len(active):
                pool.send(active, active * 0)
                batch = pool.recv()
                active = active[~batch.ended]
                if batch.lost.any():
                    assert first == 100
                    assert np.isnan(batch.final_info[batch.lost[batch.ended]]).all()
                    return
    raise AssertionError("no episode was lost")


def test_a_pool_that_is_asked_for_nothing_tells_nothing():
    with InlinePool(env_factory(Telling), 1) as pool:
        pool.reset(np.arange(1), [4])
        batch = pool.recv()
        while not batch.ended.any():
            assert batch.final_info is None
            pool.send(np.arange(1), np.zeros(1, np.int64))
            batch = pool.recv()
        assert batch.final_info is None


NUMBERS = [
    (3, 3.0),
    (0.1, 0.1),
    (True, 1.0),
    (np.float32(0.5), 0.5),
    (np.int8(-3), -3.0),
    (np.bool_(False), 0.0),
    (np.array(2.5), 2.5),
    (np.array([[7]]), 7.0),
    ([1.5], 1.5),
    (torch.tensor([0.25], requires_grad=True), 0.25),
    (decimal.Decimal("0.5"), 0.5),
]
NO_NUMBERS = [
    *("1.5", b"1", {}, {"r": 1.0}, [], [1.0, 2.0], np.zeros(2), np.array(["1"]), object(), 1j, 10**400),
    *(float("nan"), float("inf"), np.array(-np.inf), torch.zeros(2)),
]


@pytest.mark.parametrize(("value", "number"), NUMBERS, ids=repr)
def test_numbers(value, number):
    assert info_column("x").read({"x": value}) == number


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: f"{value!r:.20}")
def test_what_is_no_number(value):
    assert info_column("x").read({"x": value}) == np.inf
    assert SUCCESS.read({"is_success": value}) == np.inf


@pytest.mark.parametrize("info", [{}, {"x": None}, {"y": 1.0}])
def test_what_is_not_said(info):
    assert np.isnan(info_column("x").read(info))
    assert np.isnan(SUCCESS.read(info))


@pytest.mark.parametrize(
    ("info", "flag"),
    [
        ({"is_success": True}, 1.0),
        ({"success": np.bool_(False)}, 0.0),
        ({"success": 1.0}, 1.0),
        ({"success": np.array([0.0])}, 0.0),
        ({"is_success": False, "success": True}, 0.0),
        ({"is_success": None, "success": True}, 1.0),
        ({"success": 0.5}, np.inf),
        ({"success": 2}, np.inf),
    ],
)
def test_success_is_true_or_false(info, flag):
    assert SUCCESS.read(info) == flag


@pytest.mark.parametrize("info", [None, 3, [("distance", 1.0)]])
def test_an_info_that_is_no_mapping_says_nothing(info):
    with InlinePool(factory_of(lambda: Odd(info)), 1, COLUMNS) as pool:
        pool.reset(np.arange(1), [0])
        pool.recv()
        pool.send(np.arange(1), np.zeros(1, np.int64))
        assert np.isnan(pool.recv().final_info).all()
