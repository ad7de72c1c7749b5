"""Infos on their way: what goes in comes out, as columns, and nothing but data is unpickled."""

import datetime
import os
import pickle
from collections import OrderedDict, deque

import gymnasium as gym
import numpy as np
import pytest
from adapter_envs import Custom, assert_same

from workers import data_pickle
from workers.errors import EnvFailure, ProtocolError
from workers.infos import InfoReader, InfoRecorder
from workers.returns import ReturnError


def sent(recorder, reader=None):
    return (reader or InfoReader(10)).read(memoryview(recorder.take()))


def recorded(*infos):
    recorder = InfoRecorder(10)
    for row, info in enumerate(infos):
        recorder.record(row, info)
    return recorder


def test_numbers_of_equal_infos_make_one_column_each():
    recorder = recorded({"x": 1.5, "n": 3}, {"x": 2.5, "n": 4})
    (group,) = sent(recorder)
    assert group.env_ids.tolist() == [10, 11]
    assert not group.restarted
    assert [(leaf.path, leaf.kind) for leaf in group.schema] == [(("x",), "float"), (("n",), "int")]
    assert_same([np.array([1.5, 2.5]), np.array([3, 4])], group.columns)
    assert recorder.take() == b""


@pytest.mark.parametrize(
    "value",
    [
        *(7, -1.25, True, np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)),
        *(np.complex64(1j), np.array([[1, 2]], np.int16), np.array(3.0), np.zeros((0, 2))),
        *("text", None, b"bytes", (1, "a"), [1, [2]], {1, 2}, 2**70 * 1j, np.datetime64("2020-01-01")),
        *(np.array(["a", "b"]), {"a": {"b": [1.5]}, 3: 4}),
    ],
    ids=repr,
)
def test_any_data_comes_out_as_it_went_in(value):
    (group,) = sent(recorded({"key": value}))
    rebuilt = {}
    for leaf, column in zip(group.schema, group.columns, strict=True):
        at = rebuilt
        for key in leaf.path[:-1]:
            at = at.setdefault(key, {})
        found = np.asarray(column[0]) if leaf.kind == "array" else column[0]
        at[leaf.path[-1]] = found.item() if leaf.kind in ("int", "float", "bool") else found
    assert_same({"key": value}, rebuilt)


def test_a_definition_is_sent_once_and_values_are_taken_when_the_env_gives_them():
    recorder, reader = InfoRecorder(0), InfoReader(0)
    shared = np.zeros(2)
    sizes = []
    for step in range(3):
        shared[:] = step
        recorder.record(0, {"a": shared})
        shared[:] = -1
        data = recorder.take()
        sizes.append(len(data))
        (group,) = reader.read(memoryview(data))
        assert group.columns[0].tolist() == [[step, step]]
    assert sizes[0] > sizes[1] == sizes[2]


def test_keys_that_always_change_do_not_pile_up():
    recorder, reader = InfoRecorder(0), InfoReader(0)
    for step in range(3000):
        recorder.record(0, {f"event {step}": step})
        if step % 7 == 0:
            groups = reader.read(memoryview(recorder.take()))
            assert [group.schema[0].path for group in groups][-1] == (f"event {step}",)
            assert [int(group.columns[0][0]) for group in groups][-1] == step
    assert len(recorder._groups) <= 1024
    assert len(reader._schemas) <= 1024


def test_what_cannot_be_sent_is_an_error_that_names_env_and_key():
    recorder = InfoRecorder(10)
    recorder.record(1, {"a": {"b": 2**70}})
    with pytest.raises(EnvFailure, match=r"^env 11: info\['a'\]\['b'\] cannot be sent: OverflowError"):
        recorder.take()
    with pytest.raises(ReturnError, match="an info of type list, not a dict"):
        InfoRecorder(0).record(0, [1])


def test_objects_are_refused_unless_they_are_asked_for():
    data = recorded({"a": {"key": Custom()}}).take()
    with pytest.raises(data_pickle.NotData, match=r"info\['a'\]\['key'\] holds a adapter_envs.Custom"):
        InfoReader(0).read(memoryview(data))
    (group,) = InfoReader(0, any_objects=True).read(memoryview(data))
    assert type(group.columns[0][0]) is Custom


class Evil:
    def __reduce__(self):
        return os.system, ("echo evil",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()),
        pickle.dumps([Evil()], protocol=0),
        pickle.dumps(getattr),
        pickle.dumps(eval),
        pickle.dumps(np.load),
        pickle.dumps(Custom),
        b"cos\nsystem\n(S'echo'\ntR.",
        b"cnumpy\nload\n.",
        b"cgymnasium.spaces.box\nnp\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
    ],
)
def test_nothing_but_data_is_unpickled(data, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it was run"))
    with pytest.raises((data_pickle.NotData, pickle.UnpicklingError)):
        data_pickle.load(data)


@pytest.mark.parametrize(
    "value",
    [
        *(deque([1.5, 2.5], maxlen=4), OrderedDict(a=1), datetime.timedelta(3), frozenset([1]), range(3)),
        *(gym.spaces.Box(0, 1, (2,)), gym.spaces.Dict(a=gym.spaces.Discrete(3)), gym.spec("CartPole-v1")),
    ],
)
def test_plain_objects_are_data(value):
    assert data_pickle.load(data_pickle.dump(value)) == value


def test_generators_are_data():
    generator = np.random.Generator(np.random.PCG64(3))
    assert data_pickle.load(data_pickle.dump(generator)).random() == generator.random()


@pytest.mark.parametrize("cut", [1, 5, 20, -1])
def test_cut_infos_are_an_error_of_the_protocol(cut):
    data = recorded({"x": 1.5, "text": "abc"}).take()
    with pytest.raises(ProtocolError, match="infos that make no sense"):
        InfoReader(0).read(memoryview(data)[:cut])
