"""Infos of a batch: a dict of arrays as Gymnasium makes it, and a list of dicts."""

import gymnasium as gym
import numpy as np
import pytest
from adapter_envs import assert_same

from prl.adapters.infos import as_list, as_vector
from workers.infos import InfoReader, InfoRecorder

N = 5
VALUES = [
    *(1, 2.5, True, np.float64(3.5), np.float32(0.1), np.int8(4), np.bool_(False), "text", None, [1, 2]),
    *(np.arange(3), np.array(7.0), {"x": 1.0}, {"x": 2, "y": {"z": np.float64(4)}}, {}),
]


def random_info(rng):
    keys = rng.permutation(["a", "b", "c", "d"])[: rng.integers(0, 5)].tolist()
    # The last letter of a key chooses among numbers, objects and dicts: envs agree about what is a dict.
    ranges = {"n": (0, 7), "o": (7, 10), "d": (12, 15)}
    return {
        f"{key}{kind}": VALUES[rng.integers(*bounds)]
        for key in keys
        for kind, bounds in ranges.items()
        if rng.random() < 0.6
    }


class Base(gym.vector.VectorEnv):
    num_envs = N


def by_gymnasium(infos):
    vector = {}
    for env, info in enumerate(infos):
        vector = Base()._add_info(vector, info, env)
    return vector


@pytest.mark.parametrize("seed", range(60))
def test_a_dict_of_arrays_is_what_gymnasium_makes(seed):
    rng = np.random.default_rng(seed)
    recorders = InfoRecorder(0), InfoRecorder(2)  # two workers
    readers = InfoReader(0), InfoReader(2)
    for _ in range(3):
        infos = [random_info(rng) for _ in range(N)]
        for env, info in enumerate(infos):
            if info:
                recorders[env >= 2].record(env - 2 * (env >= 2), info)
        groups = [
            group
            for recorder, reader in zip(recorders, readers, strict=True)
            for group in reader.read(memoryview(recorder.take()))
        ]
        assert_same(by_gymnasium(infos), as_vector(groups, {}, N))
        assert_same(infos, as_list(groups, N))


def test_arrays_of_infos_belong_to_the_caller():
    recorder = InfoRecorder(0)
    recorder.record(1, {"array": np.arange(3.0), "number": 1.0})
    groups = InfoReader(0).read(memoryview(recorder.take()))
    infos, listed = as_vector(groups, {}, N), as_list(groups, N)
    infos["array"][1] += 1
    infos["_array"][0] = True
    listed[1]["array"] += 1
    assert infos["_number"].tolist() == [False, True, False, False, False]
    assert listed[0] is not listed[2]


def test_an_ended_env_has_its_infos_in_final_info_and_those_of_the_reset_on_top():
    recorder = InfoRecorder(0)
    recorder.record(0, {"x": 1.0})
    recorder.record(3, {"x": 2.0, "episode": {"r": 5.0}})
    recorder.record(3, {"x": 9.0}, restarted=True)
    groups = InfoReader(0).read(memoryview(recorder.take()))
    final = np.array([1.0])
    found = as_vector(groups, {3: final, 4: final}, N)
    expected = by_gymnasium(
        [{"x": 1.0}, {}, {}, {"final_obs": final, "final_info": {"x": 2.0, "episode": {"r": 5.0}}}, {}]
    )
    expected = Base()._add_info(expected, {"x": 9.0}, 3)
    expected = Base()._add_info(expected, {"final_obs": final, "final_info": {}}, 4)
    assert_same(expected, found)
    assert as_list(groups, N)[3] == {"x": 2.0, "episode": {"r": 5.0}}
    assert as_list(groups, N, restarted=True)[3] == {"x": 9.0}
