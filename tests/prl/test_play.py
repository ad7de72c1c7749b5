"""What `play` shows of a run: its last or its best policy, on any space, and one line where it cannot."""

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

import prl
from prl.cli import play_main, train_main
from prl.commands.play import PlayConfig, play
from prl.run.named_env import EnvName, name_of
from prl.run.saved_run import evaluate_run

ROOT = Path(__file__).parents[2]
SMALL = ("--num-envs", "4", "--num-workers", "0", "--total-timesteps", "200", "--batch-size", "100")


class Nested(gym.Env):
    """Observations and actions made of others; `FAIL` makes the third step fail."""

    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(-1, 1, (2,), np.float32), "kind": gym.spaces.Discrete(3)}
    )
    action_space = gym.spaces.Tuple(
        [gym.spaces.Discrete(2, start=5), gym.spaces.Box(0.0, 1.0, (2,), np.float32)]
    )

    def reset(self, *, seed=None, options=None):
        self.steps, self.rng = 0, np.random.default_rng(seed)
        return self.obs(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        failure = os.environ.get("FAIL")
        if failure == "raise" and self.steps == 3:
            raise RuntimeError("the door\nis stuck")
        obs = {"place": 0} if failure == "return" and self.steps == 3 else self.obs()
        return obs, float(action[1][0]), self.steps == 4, False, {}

    def obs(self):
        return {"place": self.rng.uniform(-1, 1, 2).astype(np.float32), "kind": int(self.rng.integers(3))}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with evaluations."""
    gym.register("test/Nested-v0", Nested, max_episode_steps=10)
    folder = tmp_path_factory.mktemp("played") / "run"
    flags = (*SMALL, "--eval-freq", "100", "--eval-episodes", "2", "--run-folder", str(folder))
    assert train_main(["--env-id", "test/Nested-v0", *flags]) == 0
    yield folder
    del gym.registry["test/Nested-v0"]


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_it_plays_the_episodes_that_an_evaluation_plays(run, best, deterministic):
    options = {"episodes": 3, "best": best, "deterministic": deterministic}
    episodes = list(play(PlayConfig(run, **options)))
    assert [episode.length for episode in episodes] == [4, 4, 4]
    returns = [episode.episode_return for episode in evaluate_run(run, **options)]
    assert [episode.episode_return for episode in episodes] == pytest.approx(returns, rel=1e-6)


def test_the_best_policy_is_played_if_there_is_one(run, tmp_path, capsys):
    def printed(*flags, code=0):
        assert play_main([str(run), "--episodes", "2", *flags]) == code
        return capsys.readouterr()

    capsys.readouterr()
    last, best = run / "weights/policy.safetensors", run / "best/policy.safetensors"
    last_bytes, best_bytes = last.read_bytes(), best.read_bytes()
    summary = json.loads((run / "summary.json").read_text())
    assert (last_bytes == best_bytes) == (summary["best_timesteps"] == summary["timesteps"])
    best.rename(tmp_path / "kept")
    (run / "best/evaluation.json").rename(tmp_path / "kept.json")
    (run / "best").rmdir()
    try:
        refused = printed("--best", code=2)
        assert refused.err == f"play: {run} has no best policy: it was trained without --eval-freq\n"
        assert printed().out.count("return") == 3
    finally:
        (run / "best").mkdir()
        (tmp_path / "kept").rename(best)
        (tmp_path / "kept.json").rename(run / "best/evaluation.json")
    assert printed("--best").out.count("return") == 3


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("raise", "raised RuntimeError: the door is stuck"),
        ("return", "returned no observation['kind'], which its space has"),
    ],
)
def test_an_env_that_fails_is_named_in_one_line(run, failure, message, capsys, monkeypatch):
    capsys.readouterr()
    monkeypatch.setenv("FAIL", failure)
    assert play_main([str(run)]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    first, *rest = out.err.splitlines()
    assert re.match(r"play: worker 0 \(envs 0\) failed: env 0, seed \d+, step 3: ", first)
    assert first.endswith(message)
    assert any(line.startswith("Traceback") for line in rest) == (failure == "raise")


class Tells(Nested):
    """The info of an episode's end says whether it went well."""

    word = "is_success"

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        info = {self.word: np.bool_(obs["kind"] == 2)} if terminated else {self.word: None}
        return obs, reward, terminated, truncated, info


class TellsOtherwise(Tells):
    word = "success"


@pytest.mark.parametrize("env", [Tells, TellsOtherwise])
def test_successes_are_counted_if_the_env_tells(run, env, capsys):
    gym.register("play/Tells-v0", env, max_episode_steps=10)
    try:
        assert play_main([str(run), "--env-id", "play/Tells-v0", "--episodes", "12"]) == 0
        *lines, summary = capsys.readouterr().out.splitlines()
        assert play_main([str(run), "--env-id", "play/Tells-v0", "--episodes", "1"]) == 0
    finally:
        del gym.registry["play/Tells-v0"]
    alone = capsys.readouterr().out.splitlines()
    expected = []
    for k in range(12):
        found = env()
        found.reset(seed=prl.episode_seed(1_000_000, 0, k))
        for _ in range(4):
            info = found.step((5, np.zeros(2, np.float32)))[4]
        expected.append(bool(info[env.word]))
    assert {*expected} == {True, False}
    assert [line.endswith("4 steps, success") for line in lines] == expected
    assert [line.endswith("4 steps, no success") for line in lines] == [not good for good in expected]
    assert summary.endswith(f"; success rate {100 * sum(expected) / 12:.0f} %")
    assert alone[0] == lines[0]
    assert alone[1].endswith(f" over 1 episode; success rate {100 * expected[0]} %")


def test_without_a_word_of_success_there_is_none(run, capsys):
    assert play_main([str(run), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "mean return" in out
    assert "success" not in out


def test_settings_that_are_wrong_are_named_with_their_file(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    for text in ("", "env_id: CartPole-v1\nbatch_size: 0\n"):
        config.write_text(text)
        assert play_main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"play: {config}: env_id is required, e.g. CartPole-v1",
        f"play: {config}: batch_size must be at least 1, got 0",
    ]


def test_another_env_must_have_the_same_spaces(run, capsys):
    capsys.readouterr()
    assert play_main([str(run), "--env-id", "CartPole-v1"]) == 2
    assert capsys.readouterr().err.startswith("play: the observation space of CartPole-v1 is not the one")


class Drops(torch.nn.Module):
    """An encoder that draws while it trains."""

    def __init__(self, observation_space):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.9))

    def forward(self, obs):
        return self.layers(obs)


def test_the_layers_of_an_own_encoder_are_played_as_they_are_evaluated(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ["--encoder", f"{__name__}:Drops", "--run-folder", str(folder)]
    assert train_main(["--env-id", "CartPole-v1", *SMALL, *flags]) == 0
    played = [[episode.episode_return for episode in play(PlayConfig(folder, episodes=5))] for _ in range(2)]
    evaluated = [episode.episode_return for episode in evaluate_run(folder, episodes=5)]
    assert played == [evaluated, evaluated]


@pytest.mark.parametrize(
    ("flags", "wanted"), [(("--video", "videos"), "rgb_array"), (("--render", "human"), "human")]
)
def test_an_env_that_cannot_be_shown_is_refused_in_one_line(
    run, flags, wanted, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert play_main([str(run), *flags]) == 2
    message = f"play: test/Nested-v0 has no render mode {wanted}; it has none\n"
    assert capsys.readouterr().err == message
    assert not list(tmp_path.iterdir())


class Pictured(Nested):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def test_what_cannot_be_shown_or_written_is_told_before_anything_is_played(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    gym.register("play/Pictured-v0", Pictured, max_episode_steps=10)
    flags = (str(run), "--env-id", "play/Pictured-v0")
    capsys.readouterr()
    try:
        for place in ("file", "file/videos"):
            assert play_main([*flags, "--video", str(tmp_path / place)]) == 2
        assert play_main([*flags, "--render", "human"]) == 2
    finally:
        del gym.registry["play/Pictured-v0"]
    assert capsys.readouterr().err.splitlines() == [
        f"play: video {tmp_path / 'file'} is not a folder",
        f"play: video {tmp_path / 'file/videos'} cannot be written: {tmp_path / 'file'} is not a folder",
        "play: play/Pictured-v0 has no render_fps in its metadata, which a window needs",
    ]


@pytest.mark.parametrize("command", ["train", "play", "benchmark"])
def test_ctrl_c_while_torch_is_imported_shows_no_traceback(command, tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{command}.py", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"{command}: stopped by SIGINT\n"


class Endless(Nested):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def test_an_env_without_a_time_limit_is_cut_with_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("prl.run.build.LONGEST_EPISODE", 30)
    gym.register("PlayForever-v0", Endless)
    try:
        folder = tmp_path / "run"
        flags = ["--rollout", "steps", "--num-workers", "0", "--num-envs", "2", "--total-timesteps", "100"]
        assert train_main(["--env-id", "PlayForever-v0", "--run-folder", str(folder), *flags]) == 0
        capsys.readouterr()
        with pytest.warns(UserWarning, match="1 of 1 episodes did not end within 30 steps and were cut"):
            assert play_main([str(folder), "--episodes", "1"]) == 0
        assert "30 steps" in capsys.readouterr().out
        assert play_main([str(folder), "--episodes", "1", "--max-episode-steps", "3"]) == 0
        assert ", 3 steps" in capsys.readouterr().out
    finally:
        del gym.registry["PlayForever-v0"]


# ---- runs of the quick start


def quick_run(env, folder, steps=100, **ppo):
    settings = {"is_continuous": False, "action_dim": 2, "observ_dim": 4, "batch_size": 64, **ppo}
    quick = prl.AsyncPPO(env, prl.PPO(**settings), num_envs=2, steps=steps, num_workers=0, run_folder=folder)
    quick.run()
    return quick


def test_a_run_of_the_quick_start_is_played_with_its_env(tmp_path, capsys):
    env = gym.make("CartPole-v1", max_episode_steps=7, render_mode="rgb_array")
    quick_run(env, tmp_path / "run", seed=3)
    env.close()
    capsys.readouterr()
    assert play_main([str(tmp_path / "run"), "--episodes", "3"]) == 0
    assert capsys.readouterr().out.count("return 7.00, 7 steps") == 3
    assert (tmp_path / "run/config.yaml").read_text().startswith("# Of a run of AsyncPPO. ")


@pytest.mark.filterwarnings("ignore:action_scaling=1.5 leaves out a part")
def test_actions_of_the_quick_start_keep_their_scale(tmp_path):
    pendulum = {"is_continuous": True, "action_dim": 1, "observ_dim": 3, "action_scaling": 1.5}
    quick = quick_run("Pendulum-v1", tmp_path, 300, hidden_sizes=(8,), **pendulum)
    torch.nn.init.constant_(quick.ppo.policy.actor[-1].bias, 50.0)
    quick.ppo.save_weights(tmp_path / "weights")
    policy = prl.load(tmp_path)
    action = policy.predict(np.zeros(3))
    assert (action.dtype, action.tolist()) == (np.float32, [1.5]), "not 2.0, the bound of the env"
    assert policy.action_space == gym.make("Pendulum-v1").action_space
    assert len(list(play(PlayConfig(tmp_path, episodes=2)))) == 2


def test_an_env_without_an_id_needs_one_to_be_played(tmp_path, capsys):
    def made():
        return gym.make("CartPole-v1")

    quick_run(made, tmp_path / "run")
    assert prl.load(tmp_path / "run").predict(np.zeros(4)) in (0, 1)
    capsys.readouterr()
    assert play_main([str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "was trained on made, which has no id that another process knows: register it" in err
    assert err.count("\n") == 1
    assert play_main([str(tmp_path / "run"), "--env-id", "CartPole-v1", "--episodes", "1"]) == 0


def test_what_envs_are_called():
    wrapped = gym.wrappers.FrameStackObservation(gym.make("CartPole-v1", max_episode_steps=9), stack_size=2)
    stack = "gymnasium.wrappers.stateful_observation:FrameStackObservation"
    assert name_of("a:b-v0") == EnvName("a:b-v0")
    assert name_of(gym.spec("CartPole-v1")) == EnvName("CartPole-v1")
    name = name_of(wrapped)
    assert (name.env_id, name.max_episode_steps) == ("CartPole-v1", 9)
    assert name.wrappers[0].startswith(f"{stack}(stack_size=2")
    config = prl.TrainConfig(**vars(name))
    built = prl.env_factory(config.env_id, wrappers=config.wrappers).build()
    assert built.observation_space == wrapped.observation_space
    pendulum = gym.make("Pendulum-v1", g=3.0, render_mode="rgb_array")
    assert name_of(pendulum) == EnvName("Pendulum-v1", {"g": 3.0})
    nameless = (Nested, Nested(), lambda: pendulum, gym.wrappers.TransformReward(pendulum, lambda r: r))
    assert [name_of(env) for env in nameless] == [None] * 4
