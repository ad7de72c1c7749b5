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
from workers.env_call import EnvCall
from workers.errors import WorkerEnvFailed
from workers.failed_episode import BEFORE, FORGOTTEN, FailedEpisode, LostEpisode
from workers.seeding import NO_SEED

CONFIG = TrainConfig(env_id="CartPole-v1", env_kwargs={"sutton_barto_reward": True}, max_episode_steps=7)
ROWS = np.array([1, 0, 1], np.int64)


def episode(actions=ROWS, seed=2**31 - 1, steps=None):
    return FailedEpisode(env=3, seed=seed, steps=len(actions) if steps is None else steps, actions=actions)


def keep(folder, config=CONFIG, **changed):
    return CrashFolder(folder, config).keep(episode(**changed), "env 3: boom", "one\n  two")


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
        np.array([4, 2], np.int64),
    ],
    ids=["box", "composite", "choices"],
)
def test_actions_come_back_bit_for_bit(rows, tmp_path):
    found = read_crash(keep(tmp_path, actions=rows)).actions
    assert (found.dtype, found.shape) == (rows.dtype, rows.shape)
    assert found.tobytes() == rows.tobytes()


@pytest.mark.parametrize("actions", [None, np.zeros((0, 2), np.float32)])
def test_a_reset_that_failed_has_no_actions(actions, tmp_path):
    assert len(read_crash(keep(tmp_path, actions=actions, steps=0)).actions) == 0


def test_a_person_can_read_it(tmp_path):
    lines = keep(tmp_path).read_text().splitlines()
    assert '  "error": "env 3: boom",' in lines
    assert '    "  two"' in lines
    assert '    "env_id: CartPole-v1",' in lines


def test_the_first_ones_are_kept_also_when_a_run_goes_on(tmp_path):
    folder = CrashFolder(tmp_path, CONFIG)
    paths = [folder.keep(episode(seed=number), "env 3: boom") for number in range(MAX_FILES + 1)]
    paths.append(keep(tmp_path))
    assert paths[-2:] == [None, None]
    assert len(list(tmp_path.iterdir())) == MAX_FILES
    assert [read_crash(path).seed for path in paths[:MAX_FILES]] == list(range(MAX_FILES))


def test_unknown_or_endless_actions_are_left_out(tmp_path, monkeypatch):
    assert read_crash(keep(tmp_path, actions=None, steps=FORGOTTEN)).actions is None
    assert read_crash(keep(tmp_path, steps=len(ROWS) + 1)).actions is None
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
        ({"calls": {}}, "its calls is not a list of calls in their order"),
        ({"calls": [{"after": 0, "verb": "exec", "name": "a", "args": []}]}, "its calls is not a list"),
        ({"calls": [{"after": -2, "verb": "method", "name": "a", "args": []}]}, "its calls is not a list"),
        ({"calls": [{"after": 0, "verb": "set", "name": "a", "args": []}]}, "its calls is not a list"),
        ({"missing_calls": -1}, "its missing_calls is not an integer of 0 or more"),
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
    lost = LostEpisode(episode(seed=7), reason="env 3: boom", traceback="why")
    folder = CrashFolder(tmp_path, CONFIG)
    with pytest.warns(UserWarning, match=r"an episode of env 3 is lost: env 3: boom; prl replay .*crash-01"):
        folder.keep_lost(lost)
    crash = read_crash(tmp_path / "crash-01.json")
    assert (crash.env, crash.seed, crash.error, crash.traceback) == (3, 7, "env 3: boom", "why")
    np.testing.assert_array_equal(crash.actions, ROWS)


def test_calls_come_back_with_their_places_as_those_of_one_env(tmp_path):
    calls = [
        EnvCall("method", "grow", [2], {"fast": True}),
        EnvCall("set", "level", [10, 11, 12, 13], per_env=True),
    ]
    path = CrashFolder(tmp_path).keep(episode().with_calls(calls, places=[2]), "env 3: boom")
    crash = read_crash(path)
    assert crash.calls == [
        (BEFORE, EnvCall("method", "grow", [2], {"fast": True})),
        (2, EnvCall("set", "level", [13])),
    ]
    assert crash.missing_calls == 0


def test_of_endless_calls_the_number_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(crash_file, "_MAX_CALLS", 2)
    path = CrashFolder(tmp_path).keep(episode().with_calls([EnvCall("method", "grow")] * 3), "env 3: boom")
    assert (read_crash(path).calls, read_crash(path).missing_calls) == ([], 3)


def test_files_of_before_calls_were_kept_can_be_read(tmp_path):
    path = keep(tmp_path)
    content = json.loads(path.read_text())
    del content["calls"], content["missing_calls"]
    path.write_text(json.dumps(content))
    assert (read_crash(path).calls, read_crash(path).missing_calls) == ([], 0)


# ---- what ends a run


def fail_in(folder, **changed):
    error = WorkerEnvFailed("failed: env 3: boom", worker=0, env_ids=[3], traceback="why")
    error.episode = episode(**changed)
    with pytest.raises(WorkerEnvFailed) as caught, folder.keeps_the_last():
        raise error
    assert caught.value is error
    return str(error)


def test_the_failure_that_ends_a_run_is_kept_and_named_although_there_are_many(tmp_path):
    folder = CrashFolder(tmp_path, CONFIG)
    for number in range(MAX_FILES):
        folder.keep(episode(seed=number), "env 3: boom")
    path = tmp_path / f"crash-{MAX_FILES + 1}.json"
    assert fail_in(folder) == f"worker 0 (envs 3) failed: env 3: boom; prl replay {path} shows it"
    assert read_crash(path).traceback == "why"


def test_a_failure_is_kept_once(tmp_path):
    folder = CrashFolder(tmp_path, CONFIG)
    path = folder.keep(episode(), "env 3: boom")
    assert fail_in(folder).endswith(f"prl replay {path} shows it")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("changed", [{"steps": 4}, {"actions": None, "steps": FORGOTTEN}, {"seed": NO_SEED}])
def test_what_cannot_be_repeated_is_not_kept(changed, tmp_path):
    assert fail_in(CrashFolder(tmp_path, CONFIG), **changed) == "worker 0 (envs 3) failed: env 3: boom"
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass(tmp_path):
    folder = CrashFolder(tmp_path, CONFIG)
    with pytest.raises(WorkerEnvFailed, match=r"^worker 0 \(envs 3\) died$"), folder.keeps_the_last():
        raise WorkerEnvFailed("died", worker=0, env_ids=[3])
    with pytest.raises(ZeroDivisionError), folder.keeps_the_last():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
