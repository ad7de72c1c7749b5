"""Damaged and malicious checkpoints: none executes anything, each is named, and the one before is taken."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load, save
from test_resume import BASE, STEPS, checkpoints_of

from learner.policy import ActorCritic
from learner.settings import ConfigError
from prl.cli import train_main
from prl.run.build import build_factory, build_learner, build_policy
from prl.run.checkpoint_files import MANIFEST, STATE, TENSORS, CheckpointError, read_checkpoint, seal
from prl.run.checkpoints import Checkpoints
from prl.run.resume import Resumption
from prl.run.train import train
from prl.training.trainer import Trainer
from workers.inline_pool import InlinePool

CONFIG = dataclasses.replace(BASE, **STEPS, total_timesteps=750, normalize_reward=True, keep_checkpoints=3)
ACTOR = "trainer/learner/policy/actor.0.weight"
ADAM = "trainer/learner/optimizer/sum"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with checkpoints of 300, 600 and 900 steps."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    train(dataclasses.replace(CONFIG, run_folder=folder))
    assert checkpoints_of(folder) == [300, 600, 900]
    return folder


@pytest.fixture(scope="module")
def trainer():
    """What the checkpoints are loaded into; each overwrites the one before."""
    factory = build_factory(CONFIG)
    policy: ActorCritic = build_policy(factory, CONFIG)
    with InlinePool(factory, CONFIG.envs) as pool:
        yield Trainer(
            pool,
            build_learner(policy, CONFIG),
            batch_size=CONFIG.batch_size,
            total_timesteps=CONFIG.total_timesteps,
            seed=CONFIG.seed,
            num_groups=CONFIG.groups,
            num_steps=CONFIG.num_steps,
        )


# ---- what may happen to a checkpoint


def truncated(name, size):
    def damage(folder):
        os.truncate(folder / name, size)

    return damage


def flipped(name, position):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[position % len(content)] ^= 16
        (folder / name).write_bytes(content)

    return damage


def missing(name):
    return lambda folder: (folder / name).unlink()


def replaced(name, make):
    """Another content, with a manifest that fits it: somebody has done that on purpose."""

    def damage(folder):
        write(folder, name, make((folder / name).read_bytes()))

    return damage


def write(folder, name, content):
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256(content)}
    write_manifest(folder, manifest)


def write_manifest(folder, manifest):
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": seal(manifest)}))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def manifest_with(**changes):
    def damage(folder):
        manifest = json.loads((folder / MANIFEST).read_bytes())
        for name, change in changes.items():
            manifest[name] = change(manifest[name]) if callable(change) else change
        write_manifest(folder, manifest)

    return damage


def tensor(name, change):
    """One tensor is another; None leaves it out."""

    def make(content):
        tensors = load(content)
        tensors[name] = change(tensors.get(name))
        return save({name: value.contiguous() for name, value in tensors.items() if value is not None})

    return replaced(TENSORS, make)


def state(path, change):
    """What stands at a path of the state is something else."""

    def make(content):
        tree = json.loads(content)
        *parents, last = path.split("/")
        parent = tree
        for name in parents:
            parent = parent[name]
        parent[last] = change(parent[last])
        return json.dumps(tree).encode()

    return replaced(STATE, make)


class Malicious:
    """Runs a program when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/executed-by-a-checkpoint",)


def bomb(content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(50_000_000))
    return packed.getvalue()


def header(**tensors):
    """A safetensors file that says what it likes about its tensors."""
    text = json.dumps(tensors).encode()
    return lambda content: struct.pack("<Q", len(text)) + text + bytes(64)


def linked(name):
    def damage(folder):
        shutil.move(folder / name, folder.parent.parent / name)
        (folder / name).symlink_to(folder.parent.parent / name)

    return damage


def whole_folder_linked(folder):
    shutil.move(folder, folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def to_fifo(folder):
    (folder / STATE).unlink()
    os.mkfifo(folder / STATE)


def to_folder(folder):
    (folder / TENSORS).unlink()
    (folder / TENSORS).mkdir()


def huge(folder):
    os.truncate(folder / TENSORS, 1 << 40)  # takes no room on the disk


def nan(values):
    return torch.full_like(values, float("nan"))


def one_nan(values):
    return values.index_fill(0, torch.tensor([3]), float("inf"))


def only_one(values):
    return values[:1]


PICKLED = pickle.dumps(Malicious())
DAMAGES = {
    "manifest truncated": (truncated(MANIFEST, 100), "manifest.json is not JSON"),
    "manifest empty": (truncated(MANIFEST, 0), "manifest.json is not JSON"),
    "manifest missing": (missing(MANIFEST), "cannot be read: No such file"),
    "a bit of the manifest": (flipped(MANIFEST, 40), "manifest.json is not"),
    "state truncated": (truncated(STATE, 1000), "state.json has 1000 bytes, not"),
    "a bit of the state": (flipped(STATE, 500), "state.json is not what was written: its SHA-256 differs"),
    "state missing": (missing(STATE), "cannot be read: No such file"),
    "tensors truncated": (truncated(TENSORS, 1000), "tensors.safetensors has 1000 bytes, not"),
    "tensors empty": (truncated(TENSORS, 0), "tensors.safetensors has 0 bytes, not"),
    "a bit of the tensors": (flipped(TENSORS, -5), "tensors.safetensors is not what was written"),
    "a file of a terabyte": (huge, "tensors.safetensors is larger than it should be"),
    "a pickle in place of tensors": (
        replaced(TENSORS, lambda _: PICKLED),
        "damaged or not a safetensors file",
    ),
    "a pickle in place of the state": (replaced(STATE, lambda _: PICKLED), "state.json is not JSON"),
    "a pickle in place of the manifest": (
        lambda folder: (folder / MANIFEST).write_bytes(PICKLED),
        "manifest.json is not JSON",
    ),
    "a zip bomb": (replaced(TENSORS, bomb), "damaged or not a safetensors file"),
    "a huge shape": (
        replaced(TENSORS, header(a={"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 64]})),
        "damaged or not a safetensors file",
    ),
    "a header without an end": (
        replaced(TENSORS, lambda _: struct.pack("<Q", 1 << 60) + b"{}"),
        "damaged or not a safetensors file",
    ),
    "tensors that overlap": (
        replaced(
            TENSORS,
            header(
                a={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
                b={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
            ),
        ),
        "damaged or not a safetensors file",
    ),
    "an unknown kind of numbers": (
        replaced(TENSORS, header(a={"dtype": "F8_X", "shape": [64], "data_offsets": [0, 64]})),
        "damaged or not a safetensors file",
    ),
    "a symbolic link to a file": (linked(TENSORS), "cannot be read: Too many levels of symbolic links"),
    "a symbolic link to a folder": (whole_folder_linked, "it is a symbolic link"),
    "a named pipe": (to_fifo, "state.json is no regular file"),
    "a folder in place of a file": (to_folder, "no regular file|cannot be read: Is a directory"),
    "a path out of the folder": (
        manifest_with(files=lambda files: {**files, "../../weights/policy.safetensors": files[TENSORS]}),
        "manifest.json names other files",
    ),
    "an absolute path": (
        manifest_with(files=lambda files: {STATE: files[STATE], "/etc/passwd": files[TENSORS]}),
        "manifest.json names other files",
    ),
    "sizes that are none": (
        manifest_with(files=lambda files: {name: {"bytes": -1, "sha256": ""} for name in files}),
        "larger than it should be",
    ),
    "a list of files": (manifest_with(files=[]), "manifest.json names other files"),
    "a manifest that is no mapping": (
        lambda folder: (folder / MANIFEST).write_text("[1, 2]"),
        "manifest.json is not what was written",
    ),
    "another format": (manifest_with(format=2), "its format is 2; this version of prl reads 1"),
    "another name": (manifest_with(timesteps=901), "it is of 901 steps, unlike its name"),
    "deep nesting": (
        replaced(STATE, lambda _: b"[" * 100_000 + b"]" * 100_000),
        "state.json is not JSON|its state is no mapping|nested too deeply",
    ),
    "some nesting": (replaced(STATE, lambda _: b"[" * 100 + b"]" * 100), "it is nested too deeply"),
    "a number of a million digits": (
        replaced(STATE, lambda _: b"[" + b"9" * 10**6 + b"]"),
        "state.json is not JSON",
    ),
    "an object of another kind": (
        state("seconds", lambda _: {"$object": "os.system", "$args": ["true"]}),
        "means nothing",
    ),
    "a tensor twice": (
        state("torch_rng", lambda _: {"$tensor": ACTOR}),
        "means nothing, or a tensor is missing",
    ),
    "a tensor too many": (tensor("extra", lambda _: torch.zeros(3)), "tensors that belong to nothing: extra"),
    "a tensor too few": (tensor(ADAM, lambda _: None), "means nothing, or a tensor is missing"),
    "weights that are NaN": (
        tensor(ACTOR, nan),
        "learner/policy/actor.0.weight holds numbers that are not finite",
    ),
    "a moment that is infinite": (
        tensor(ADAM, one_nan),
        "learner/optimizer/sum holds numbers that are not finite",
    ),
    "weights of another shape": (
        tensor(ACTOR, lambda w: w[:, :2]),
        "actor.0.weight is .16, 2. torch.float32, the",
    ),
    "weights of another kind": (
        tensor(ACTOR, torch.Tensor.double),
        "actor.0.weight is .16, 4. torch.float64, the",
    ),
    "a moment for all weights": (tensor(ADAM, only_one), "learner/optimizer/sum is .1,. torch.float32, the"),
    "a list in place of a tensor": (
        state("trainer/learner/policy", lambda policy: {**policy, "actor.0.bias": [1.0]}),
        "tensors that belong to nothing",
    ),
    "a part that is missing": (state("trainer/progress", lambda _: {}), "progress is of another kind"),
    "a state that is no mapping": (
        replaced(STATE, lambda _: b"[1]"),
        "tensors that belong to nothing|no mapping",
    ),
    "counters below zero": (state("trainer/progress/episodes", lambda _: -5), "progress/episodes is -5"),
    "counters that are text": (state("trainer/progress/round", lambda _: "x"), "progress/round is a str"),
    "counters that are true": (state("trainer/progress/round", lambda _: True), "progress/round is a bool"),
    "steps unlike the name": (
        state("trainer/progress/timesteps", lambda n: n + 1),
        "its state is of 901 steps",
    ),
    "too few envs": (
        state("trainer/rounds/tracker/started", lambda started: started[:2]),
        "rounds/tracker/started has 2 elements, not 6",
    ),
    "a seed of another run": (state("trainer/signature/seed", lambda _: 77), "trainer with seed 77, not 5"),
    "a million returns": (
        state("trainer/progress/recent_returns", lambda _: [0.0] * 10**6),
        "not a list of at most 100 numbers",
    ),
    "a time that is none": (state("seconds", lambda _: "now"), "could not convert"),
    "NaN in JSON": (state("seconds", lambda _: float("nan")), "NaN is no number"),
    "evaluations of something else": (
        state("evaluations", lambda _: {"best": 5}),
        "last|best|timesteps|subscript",
    ),
    "a generator of another size": (tensor("torch_rng", only_one), "RNG state"),
    "actions of another shape": (
        tensor("trainer/rounds/actions/0", lambda actions: actions.new_zeros(3, 5)),
        ".",
    ),
    "observations of too few envs": (tensor("trainer/rounds/obs", only_one), "."),
}


# ---- nothing is executed, and the one before is taken


class Watched:
    """What Python does meanwhile: events of its audit hooks, of which it cannot take one away again."""

    active = None

    def __init__(self):
        self.events = []

    def __enter__(self):
        Watched.active = self
        return self.events

    def __exit__(self, *exc_info):
        Watched.active = None

    @staticmethod
    def see(event, arguments):
        if Watched.active is not None:
            Watched.active.events.append((event, arguments))


sys.addaudithook(Watched.see)


def harmful(events, folder):
    """Everything that is executed, imported or started, and files that are opened outside the folder."""
    named = (
        "exec",
        "compile",
        "import",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "subprocess.Popen",
    )
    found = [
        event
        for event in events
        if event[0] in named or event[0].startswith(("pickle.", "ctypes.", "socket."))
    ]
    opened = [arguments[0] for event, arguments in events if event == "open"]
    return found + [path for path in opened if not is_in(path, folder)]


def is_in(path, folder):
    """A number is a descriptor, of a file that was opened before."""
    return isinstance(path, int) or os.path.abspath(os.fspath(path)).startswith(f"{folder}/")


@pytest.fixture(scope="module")
def ready(whole, trainer):
    """Whatever is imported or compiled once has been."""
    Resumption(whole, Checkpoints(whole / "checkpoints", 3)).load(trainer)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_taken_with_a_message(damage, whole, trainer, ready, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    spoil, message = DAMAGES[damage]
    spoil(run / "checkpoints" / "900")
    with pytest.warns(UserWarning, match=r"checkpoint .*/900 is not used") as caught, Watched() as events:
        begun = Resumption(run, Checkpoints(run / "checkpoints", 3)).load(trainer)
    assert harmful(events, run) == []
    assert not os.path.exists("/tmp/executed-by-a-checkpoint")
    assert (begun.timesteps, trainer.state_dict()["progress"]["timesteps"]) == (600, 600)
    lines = [str(warning.message) for warning in caught if "is not used" in str(warning.message)]
    assert len(lines) == 1
    assert lines[0].endswith("The run goes back to the one before, of 600 steps")
    assert "\n" not in lines[0]
    assert re.search(message, lines[0]), lines[0]
    assert sorted(os.listdir(run / "checkpoints")) == ["300", "600", "900.damaged"]


def test_the_audit_hook_would_notice():
    with Watched() as events:
        exec("1")
        pickle.loads(pickle.dumps(os.getcwd))
        open(os.devnull, "rb").close()
    assert {"exec", "pickle.find_class"} <= {
        event[0] for event in harmful(events, "/nowhere") if event != os.devnull
    }
    assert os.devnull in harmful(events, "/nowhere")
    with Watched() as events, open(os.devnull, "rb"):
        pass
    assert harmful(events, "/dev") == []


def test_several_damaged_ones_are_all_named(whole, trainer, ready, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    truncated(TENSORS, 10)(run / "checkpoints/900")
    tensor(ACTOR, nan)(run / "checkpoints/600")
    with (
        pytest.warns(UserWarning, match="/900 is not used"),
        pytest.warns(UserWarning, match="/600 is not used"),
    ):
        begun = Resumption(run, Checkpoints(run / "checkpoints", 3)).load(trainer)
    assert begun.timesteps == 300


def test_a_run_never_begins_again_by_itself(whole, tmp_path, capsys):
    """If no checkpoint is whole, that is an error, and nothing has changed."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for number in (300, 600, 900):
        flipped(TENSORS, -1)(run / "checkpoints" / str(number))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train_main(["--resume", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"train: {run} cannot go on: checkpoint 900: tensors.safetensors is not what was written: "
        "its SHA-256 differs\n"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_whole_run_goes_on_from_the_one_before(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    expected = json.loads((run / "summary.json").read_text())
    flipped(STATE, 77)(run / "checkpoints/900")
    with pytest.warns(UserWarning, match="checkpoints/900 is not used: state.json is not what was written"):
        assert train_main(["--resume", str(run)]) == 0
    assert capsys.readouterr().err == ""
    found = json.loads((run / "summary.json").read_text())
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert sorted(os.listdir(run / "checkpoints")) == ["300", "600", "900", "900.damaged"]


@pytest.mark.parametrize("position", range(0, 4000, 97))
def test_no_flipped_bit_goes_unnoticed(position, whole, tmp_path):
    folder = tmp_path / "900"
    for name in (MANIFEST, STATE, TENSORS):
        shutil.copytree(whole / "checkpoints/900", folder)
        flipped(name, position)(folder)
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)
        shutil.rmtree(folder)


def test_a_read_only_folder_is_one_line(whole, trainer, ready, tmp_path, monkeypatch):
    """A damaged checkpoint that cannot be renamed would be tried again, and again."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    flipped(STATE, 77)(run / "checkpoints/900")

    def read_only(source, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.rename", read_only)
    with (
        pytest.warns(UserWarning, match="/900 is not used"),
        pytest.raises(OSError, match=r"^cannot rename .*/900: Read-only file system$"),
    ):
        Resumption(run, Checkpoints(run / "checkpoints", 3)).load(trainer)


def test_an_empty_folder_of_checkpoints_is_one_line(whole, tmp_path):
    with pytest.raises(ConfigError, match="has no checkpoint to go on from"):
        Resumption(tmp_path, Checkpoints(tmp_path / "checkpoints", 3))
