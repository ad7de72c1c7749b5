"""Crash files: what is written comes back, few are kept, and none that is damaged does any harm."""

import base64
import io
import json
import zlib

import numpy as np
import pytest

from prl.config.train_config import ConfigError, TrainConfig, to_yaml
from prl.run import crash_file
from prl.run.crash_file import MAX_FILES, CrashFolder, read_crash
from workers.recovering_pool import LostEpisode

CONFIG = TrainConfig(env_id="CartPole-v1", env_kwargs={"sutton_barto_reward": True}, max_episode_steps=7)
ROWS = np.array([1, 0, 1], np.int64)


def keep(folder, config=CONFIG, **changed):
    what = {"env": 3, "seed": 2**31 - 1, "actions": ROWS, "error": "env 3: boom", "traceback": "one\n  two"}
    return CrashFolder(folder, config).keep(**what | changed)


def test_what_is_kept_comes_back(tmp_path):
    path = keep(tmp_path / "crashes")
    assert path == tmp_path / "crashes" / "crash-01.json"
    crash = read_crash(path)
    assert (crash.env, crash.seed) == (3, 2**31 - 1)
    assert (crash.error, crash.traceback) == ("env 3: boom", "one\n  two")
    assert crash.config == to_yaml(CONFIG).rstrip("\n")
    assert crash.versions["numpy"] == np.__version__


@pytest.mark.parametrize(
    "rows",
    [
        np.linspace(-2.0, 2.0, 6, dtype=np.float32).reshape(3, 2),
        np.arange(34, dtype=np.uint8).reshape(2, 17),
        np.zeros((0, 2), np.float32),
        [np.int64(4), np.int64(2)],
        [np.array([0.5], np.float32)] * 2,
    ],
    ids=["box", "composite", "none", "choices", "list"],
)
def test_actions_come_back_bit_for_bit(rows, tmp_path):
    found, want = read_crash(keep(tmp_path, actions=rows)).actions, np.asarray(rows)
    assert (found.dtype, found.shape) == (want.dtype, want.shape)
    assert found.tobytes() == want.tobytes()


def test_a_person_can_read_it(tmp_path):
    lines = keep(tmp_path).read_text().splitlines()
    assert '  "error": "env 3: boom",' in lines
    assert '    "  two"' in lines
    assert '    "env_id: CartPole-v1",' in lines


def test_the_first_ones_are_kept_also_when_a_run_goes_on(tmp_path):
    paths = [keep(tmp_path, seed=number) for number in range(MAX_FILES + 2)]
    assert paths[-2:] == [None, None]
    assert len(list(tmp_path.iterdir())) == MAX_FILES
    assert [read_crash(path).seed for path in paths[:MAX_FILES]] == list(range(MAX_FILES))


def test_unknown_or_endless_actions_are_left_out(tmp_path, monkeypatch):
    assert read_crash(keep(tmp_path, actions=None)).actions is None
    monkeypatch.setattr(crash_file, "_MAX_ACTION_BYTES", 16)
    assert read_crash(keep(tmp_path)).actions is None


def test_what_cannot_be_written_is_told_and_ends_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cannot write .*crash-01.json.*not kept for prl replay"):
        assert keep(tmp_path / "file") is None


def test_an_env_from_python_has_no_settings(tmp_path):
    assert read_crash(keep(tmp_path, config=None)).config == ""


# ---- damaged and malicious files


class Opens:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def packed(write):
    file = io.BytesIO()
    write(file)
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def huge_header(file):
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "has format 2; this version of prl reads format 1"),
        ({"env": -1}, "its env is not an integer of 0 or more"),
        ({"seed": True}, "its seed is not an integer of 0 or more"),
        ({"error": None}, "its error is not text"),
        ({"traceback": "text"}, "its traceback is not a list of lines"),
        ({"config": [1]}, "its config is not a list of lines"),
        ({"versions": {"numpy": 2}}, "its versions is not a mapping of packages to versions"),
        ({"actions": 3}, "its actions is not text or null"),
        ({"actions": "%%"}, "its actions cannot be read"),
        ({"actions": base64.b64encode(b"no zlib").decode()}, "its actions cannot be read"),
        ({"actions": packed(lambda file: file.write(b"no npy"))}, "its actions cannot be read"),
        ({"actions": packed(huge_header)}, "its actions cannot be read"),
        ({"actions": packed(lambda file: np.save(file, np.array(3)))}, "its actions are no rows of numbers"),
        ({"actions": packed(lambda file: np.save(file, np.array(["a"])))}, "are no rows of numbers"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(changed, message, tmp_path):
    path = keep(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ConfigError, match=message) as caught:
        read_crash(path)
    assert str(path) in str(caught.value)


def test_nothing_is_unpickled(tmp_path):
    path, made = keep(tmp_path), tmp_path / "made"
    actions = packed(lambda file: np.save(file, np.array([Opens(made)], object), allow_pickle=True))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"actions": actions}))
    with pytest.raises(ConfigError, match="its actions cannot be read"):
        read_crash(path)
    assert not made.exists()


def test_a_bomb_does_not_explode(tmp_path, monkeypatch):
    """A gigabyte of zeros in a megabyte of text: more than a limit is not unpacked."""
    path = keep(tmp_path, actions=np.zeros(1 << 20))
    monkeypatch.setattr(crash_file, "_MAX_ACTION_BYTES", 1 << 10)
    with pytest.raises(ConfigError, match="its actions cannot be read"):
        read_crash(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", "[" * 100_000, "\0\1"])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not a crash file"):
        read_crash(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="is not a crash file"):
        read_crash(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*gone.json: No such file"):
        read_crash(tmp_path / "gone.json")
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        read_crash(tmp_path)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 28)  # a hole, without blocks on the disk
    with pytest.raises(ConfigError, match="it is too large"):
        read_crash(tmp_path / "large.json")


def test_a_lost_episode_is_kept_and_told_of(tmp_path):
    lost = LostEpisode(env=3, seed=7, actions=ROWS, reason="env 3: boom", traceback="why")
    folder = CrashFolder(tmp_path, CONFIG)
    with pytest.warns(UserWarning, match=r"an episode of env 3 is lost: env 3: boom; prl replay .*crash-01"):
        folder.keep_lost(lost)
    crash = read_crash(tmp_path / "crash-01.json")
    assert (crash.env, crash.seed, crash.error, crash.traceback) == (3, 7, "env 3: boom", "why")
    np.testing.assert_array_equal(crash.actions, ROWS)
