"""Replacing files: the old content or the new one, and one line if neither a disk nor a folder takes it."""

import importlib.metadata
import os
import resource
from contextlib import contextmanager

import pytest

from prl.run.files import WriteError, remove_half_written, replace_file, replace_json, versions


@contextmanager
def largest_file(size):
    """No file may be larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path):
    file = tmp_path / "new" / "folder" / "a.txt"
    replace_file(file, "grün")
    assert file.read_bytes() == "grün".encode()
    replace_file(file, b"\x00\x01")
    assert file.read_bytes() == b"\x00\x01"
    assert os.listdir(file.parent) == ["a.txt"]


def test_what_a_killed_process_has_left_of_a_file_is_removed(tmp_path):
    (tmp_path / "a.csv.1.tmp").mkdir()
    for name in ("a.json.12.tmp", "a.json", "a.json.tmp", "a.txt.12.tmp", "12.tmp"):
        (tmp_path / name).write_text("")
    remove_half_written(tmp_path)
    remove_half_written(tmp_path / "gone")
    assert sorted(os.listdir(tmp_path)) == ["12.tmp", "a.csv.1.tmp", "a.json", "a.json.tmp", "a.txt.12.tmp"]


def test_a_full_disk_leaves_the_old_file_alone(tmp_path):
    file = tmp_path / "a.txt"
    replace_file(file, "old")
    with largest_file(10), pytest.raises(WriteError) as error:
        replace_file(file, "new and longer than ten bytes")
    assert str(error.value) == f"cannot write {file}: File too large"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert file.read_text() == "old"


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"cannot write .*file/a\.json: "):
        replace_json(tmp_path / "file" / "a.json", {"a": 1})
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="folder: Is a directory"):
        replace_file(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_versions_are_of_what_is_installed():
    found = versions(["numpy", "no-such-package"])
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert found.keys() == {"python", "platform", "numpy"}
