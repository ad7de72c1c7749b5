"""`prl.load`: a trained policy acts as it does in an evaluation, on one observation or on many."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import prl
from learner.errors import NoLegalAction
from prl.cli import train_main
from prl.run.policy_spaces import PolicySpaces
from prl.run.saved_run import evaluate_run
from workers.errors import EnvError

ROOT = Path(__file__).parents[2]
SMALL = ("--num-envs", "4", "--num-workers", "0", "--total-timesteps", "200", "--batch-size", "100")
Box, Dict, Discrete, Tuple = gym.spaces.Box, gym.spaces.Dict, gym.spaces.Discrete, gym.spaces.Tuple


class Nested(gym.Env):
    """Observations and actions made of others, a mask in the observation, a part without numbers."""

    observation_space = Dict(
        {
            "place": Box(-1, 1, (2,), np.float32),
            "inner": Tuple([Discrete(3, start=1), Box(0, 9, (), np.int64)]),
            "action_mask": gym.spaces.MultiBinary(6),
            "mission": gym.spaces.Text(5),
        }
    )
    action_space = Dict({"kind": Discrete(2, start=5), "bits": gym.spaces.MultiBinary(2)})

    def reset(self, *, seed=None, options=None):
        self.steps, self.rng = 0, np.random.default_rng(seed)
        return self.obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        kind, bits = action["kind"] - 5, action["bits"]
        chosen = [bits[0], 2 + bits[1], 4 + kind]  # Gymnasium sorts the keys
        assert self.mask[chosen].all(), "an illegal action"
        self.steps += 1
        return self.obs(), float(kind + bits.sum()), self.steps == 4, False, {}

    def obs(self):
        self.mask = self.rng.integers(0, 2, 6).astype(np.int8)
        self.mask[[0, 2, 4]] |= 1 - self.mask[[1, 3, 5]]
        return {
            "place": self.rng.uniform(-1, 1, 2).astype(np.float32),
            "inner": (int(self.rng.integers(1, 4)), np.array(self.rng.integers(10))),
            "action_mask": self.mask,
            "mission": "go",
        }


class MaskInInfo(gym.Env):
    """Two of five actions are legal; the observation is a plain vector."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Discrete(5)

    def reset(self, *, seed=None, options=None):
        self.steps, self.rng = 0, np.random.default_rng(seed)
        return self.answer()

    def step(self, action):
        assert self.mask[action]
        self.steps += 1
        obs, info = self.answer()
        return obs, float(action), self.steps == 4, False, info

    def answer(self):
        self.mask = np.zeros(5, np.int8)
        self.mask[self.rng.choice(5, 2, replace=False)] = 1
        return self.rng.uniform(-1, 1, 3).astype(np.float32), {"action_mask": self.mask}


@pytest.fixture(scope="module")
def envs():
    made = {"load/Nested-v0": Nested, "load/MaskInInfo-v0": MaskInInfo}
    for name, env in made.items():
        gym.register(name, env, max_episode_steps=10)
    yield
    for name in made:
        del gym.registry[name]


def trained(folder, env_id, *flags):
    assert train_main(["--env-id", env_id, *SMALL, "--run-folder", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def nested(envs, tmp_path_factory):
    flags = ("--normalize-obs", "--eval-freq", "100", "--eval-episodes", "2")
    return trained(tmp_path_factory.mktemp("load") / "nested", "load/Nested-v0", *flags)


def episode(env, policy, seed, mask_of=lambda info: None):
    """The return of one episode with the actions of `predict`."""
    obs, info = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        action = policy.predict(obs, action_mask=mask_of(info))
        obs, reward, terminated, truncated, info = env.step(action)
        total, done = total + reward, terminated or truncated
    return total


@pytest.mark.parametrize("best", [False, True])
def test_it_plays_the_episodes_of_an_evaluation(nested, best):
    policy = prl.load(nested, best=best)
    seeds = [prl.episode_seed(1_000_000, 0, k) for k in range(5)]
    played = [episode(Nested(), policy, seed) for seed in seeds]
    evaluated = [found.episode_return for found in evaluate_run(nested, 5, best=best)]
    assert played == evaluated


def test_a_batch_is_predicted_as_its_rows_are(nested):
    policy = prl.load(nested)
    rows = [policy.observation_space.sample() for _ in range(6)]
    for row in rows:
        row["action_mask"][:] = [1, 1, 1, 1, 1, 0]
    batch = {
        "place": np.stack([row["place"] for row in rows]),
        "inner": tuple(np.stack([row["inner"][k] for row in rows]) for k in (0, 1)),
        "action_mask": [row["action_mask"].tolist() for row in rows],
        "mission": ["go"] * 6,
    }
    together = policy.predict(batch)
    assert {key: (part.shape, part.dtype) for key, part in together.items()} == {
        "kind": ((6,), np.int64),
        "bits": ((6, 2), np.int8),
    }
    for k, row in enumerate(rows):
        alone = policy.predict(row)
        assert type(alone["kind"]) is int
        assert alone["kind"] == together["kind"][k] == 5, "the only legal one"
        np.testing.assert_array_equal(alone["bits"], together["bits"][k])


def test_masks_of_the_info_are_an_argument(envs, tmp_path):
    run = trained(tmp_path / "run", "load/MaskInInfo-v0")
    policy = prl.load(run)
    seeds = [prl.episode_seed(1_000_000, 0, k) for k in range(5)]
    played = [episode(MaskInInfo(), policy, seed, lambda info: info["action_mask"]) for seed in seeds]
    assert played == [found.episode_return for found in evaluate_run(run, 5)]
    masks = np.eye(5, dtype=bool)
    assert policy.predict(np.zeros((5, 3)), action_mask=masks).tolist() == [0, 1, 2, 3, 4]
    drawn = policy.predict(np.zeros((5, 3)), deterministic=False, action_mask=masks)
    assert drawn.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"action_mask=info\[.action_mask.\] is missing"):
        policy.predict(np.zeros(3))
    with pytest.raises(NoLegalAction, match="the action mask allows no action"):
        policy.predict(np.zeros(3), action_mask=np.zeros(5))


def test_drawn_actions_are_those_of_the_seed(tmp_path):
    run = trained(tmp_path / "run", "CartPole-v1")
    obs = np.zeros((50, 4), np.float32)
    first, again, other = (prl.load(run, seed=seed).predict(obs, False).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert set(first) == {0, 1}
    policy = prl.load(run)
    assert type(policy.predict(obs[0])) is int
    with pytest.raises(ValueError, match=r"an observation of parts that have different shapes: \(4,\)"):
        policy.predict([obs[0], obs[0][:2]])
    assert policy.predict(obs[:0]).shape == (0,)
    with pytest.raises(
        ValueError, match=r"float64, its space says float32, which cannot hold 1e\+300 at index"
    ):
        policy.predict(np.full(4, 1e300))
    assert policy.predict(obs[0].tolist()) == policy.predict(obs[:1].astype(np.float64))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"place": np.zeros(3)}, r"observation\['place'\] of shape \(3,\): \(2,\) is wanted, or \[N, 2\]"),
        ({"place": np.full(2, np.nan)}, r"observation\['place'\] that is not finite"),
        ({"inner": (0, 0)}, r"observation\['inner'\]\[0\] outside of its space"),
        ({"inner": (1,)}, r"observation\['inner'\] is no tuple of 2 parts"),
        ({"place": "here"}, r"observation\['place'\] of shape \(\)|observation\['place'\] of type str"),
        ({"action_mask": None}, r"observation\['action_mask'\]"),
        (
            {"place": [[1.0], [1.0, 2.0]]},
            r"observation\['place'\] of parts that have different shapes: \(2,\)",
        ),
        (
            {"place": np.zeros((3, 2))},
            r"\['place'\] of shape \(3, 2\) is a batch, but observation\['action_mask'\] of shape \(6,\) is",
        ),
    ],
)
def test_what_is_no_observation_is_refused_in_one_line(nested, change, message):
    obs = {"place": np.zeros(2), "inner": (1, 0), "action_mask": np.ones(6)}
    policy = prl.load(nested)
    policy.predict(obs)
    with pytest.raises(ValueError, match=message) as caught:
        policy.predict({**obs, **change})
    assert "\n" not in str(caught.value)
    for key in obs:
        with pytest.raises(ValueError, match=rf"no observation\['{key}'\], which its space has"):
            policy.predict({name: part for name, part in obs.items() if name != key})
    with pytest.raises(ValueError, match="of type ndarray, its space says dict"):
        policy.predict(np.zeros(2))


def test_all_that_reset_or_step_returns_is_refused_with_what_to_pass(nested, tmp_path):
    cartpole = gym.make("CartPole-v1")
    run = trained(tmp_path / "run", "CartPole-v1")
    for policy, env in ((prl.load(run), cartpole), (prl.load(nested), Nested())):
        with pytest.raises(ValueError, match=r"obs, info = env\.reset\(\), and then predict\(obs\)$"):
            policy.predict(env.reset(seed=1))
        action = policy.predict(env.reset(seed=1)[0])
        with pytest.raises(ValueError, match=r"truncated, info = env\.step\(action\), and then predict"):
            policy.predict(env.step(action))


def test_it_needs_neither_the_env_nor_its_package(nested):
    code = (
        "import sys, numpy as np, prl\n"
        f"policy = prl.load({str(nested)!r})\n"
        "obs = {'place': np.zeros(2), 'inner': (1, 0), 'action_mask': np.ones(6)}\n"
        "print(sorted(policy.predict(obs)), 'load/Nested-v0' in __import__('gymnasium').registry)\n"
        "print([m for m in ('prl.run.build', 'prl.pools', 'workers.envs') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.splitlines() == ["['bits', 'kind'] False", "[]"], done.stderr


def test_the_folder_of_an_older_version_is_loaded_with_the_env(nested, tmp_path):
    older = tmp_path / "older"
    (older / "weights").mkdir(parents=True)
    for name in ("config.yaml", "weights/policy.safetensors"):
        (older / name).write_bytes((nested / name).read_bytes())
    obs = {"place": np.zeros(2), "inner": (1, 0), "action_mask": np.ones(6)}
    actions = [prl.load(run).predict(obs) for run in (older, nested)]
    assert str(actions[0]) == str(actions[1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"Dict"', '"Undict"', 1),
        lambda text: text.replace('"left_out"', '"put_in"'),
        lambda text: text.replace('"same": true', '"same": true, "shape": [1000000000000]', 1),
        lambda text: text.replace('"<f4"', '"|O"'),
    ],
)
def test_damaged_spaces_are_refused_in_one_line(nested, tmp_path, damage):
    (tmp_path / "weights").mkdir()
    for name in ("config.yaml", "weights/policy.safetensors"):
        (tmp_path / name).write_bytes((nested / name).read_bytes())
    text = (nested / "spaces.json").read_text()
    assert damage(text) != text
    (tmp_path / "spaces.json").write_text(damage(text))
    with pytest.raises(prl.ConfigError, match=r"spaces\.json is damaged: ") as caught:
        prl.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_spaces_come_back_as_they_were():
    spaces = PolicySpaces(
        *(Nested.action_space, Box(-np.inf, 3.0, (2,), np.float64)),
        *(gym.spaces.MultiDiscrete([[2, 3]], start=[[1, 0]]), Discrete(3, start=-1)),
        *(True, False, ("observation['mission'] (Text)",), False),
    )
    assert PolicySpaces.from_json(spaces.to_json()) == spaces
    json.loads(spaces.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("device", ["tpu-or-so", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_one_line(nested, device):
    with pytest.raises(prl.ConfigError, match=f"device '{device}' cannot be used: ") as caught:
        prl.load(nested, device=device)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(prl.ConfigError, match="not the folder of a run"):
        prl.load(tmp_path)


def test_a_run_is_not_played_in_an_env_with_other_spaces(nested, tmp_path):
    text = (nested / "config.yaml").read_text().replace("load/Nested-v0", "CartPole-v1")
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "spaces.json").write_text((nested / "spaces.json").read_text())
    with pytest.raises(EnvError, match="the observation space of CartPole-v1 is not the one that"):
        evaluate_run(tmp_path, 1)


class Drops(torch.nn.Module):
    """An encoder that draws while it trains."""

    def __init__(self, space):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.9))

    def forward(self, obs):
        return self.layers(obs)


def test_custom_encoders_are_in_evaluation_mode(tmp_path):
    run = trained(tmp_path / "run", "CartPole-v1", "--encoder", f"{__name__}:Drops")
    policy = prl.load(run)
    assert not any(module.training for module in policy.policy.modules())
    obs = np.random.default_rng(0).normal(size=(100, 4))
    assert policy.predict(obs).tolist() == policy.predict(obs).tolist()
