"""A shared folder holds what its card says, and is played and loaded like the run that it comes from."""

import dataclasses
import json
import re
import socket
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

import prl
from prl.commands.main import dispatch
from prl.run.model_card import Card
from prl.run.weights import save_weights, weights_sha256

ROOT = Path(__file__).parents[2]
EPISODES = ("--episodes", "5", "--seed", "7")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("share") / "run"
    flags = ["--env-id", "CartPole-v1", "--num-envs", "4", "--num-workers", "0", "--total-timesteps", "600"]
    flags += ["--batch-size", "200", "--eval-freq", "200", "--eval-episodes", "2", "--normalize-obs"]
    assert dispatch(["train", *flags, "--run-folder", str(folder)], "prl") == 0
    last = prl.load(folder, best=True).policy
    last.actor[-1].bias.data += 1.0  # the last policy is not the best one, whatever the evaluations said
    save_weights(last, folder / "weights")
    return folder


def share(run, out, *flags, code=0):
    assert dispatch(["share", str(run), "--out", str(out), *EPISODES, *flags], "prl") == code
    return out


@pytest.fixture(scope="module")
def shared(run):
    return share(run, run.parent / "shared", "--no-video", "--best")


def returns_printed(out):
    return [float(found) for found in re.findall(r"return (\S+), ", out)]


def test_it_is_played_with_the_returns_of_its_card(shared, capsys):
    capsys.readouterr()
    assert dispatch(["play", str(shared), *EPISODES], "prl") == 0
    results = json.loads((shared / "results.json").read_text())
    assert returns_printed(capsys.readouterr().out) == results["returns"]
    assert (len(results["returns"]), results["n_eval_episodes"], results["seed"]) == (5, 5, 7)
    assert results["mean_reward"] == pytest.approx(np.mean(results["returns"]))
    assert results["std_reward"] == pytest.approx(np.std(results["returns"]))
    assert results["is_deterministic"] is True


def test_it_is_loaded_as_the_best_policy_of_the_run(run, shared):
    best, loaded = prl.load(run, best=True), prl.load(shared)
    obs = np.random.default_rng(0).normal(size=(20, 4))
    assert loaded.predict(obs).tolist() == best.predict(obs).tolist()
    config = json.loads((shared / "config.json").read_text())
    assert config["weights_sha256"] == weights_sha256(best.policy) == weights_sha256(loaded.policy)
    assert config["weights_sha256"] != weights_sha256(prl.load(run).policy)
    with pytest.raises(prl.ConfigError, match="has no best policy: it holds a single policy"):
        prl.load(shared, best=True)


def test_the_card_says_what_the_hub_reads(shared):
    text = (shared / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    results = json.loads((shared / "results.json").read_text())
    score = f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert front["library_name"] == "prl"
    assert front["tags"][0] == "CartPole-v1"
    (index,) = front["model-index"][0]["results"]
    assert index["dataset"] == {"name": "CartPole-v1", "type": "CartPole-v1"}
    assert index["metrics"] == [
        {"type": "mean_reward", "value": score, "name": "mean_reward", "verified": False}
    ]
    assert f"| mean return | {score} |" in body
    assert "`prl.episode_seed(7, 0, k)`" in body
    assert "prl play . --episodes 5 --seed 7\n" in body
    named = set(re.findall(r"^\| `([\w.]+)` \|", body, re.MULTILINE))
    assert named == {path.name for path in shared.iterdir()} - {"README.md", ".gitattributes"}


def test_nothing_of_this_machine_is_in_it(run, shared):
    for path in shared.iterdir():
        assert str(run.parent).encode() not in path.read_bytes(), path.name
        assert str(ROOT).encode() not in path.read_bytes(), path.name


def test_it_can_be_shared_again_and_is_never_overwritten(shared, tmp_path, capsys):
    again = share(shared, tmp_path / "again", "--no-video")
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in again.iterdir()}
    share(shared, again, code=2)
    message = f"share: out {again} exists already; choose another folder or remove it\n"
    assert capsys.readouterr().err == message
    assert {path.name: path.read_bytes() for path in again.iterdir()} == before
    assert before["policy.safetensors"] == (shared / "policy.safetensors").read_bytes()
    assert before.keys() == {path.name for path in shared.iterdir()}


class Unseen(gym.Env):
    """Cannot be rendered, and says whether an episode went well."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.good = seed % 2 == 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, True, False, {"is_success": self.good}


def test_an_env_that_cannot_be_filmed_gets_a_line(tmp_path, capsys):
    gym.register("share/Unseen-v0", Unseen, max_episode_steps=5)
    try:
        flags = ["--env-id", "share/Unseen-v0", "--num-envs", "2", "--num-workers", "0"]
        flags += ["--total-timesteps", "20", "--batch-size", "10", "--run-folder", str(tmp_path / "run")]
        assert dispatch(["train", *flags], "prl") == 0
        capsys.readouterr()
        out = share(tmp_path / "run", tmp_path / "out")
    finally:
        del gym.registry["share/Unseen-v0"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no video: share/Unseen-v0 has no render mode rgb_array; it has none"
    good = [prl.episode_seed(7, 0, k) % 2 == 0 for k in range(5)]
    rate = 100 * sum(good) / 5
    assert lines[1].endswith(f"; success rate {rate:.0f} %")
    assert lines[-1] == f"upload it with: hf upload USER/ppo-share-Unseen-v0 {out}"
    assert f"| success rate | {rate:.0f} % |" in (out / "README.md").read_text()
    assert not (out / "replay.mp4").exists()


def test_the_card_says_in_which_env_it_was_evaluated(run, tmp_path, capsys):
    capsys.readouterr()
    out = share(run, tmp_path / "out", "--no-video", "--env-id", "CartPole-v0")
    assert f"play it with: prl play {out} --env-id CartPole-v0\n" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "# PPO playing CartPole-v0\n" in card
    assert "trained with PPO on `CartPole-v1` for 600 steps.\nIt was evaluated in `CartPole-v0`.\n" in card
    assert "prl play . --episodes 5 --seed 7 --env-id CartPole-v0\n" in card
    assert json.loads((out / "config.json").read_text())["env_id"] == "CartPole-v1"
    results = json.loads((out / "results.json").read_text())
    assert results["env_id"] == "CartPole-v0"
    assert dispatch(["play", str(out), *EPISODES, "--env-id", "CartPole-v0"], "prl") == 0
    assert returns_printed(capsys.readouterr().out) == results["returns"]


def test_a_policy_whose_env_has_no_id_is_shared_with_the_one_it_was_played_in(tmp_path):
    def made():
        return gym.make("CartPole-v1")

    ppo = prl.PPO(is_continuous=False, action_dim=2, observ_dim=4, batch_size=64)
    prl.AsyncPPO(made, ppo, num_envs=2, steps=100, num_workers=0, run_folder=tmp_path / "run").run()
    out = share(tmp_path / "run", tmp_path / "out", "--no-video", "--env-id", "CartPole-v1")
    card = (out / "README.md").read_text()
    assert "prl play . --episodes 5 --seed 7 --env-id CartPole-v1\n" in card
    assert "prl train --config" not in card, "config.yaml names no env"


def test_the_steps_are_those_of_the_policy(run, shared, tmp_path):
    evaluation = json.loads((run / "best" / "evaluation.json").read_text())
    again = share(shared, tmp_path / "again", "--no-video")
    for folder in (shared, again):
        assert json.loads((folder / "config.json").read_text())["timesteps"] == evaluation["timesteps"]
        assert f"for {evaluation['timesteps']} steps" in (folder / "README.md").read_text()


@pytest.mark.parametrize("place", ["file/out", "file/folder/out"])
def test_a_place_where_nothing_can_be_written_is_named_before_anything_is_played(
    run, place, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("prl.run.share.play_episodes", lambda play: pytest.fail("it plays"))
    (tmp_path / "file").touch()
    capsys.readouterr()
    share(run, tmp_path / place, code=2)
    message = f"share: out {tmp_path / place} cannot be written: {tmp_path / 'file'} is not a folder\n"
    assert capsys.readouterr().err == message


def test_the_video_shows_the_first_episode(run, tmp_path):
    pytest.importorskip("moviepy")
    out = share(run, tmp_path / "out")
    assert (out / "replay.mp4").read_bytes()[4:8] == b"ftyp"
    assert "replay.mp4" in (out / "README.md").read_text()


def test_the_policy_may_be_in_it_as_onnx(run, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = share(run, tmp_path / "out", "--no-video", "--onnx")
    assert "policy.onnx" in (out / "README.md").read_text()
    assert (out / "policy.onnx").stat().st_size > 1000


def test_what_is_missing_is_said_in_one_line(run, tmp_path, capsys):
    capsys.readouterr()
    assert dispatch(["share", str(run)], "prl") == 2
    assert capsys.readouterr().err.startswith("share: out is required: the folder to write")
    share(tmp_path, tmp_path / "out", code=2)
    assert "is not the folder of a run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_card_for_an_id_with_slashes():
    results = {"mean_reward": 1.0, "std_reward": 0.0, "min_reward": 1.0, "max_reward": 1.0}
    results |= {"mean_length": 3.0, "is_deterministic": False, "n_eval_episodes": 2, "seed": 1}
    card = Card("ale_py:ALE/Pong-v5", results, ["policy.safetensors"], None, "mine:Encoder", {"prl": "1"})
    assert card.repository == "ppo-ALE-Pong-v5"
    assert "--seed 1 --no-deterministic\n" in card.text()
    assert "`mine:Encoder`, whose code is not part" in card.text()
    assert "- ALE/Pong-v5\n" in card.text()
    assert "policy.predict(observation)\n" in card.text()
    masked = dataclasses.replace(card, mask_from_info=True)
    assert 'policy.predict(observation, action_mask=info["action_mask"])\n' in masked.text()


def test_sharing_opens_no_connection(run, tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("network"))
    assert (share(run, tmp_path / "out", "--no-video") / "README.md").is_file()
