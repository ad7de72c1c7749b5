"""Exported policies: every encoder and head, any number of observations, without torch and without prl."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

import prl
from learner.policy import ActorCritic
from prl.commands.main import dispatch
from prl.config.train_config import TrainConfig, to_yaml
from prl.run.export import ExportError, export_onnx
from prl.run.policy_spaces import PolicySpaces
from prl.run.weights import save_weights, weights_sha256

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def test_without_the_extra_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert dispatch(["export", str(tmp_path)], "prl") == 2
    err = capsys.readouterr().err
    assert err.startswith('export: export needs the extra "onnx": pip install "prl[onnx]" (')
    assert err.count("\n") == 1


onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Everything that a policy can see and do, in as few files as possible: a conversion takes seconds.
EVERYTHING = Dict(
    [
        ("numbers", Box(-np.inf, np.inf, (3,), np.float32)),
        ("scalar", Box(-1.0, 1.0, (), np.float64)),
        ("half", Box(-1.0, 1.0, (2, 2), np.float16)),
        ("whole", Box(-10, 30, (2,), np.int16)),
        ("flags", Box(0, 1, (2,), np.bool_)),
        ("inner", Tuple([Discrete(3, start=-1), MultiDiscrete([[2, 3]], start=[[1, 0]])])),
        ("bits", MultiBinary(4)),
        ("image", Box(0, 255, (36, 40, 3), np.uint8)),
        ("grey", Box(0.0, 1.0, (36, 36), np.float32)),
    ]
)
ALL_ACTIONS = Dict(
    [
        ("kind", Discrete(5, start=-2)),
        ("choices", Tuple([MultiDiscrete([3, 4, 4], start=[0, 5, -1]), MultiBinary([2, 2])])),
        ("small", MultiDiscrete([[2, 3], [3, 2]], dtype=np.int16)),
        ("bounded", Box(-2.0, 0.5, (2, 3), np.float32)),
        ("wide", Box(np.array([-1.0, -np.inf, 0.0]), np.array([2.0, np.inf, np.inf]), dtype=np.float64)),
    ]
)
MASKED = Dict([("obs", Box(-np.inf, np.inf, (3,), np.float32)), ("action_mask", MultiBinary(9))])
CHOICES = Tuple([Discrete(2), MultiDiscrete([2, 3]), MultiBinary(1)])


class Layers(torch.nn.Module):
    """A custom encoder that works in place and drops out while it trains."""

    def __init__(self, space):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Dropout(0.5), torch.nn.ReLU())

    def forward(self, obs):
        obs.mul_(2.0)
        return self.layers(obs)


class Fixed(Layers):
    """A custom encoder that knows no other number of observations than three."""

    def forward(self, obs):
        if obs.shape[0] == 1:
            return self.layers(obs)
        return self.layers(obs.reshape(3, 3))


def write_run(folder, observation_space, action_space, **settings):
    """A folder as a run writes it, with a policy that makes clear decisions."""
    encoder = settings.pop("encoder", None)
    config = TrainConfig(
        env_id="any", hidden_sizes=(16,), encoder=encoder and f"{__name__}:{encoder.__name__}", **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = None if encoder is None else encoder(observation_space)
    policy = ActorCritic(
        observation_space, action_space, (16,), normalize_obs=config.normalize_obs, encoder=module
    )
    torch.nn.init.normal_(policy.actor[-1].weight, generator=torch.Generator().manual_seed(0))
    if config.normalize_obs:
        from prl.run.sample_rows import plausible_rows

        policy.update_statistics(plausible_rows(policy, observation_space, 50, seed=9))
    spaces = PolicySpaces(observation_space, action_space, observation_space, action_space)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "spaces.json").write_text(spaces.to_json())
    save_weights(policy, folder / "weights")
    return policy


def flat(space, value):
    """The leaves of a batch."""
    if isinstance(space, Dict):
        return [leaf for key, part in space.spaces.items() for leaf in flat(part, value[key])]
    if isinstance(space, Tuple):
        return [leaf for part, inner in zip(space.spaces, value, strict=True) for leaf in flat(part, inner)]
    return [value]


def batch_of(space, count):
    """Random observations, as a vector env gives them."""
    space.seed(4)
    vector = gym.vector.utils.batch_space(space, count)
    vector.seed(4)
    batch = vector.sample()
    if isinstance(space, Dict) and "action_mask" in space.spaces:
        batch["action_mask"][:, [0, 2, 4, 7]] = 1
    return batch


def run_file(path, space, batch):
    """The answers of a file, by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [found.name for found in session.get_inputs()]
    leaves = [np.asarray(leaf) for leaf in flat(space, batch)]
    answers = session.run(None, dict(zip(names, leaves, strict=True)))
    return dict(zip([found.name for found in session.get_outputs()], answers, strict=True))


CASES = {
    "everything": (EVERYTHING, ALL_ACTIONS, {"normalize_obs": True}),
    "masked": (MASKED, CHOICES, {}),
    "plain": (Discrete(4, start=2), Box(-1e-3, 1.0, (), np.float32), {"activation": "relu"}),
    "custom": (Box(-10.0, 10.0, (3,), np.float32), Discrete(3, dtype=np.int32), {"encoder": Layers}),
}
INPUTS = {
    "everything": [
        *("obs.numbers", "obs.scalar", "obs.half", "obs.whole", "obs.flags", "obs.inner.0", "obs.inner.1"),
        *("obs.bits", "obs.image", "obs.grey"),
    ],
    "masked": ["obs.obs", "action_mask"],
    "plain": ["obs"],
    "custom": ["obs"],
}
OUTPUTS = {
    "everything": [
        *("action.kind", "action.choices.0", "action.choices.1", "action.small", "action.bounded"),
        "action.wide",
    ],
    "masked": ["action.0", "action.1", "action.2"],
    "plain": ["action"],
    "custom": ["action"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_does_what_the_policy_does(case, tmp_path):
    observation_space, action_space, settings = CASES[case]
    policy = write_run(tmp_path / "run", observation_space, action_space, **settings)
    exported = export_onnx(tmp_path / "run", tmp_path / "policy.onnx")
    assert exported.max_error <= 1e-5
    assert [*exported.inputs] == INPUTS[case]
    assert [*exported.outputs] == OUTPUTS[case]
    loaded = prl.load(tmp_path / "run")
    for count in (1, 7, 256):
        batch = batch_of(observation_space, count)
        answers = run_file(exported.path, observation_space, batch)
        assert [*answers] == [*OUTPUTS[case], "outputs"]
        wanted = flat(action_space, loaded.predict(batch))
        for name, leaf in zip(OUTPUTS[case], wanted, strict=True):
            assert (answers[name].shape, answers[name].dtype) == (leaf.shape, leaf.dtype)
            atol = 1e-5 if leaf.dtype.kind == "f" else 0.0
            np.testing.assert_allclose(answers[name], leaf, rtol=atol, atol=atol, err_msg=name)
        if count == 256:
            assert all(len(np.unique(leaf, axis=0)) > 1 for leaf in wanted)
    content = exported.path.read_bytes()
    assert str(ROOT).encode() not in content, "nothing of this machine"
    assert b"site-packages" not in content
    metadata = {item.key: item.value for item in onnx.load(exported.path).metadata_props}
    assert metadata["weights_sha256"] == weights_sha256(policy)
    assert (metadata["prl"], metadata["env_id"]) == (prl.__version__, "any")
    assert [*json.loads(metadata["inputs"])] == INPUTS[case]
    assert json.loads(metadata["action_space"])["kind"] == type(action_space).__name__


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """The folder in which README's run of CartPole-v1 and its exported policy are."""
    folder = tmp_path_factory.mktemp("cartpole")
    run, out = str(folder / "runs" / "cartpole"), str(folder / "policy.onnx")
    flags = ["--env-id", "CartPole-v1", "--num-workers", "0", "--run-folder", run]
    assert dispatch(["train", *flags], "prl") == 0
    assert dispatch(["export", run, "--out", out], "prl") == 0
    return folder


def test_a_wrong_file_is_not_written(cartpole, tmp_path, monkeypatch):
    """The file is compared with the policy: here it is that of other weights."""
    good = (cartpole / "policy.onnx").read_bytes()
    policy = prl.load(cartpole / "runs" / "cartpole").policy
    policy.actor[-1].bias.data += 1e-3
    for name in ("config.yaml", "spaces.json"):
        (tmp_path / name).write_bytes((cartpole / "runs" / "cartpole" / name).read_bytes())
    save_weights(policy, tmp_path / "weights")
    monkeypatch.setattr("prl.run.export._converted", lambda *args: good)
    (tmp_path / "policy.onnx").write_text("older")
    with pytest.raises(ExportError, match=r"differ by .*, which is more than 1e-05"):
        export_onnx(tmp_path, tmp_path / "policy.onnx")
    assert (tmp_path / "policy.onnx").read_text() == "older"


@pytest.mark.parametrize(
    ("observation_space", "encoder", "message"),
    [
        (Box(-1.0, 1.0, (3,), np.float32), Fixed, "its encoder makes a constant of their number"),
        (Dict({"a.b": Discrete(2), "a": Dict({"b": Discrete(2)})}), None, "would have the same name"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    observation_space, encoder, message, tmp_path, capsys
):
    write_run(tmp_path / "run", observation_space, Discrete(2), encoder=encoder)
    assert dispatch(["export", str(tmp_path / "run"), "--out", str(tmp_path / "policy.onnx")], "prl") == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "policy.onnx").exists()


def test_a_file_that_cannot_be_written_is_named_before_anything_is_converted(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "run", Box(-1.0, 1.0, (3,), np.float32), Discrete(2))
    monkeypatch.setattr("prl.run.export._converted", lambda *args: pytest.fail("it converts"))
    for out, why in (
        (tmp_path, "is a folder; give"),
        (tmp_path / "run/spaces.json/a", "cannot be written: "),
    ):
        capsys.readouterr()
        assert dispatch(["export", str(tmp_path / "run"), "--out", str(out)], "prl") == 2
        err = capsys.readouterr().err
        assert err.startswith(f"export: out {out} {why}")
        assert err.count("\n") == 1


def programs_of_the_guide(word):
    return [code for code in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if word in code]


def run_program(program, folder):
    (folder / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_guide_plays_without_torch_and_prl(cartpole):
    (program,) = programs_of_the_guide("onnxruntime")
    lines = [line for line in program.splitlines() if line and not line.startswith("import ")]
    assert len(lines) == 6
    program += '\nimport sys\nprint(sorted({"torch", "prl", "learner", "workers"} & sys.modules.keys()))\n'
    assert run_program(program, cartpole) == "500.0\n[]\n"


def test_the_program_of_the_guide_loads_a_policy(cartpole):
    (program,) = programs_of_the_guide("prl.load")
    assert run_program(program + "\nprint(action)\n", cartpole) in ("0\n", "1\n")
