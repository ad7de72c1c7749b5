"""Checkpoints: the state in files, written in one step whatever happens, when, and which are kept."""

import itertools
import json
import math
import os
import shutil

import pytest
import torch
from test_files import largest_file

from learner.settings import ConfigError
from prl.config.checkpoint_every import checkpoint_every
from prl.run.checkpoint_files import Checkpoint, CheckpointError, read_checkpoint, to_files
from prl.run.checkpoint_state import decode, encode
from prl.run.checkpointing import Checkpointer, SafePoint
from prl.run.checkpoints import Checkpoints
from prl.run.files import WriteError, remove_folder, write_folder


def state_of(number):
    """A state in which every number says which one it is."""
    return {"n": number, "weights": torch.full((200,), float(number)), "list": [number, (number, None)]}


def checkpoint_of(number):
    return Checkpoint(number, {"made_by": {}}, state_of(number))


def number_in(folder):
    """The number of a whole checkpoint; CheckpointError if it is none, AssertionError if it is a mixture."""
    found = read_checkpoint(folder)
    number = found.state["n"]
    assert found.timesteps == number
    assert found.state["weights"].tolist() == [number] * 200
    assert found.state["list"] == [number, (number, None)]
    return number


# ---- a state as JSON and tensors


def test_a_state_comes_back_as_it_was():
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "groups": [{"betas": (0.9, 0.999)}]},
        "policy": {"a.weight": torch.arange(6).reshape(2, 3), "$odd": torch.zeros(0, dtype=torch.bool)},
        "values": [1, 2.5, -0.0, "text", True, None, 2**60, 0.1 + 0.2],
        "nested": [[torch.tensor(1, dtype=torch.uint8)], ()],
    }
    tree, tensors = encode(state)
    back = decode(json.loads(json.dumps(tree)), tensors)
    assert repr(back) == repr(state)
    assert [type(value) for value in back["values"]] == [type(value) for value in state["values"]]


def test_what_a_state_cannot_hold_is_named():
    with pytest.raises(TypeError, match="a/1 is a set, which a checkpoint cannot hold"):
        encode({"a": [1, {2}]})


def test_tensors_of_any_layout_come_back(tmp_path):
    image = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    write_folder(tmp_path / "1", to_files(Checkpoint(1, {}, {"a": image, "b": image[0].mT})))
    found = read_checkpoint(tmp_path / "1").state
    assert torch.equal(found["a"], image)
    assert torch.equal(found["b"], image[0].mT)


# ---- written in one step


class Crash(BaseException):
    """The process is gone: nothing that catches errors runs."""


class Disk:
    """In place of `os` in `prl.run.files`: crashes at an operation, and may then forget what was not synced.

    Args:
        crash_at: number of the operation, from 0 on.
        forgets: the machine crashes, too: files lose half of what was not synced, and renames are undone
            whose folder was not synced.
    """

    def __init__(self, crash_at=math.inf, forgets=False):
        self.operations = 0
        self.crash_at, self.forgets = crash_at, forgets
        self._unsynced, self._paths, self._renames = set(), {}, []

    def __getattr__(self, name):
        return getattr(os, name)

    def _operation(self):
        if self.operations >= self.crash_at:
            if self.forgets:
                self._forget()
            raise Crash
        self.operations += 1

    def _forget(self):
        for source, target in reversed(self._renames):
            self._move(target, source)
        for path in self._unsynced:
            if os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)

    def mkdir(self, path):
        self._operation()
        os.mkdir(path)

    def open(self, path, *args):
        file = os.open(path, *args)
        self._paths[file] = str(path)
        return file

    def write(self, file, data):
        self._operation()
        self._unsynced.add(self._paths[file])
        if self.operations == self.crash_at:
            os.write(file, data[: len(data) // 2])
            self._operation()
        return os.write(file, data[: max(1, len(data) // 2)])

    def fsync(self, file):
        self._operation()
        path = self._paths[file]
        self._unsynced.discard(path)
        self._renames = [pair for pair in self._renames if os.path.dirname(pair[1]) != path]

    def rename(self, source, target):
        self._operation()
        self._move(str(source), str(target))
        self._renames.append((str(source), str(target)))

    def _move(self, source, target):
        os.rename(source, target)
        self._unsynced = {path.replace(f"{source}/", f"{target}/") for path in self._unsynced}

    def rmtree(self, path, ignore_errors=False):
        for name in sorted(os.listdir(path)):
            self._operation()
            os.unlink(os.path.join(path, name))
        self._operation()
        os.rmdir(path)


def save_with(disk, checkpoints, number, monkeypatch):
    """Save a checkpoint; whether the disk let it."""
    with monkeypatch.context() as patch:
        patch.setattr("prl.run.files.os", disk)
        patch.setattr("prl.run.files.shutil", disk)
        patch.setattr("prl.run.checkpoints.shutil", disk)
        try:
            checkpoints.save(checkpoint_of(number))
        except Crash:
            return False
    return True


def newest_whole(checkpoints):
    for folder in checkpoints.newest_first():
        try:
            return number_in(folder)
        except CheckpointError:
            continue
    return None


@pytest.mark.parametrize("forgets", [False, True], ids=["killed", "power lost"])
def test_after_a_crash_at_any_operation_the_old_or_the_new_checkpoint_loads(forgets, tmp_path, monkeypatch):
    found = []
    for crash_at in itertools.count():
        checkpoints = Checkpoints(tmp_path / str(crash_at), keep=1)
        assert save_with(Disk(), checkpoints, 100, monkeypatch)
        is_saved = save_with(Disk(crash_at, forgets), checkpoints, 200, monkeypatch)
        found.append(newest_whole(checkpoints))
        assert checkpoints.newest_first()[0].name == str(found[-1]), "no half of one has its name"
        assert save_with(Disk(), checkpoints, 300, monkeypatch), "whatever was left is no obstacle"
        assert os.listdir(checkpoints.folder) == ["300"]
        if is_saved:
            break
    assert len(found) > 20
    assert found == sorted(found)
    assert set(found) == {100, 200}


@pytest.mark.parametrize("forgets", [False, True], ids=["killed", "power lost"])
def test_a_crash_while_the_first_checkpoint_is_written_leaves_none(forgets, tmp_path, monkeypatch):
    found = []
    for crash_at in itertools.count():
        checkpoints = Checkpoints(tmp_path / str(crash_at), keep=1)
        is_saved = save_with(Disk(crash_at, forgets), checkpoints, 200, monkeypatch)
        found.append(newest_whole(checkpoints))
        if is_saved:
            break
    assert found == sorted(found, key=lambda number: number or 0)
    assert set(found) == {None, 200}


def test_a_folder_is_written_or_nothing_of_it(tmp_path):
    with largest_file(10), pytest.raises(WriteError) as error:
        write_folder(tmp_path / "new" / "a", {"small": b"12345", "large": b"x" * 11})
    assert str(error.value) == f"cannot write {tmp_path}/new/a: File too large"
    assert os.listdir(tmp_path / "new") == []
    write_folder(tmp_path / "new" / "a", {"small": b"12345"})
    with pytest.raises(WriteError, match="new/a: "):
        write_folder(tmp_path / "new" / "a", {"other": b""})
    assert (tmp_path / "new/a/small").read_bytes() == b"12345"
    assert os.listdir(tmp_path / "new") == ["a"]
    remove_folder(tmp_path / "new" / "a")
    assert os.listdir(tmp_path / "new") == []


# ---- which there are


def test_the_newest_are_kept_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.newest_first() == []
    for number in (9, 80, 700, 1000):
        checkpoints.save(checkpoint_of(number), best=80)
    assert [folder.name for folder in checkpoints.newest_first()] == ["1000", "700", "80"]
    checkpoints.save(checkpoint_of(1001), best=1001)
    assert [folder.name for folder in checkpoints.newest_first()] == ["1001", "1000"]


def test_only_numbers_are_names_of_checkpoints(tmp_path):
    for name in ("12", "x", "12.damaged", ".13.tmp", "-5", "\u0662"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in Checkpoints(tmp_path, 1).newest_first()] == ["12"]


def test_a_symbolic_link_is_no_folder_of_checkpoints(tmp_path):
    Checkpoints(tmp_path / "others", 1).save(checkpoint_of(5))
    (tmp_path / "c").symlink_to(tmp_path / "others")
    checkpoints = Checkpoints(tmp_path / "c", 1)
    assert checkpoints.newest_first() == []
    with pytest.raises(WriteError, match="c is a symbolic link"):
        checkpoints.save(checkpoint_of(6))
    assert os.listdir(tmp_path / "others") == ["5"]


def test_a_damaged_one_is_set_aside(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for _ in range(2):  # twice: one may be there from the last time
        checkpoints.save(checkpoint_of(5))
        checkpoints.set_aside(tmp_path / "5")
        assert os.listdir(tmp_path) == ["5.damaged"]
    with pytest.raises(WriteError, match=r"cannot rename .*/5: "):
        checkpoints.set_aside(tmp_path / "5")


# ---- when


@pytest.mark.parametrize(
    ("value", "updates", "seconds"),
    [
        (0, math.inf, math.inf),
        ("0", math.inf, math.inf),
        (7, 7, math.inf),
        ("7", 7, math.inf),
        ("60s", math.inf, 60.0),
        ("0.5s", math.inf, 0.5),
        ("auto", math.inf, 10.0),
    ],
)
def test_the_setting_is_updates_or_seconds(value, updates, seconds):
    every = checkpoint_every(value)
    assert (every.updates, every.seconds) == (updates, seconds)
    assert every.never == (value in (0, "0"))


@pytest.mark.parametrize(
    "value", ["", "s", "-1", -1, True, 1.5, "0s", "60 s", "60m", "never", "1e3s", "\u0662"]
)
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigError, match=r"^checkpoint_every must be auto, 0"):
        checkpoint_every(value)


def test_what_is_due():
    assert not checkpoint_every(3).is_due(2, 1e9, 0.0)
    assert checkpoint_every(3).is_due(3, 0.0, 1e9)
    assert not checkpoint_every("60s").is_due(10**9, 59.9, 0.0)
    assert checkpoint_every("60s").is_due(1, 60.0, 50.0)
    auto = checkpoint_every("auto")
    assert not auto.is_due(10**9, 9.9, 0.0)
    assert auto.is_due(1, 10.0, 0.05)
    assert not auto.is_due(1, 199.0, 1.0), "it would take more than 0.5 % of the time"
    assert auto.is_due(1, 200.0, 1.0)
    assert not checkpoint_every(0).is_due(10**9, 1e9, 0.0)


def checkpointer(folder, every="auto", **options):
    return Checkpointer(Checkpoints(folder, keep=2), checkpoint_every(every), {"made_by": {}}, **options)


def point(number, best=None):
    return SafePoint(number, number // 100, state_of(number), best)


def numbers(folder):
    return sorted(int(name) for name in os.listdir(folder))


def test_updates_are_counted(tmp_path):
    written = []
    writer = checkpointer(tmp_path, 2, on_written=lambda: written.append(max(numbers(tmp_path))))
    for number in (100, 200, 300, 400, 500):
        writer.after_update(point(number))
    assert written == [200, 400]
    writer.finish(point(500))
    writer.finish(point(500))
    assert numbers(tmp_path) == [400, 500]
    assert writer.summary() == {"checkpoint": 500, "failed_checkpoints": 0}


def test_a_new_best_is_written_at_once_and_kept(tmp_path):
    writer = checkpointer(tmp_path)
    writer.after_update(point(100, best=None))
    writer.after_update(point(200, best=200))
    for number in (300, 400, 500):
        writer.after_update(point(number, best=200))
        writer.finish(point(number, best=200))
    assert numbers(tmp_path) == [200, 400, 500]


def test_what_is_written_already_is_not_written_again(tmp_path):
    checkpointer(tmp_path, point=point(100, best=100)).finish(point(100, best=100))
    checkpointer(tmp_path).finish(None)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_once_and_counted_and_older_ones_stay(tmp_path):
    writer = checkpointer(tmp_path, 1)
    writer.after_update(point(100))

    def write_two():
        writer.after_update(point(200))
        writer.after_update(point(300))

    with largest_file(300), pytest.warns(UserWarning, match="a checkpoint is not saved") as caught:
        write_two()
    assert [str(warning.message) for warning in caught] == [
        f"a checkpoint is not saved, older ones are kept: cannot write {tmp_path}/200: File too large"
    ]
    assert os.listdir(tmp_path) == ["100"]
    assert number_in(tmp_path / "100") == 100
    assert writer.metrics()["checkpoint/failed"] == 2
    writer.after_update(point(400))
    assert numbers(tmp_path) == [100, 400]
    with largest_file(300), pytest.warns(UserWarning, match="/500: File too large"):
        writer.after_update(point(500))
    assert writer.summary() == {"checkpoint": 400, "failed_checkpoints": 3}
    assert 0 < writer.metrics()["checkpoint/share"] <= 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "c").write_text("a file")
    with pytest.warns(UserWarning, match="cannot write .*/c/100: "):
        checkpointer(tmp_path / "c", 1).after_update(point(100))
    shutil.rmtree(tmp_path)
