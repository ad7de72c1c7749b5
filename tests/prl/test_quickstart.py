"""The documented quick start and custom loop, with their exact names."""

import functools
import os
import re
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import torch as t

from learner.actor import Actor
from prl import PPO, AsyncPPO, ConfigError, EnvVectorizer, VecMemory, episode_seed, utils
from prl.run.weights import weights_sha256
from prl.training.group_round import GroupTask, play_groups
from workers.errors import EnvError, WorkerEnvFailed

pytestmark = pytest.mark.usefixtures("carried_by_value")


def make_ppo(**changes):
    settings = {
        "is_continuous": False,
        "action_dim": 2,
        "observ_dim": 4,
        "Actor_lr": 0.0010,
        "Critic_lr": 0.0025,
        "policy_clip": 0.2,
        "k_epochs": 11,
        "GAE_lambda": 0.95,
        "batch_size": 1024,
        "mini_batch_size": 1024,
        "gamma": 0.995,
        "use_RND": False,
        "beta": 0.01,
    }
    return PPO(**(settings | changes))


def custom_loop(ppo, env, rounds, with_truncates):
    """The loop of the README; returns the mean return of each round."""
    num_envs = env.num_envs
    buffer = VecMemory(num_envs=num_envs)
    means = []
    for _ in range(rounds):
        total = 0.0
        states = env.reset()[0]
        while True:
            actions, state_values, log_probs = ppo.get_action(t.from_numpy(states))
            next_states, rewards, dones, truncates, _ = env.step(actions)
            total += float(rewards.sum())
            more = {"truncates": truncates, "next_states": next_states} if with_truncates else {}
            utils.buffer_append(
                buffer, states, actions, rewards, dones, state_values, log_probs,
                is_env_terminal=env.envs_active, num_envs=num_envs, **more,
            )  # fmt: skip
            states = utils.inactive_states_dropout(next_states, dones | truncates)
            env.envs_active = utils.update_active_environments_list(env.envs_active, dones | truncates)
            if np.all(env.envs_active):
                utils.buffer_to_target_buffer_transfer(buffer, ppo.memory)
                ppo.learn()
                break
        means.append(total / num_envs)
    return means


def test_the_quick_start_learns_and_keeps_its_weights(tmp_path):
    env = gym.make("CartPole-v1", max_episode_steps=500)
    ppo = make_ppo()
    async_ppo = AsyncPPO(
        env=env, ppo=ppo, num_envs=32, steps=30_000, num_workers=2, run_folder=tmp_path / "run"
    )
    summary = async_ppo.run()
    assert summary["mean_return"] > 120  # a random policy gets 22
    async_ppo.ppo.save_weights(path=str(tmp_path / "weights/"))
    fresh = make_ppo(seed=1)
    fresh.load_weights(path=str(tmp_path / "weights/"))
    assert weights_sha256(fresh.policy) == summary["weights_sha256"]
    assert (tmp_path / "run/progress.csv").is_file()


def test_the_custom_loop_learns():
    with EnvVectorizer(env=gym.make("CartPole-v1"), num_envs=32, num_workers=2) as env:
        means = custom_loop(make_ppo(), env, 12, with_truncates=True)
    assert means[0] < 40
    assert means[-1] > 200


@pytest.mark.parametrize("continuous", [False, True])
def test_the_custom_loop_and_async_ppo_make_the_same_first_batch(continuous, monkeypatch):
    """Behind both stand the same pool, store and update: from the same steps, the same batch."""
    env_id = "Pendulum-v1" if continuous else "CartPole-v1"
    shape = (
        {"is_continuous": True, "action_dim": 1, "observ_dim": 3, "action_scaling": 2.0} if continuous else {}
    )
    batches = []
    for rollout_first in (True, False):
        ppo = make_ppo(**shape)
        rng = np.random.default_rng(5)
        with EnvVectorizer(env_id, num_envs=3, num_workers=0, max_episode_steps=20) as env:
            ppo._noise_rng = rng
            monkeypatch.setattr(
                ppo.learner, "optimize", lambda batch, rng, progress=0.0: batches.append(batch) or {}
            )
            if rollout_first:
                custom_loop(ppo, env, 1, with_truncates=True)
            else:
                batches.append(ppo.learner.prepare(one_round(ppo, env, monkeypatch, rng)))
    custom, direct = batches
    for name in ("inputs", "values", "advantages", "returns"):
        t.testing.assert_close(getattr(custom, name), getattr(direct, name), rtol=1e-5, atol=1e-5)
    t.testing.assert_close(custom.actions.float(), direct.actions.float(), rtol=1e-5, atol=1e-5)
    t.testing.assert_close(custom.log_probs, direct.log_probs, rtol=1e-4, atol=1e-5)


def test_several_transfers_are_learnt_in_env_order(monkeypatch):
    """Novelty is followed within an env from one episode to the next, whatever lies between in memory."""
    seen = []
    ppo = make_ppo(use_RND=True, beta=0.5)
    begin = ppo.learner.exploration.begin
    monkeypatch.setattr(
        ppo.learner.exploration, "begin", lambda rollout: seen.append(rollout) or begin(rollout)
    )
    learn = ppo.learn
    monkeypatch.setattr(ppo, "learn", dict)
    with EnvVectorizer("CartPole-v1", num_envs=3, num_workers=0, max_episode_steps=9) as env:
        custom_loop(ppo, env, 2, with_truncates=True)
    first, second = ppo.memory
    metrics = learn()
    (both,) = seen
    assert both.env_ids.tolist() == sorted([*first.env_ids, *second.env_ids])
    assert both.last_of_env.sum() == 3
    for env in range(3):
        for name in ("obs", "actions", "rewards", "ends"):
            want = [getattr(rollout, name)[rollout.env_ids == env] for rollout in (first, second)]
            np.testing.assert_array_equal(getattr(both, name)[both.env_ids == env], np.concatenate(want))
        for name in ("final_obs", "terminated", "continues"):  # one end per env and transfer
            want = [getattr(rollout, name)[env] for rollout in (first, second)]
            np.testing.assert_array_equal(getattr(both, name)[2 * env : 2 * env + 2], want)
        want = [rollout.extra["values"][rollout.env_ids == env] for rollout in (first, second)]
        np.testing.assert_array_equal(both.extra["values"][both.env_ids == env], np.concatenate(want))
    assert metrics["rnd_loss"] > 0.0


def test_the_custom_loop_explores():
    ppo = make_ppo(use_RND=True, beta=0.1)
    with EnvVectorizer("CartPole-v1", num_envs=8, num_workers=0) as env:
        means = custom_loop(ppo, env, 6, with_truncates=True)
    assert means[-1] > means[0]


def one_round(ppo, env, monkeypatch, rng):
    """One round of the training's own play, over the episodes of the vectorizer's first reset."""
    ids = np.arange(env.num_envs)
    monkeypatch.setattr("prl.training.group_round.generator", lambda *key: rng)
    task = GroupTask(0, ids, 0, (1, 0), ids * 0, None, None, np.zeros(len(ids)), ids * 0)
    (part,) = play_groups(env._pool, Actor(ppo.policy).now(), [task])
    return part.rollout


def test_without_truncates_the_last_state_stands_in(monkeypatch):
    batches = []
    ppo = make_ppo(gamma=0.9, GAE_lambda=0.0)
    monkeypatch.setattr(ppo.learner, "optimize", lambda batch, rng: batches.append(batch) or {})
    with EnvVectorizer("CartPole-v1", num_envs=2, num_workers=0, max_episode_steps=4) as env:
        custom_loop(ppo, env, 1, with_truncates=False)
    batch = batches[0]
    expected = 1.0 + 0.9 * batch.values[3] - batch.values[3]
    assert float(batch.advantages[3]) == pytest.approx(float(expected), abs=1e-6)
    inner = 1.0 + 0.9 * batch.values[3] - batch.values[2]
    assert float(batch.advantages[2]) == pytest.approx(float(inner), abs=1e-6)


def test_get_action_returns_what_env_and_buffer_need():
    ppo = make_ppo(is_continuous=True, action_dim=2, observ_dim=3, action_scaling=2.0)
    actions, values, log_probs = ppo.get_action(t.zeros(1000, 3))
    assert actions.shape == (1000, 2)
    assert values.shape == log_probs.shape == (1000,)
    assert 1.9 < np.abs(actions).max() <= 2.0
    # The log-density of the env's action: integrating its exponential over the square [-2, 2]^2 by sampling
    # from the density itself, E[1 / p] is the area.
    assert np.mean(np.exp(-log_probs.astype(np.float64))) == pytest.approx(16.0, rel=0.25)


def test_the_mask_helpers():
    mask = np.array([False, True, False, False])
    after = utils.update_active_environments_list(mask, np.array([True, False, False]))
    assert after.tolist() == [True, True, False, False]
    assert mask.tolist() == [False, True, False, False]
    kept = utils.inactive_states_dropout(np.array([[0.0], [2.0], [3.0]]), np.array([True, False, False]))
    assert kept.tolist() == [[2.0], [3.0]]
    with pytest.raises(ValueError, match="2 flags do not fit 3 envs"):
        utils.update_active_environments_list(mask, np.array([True, False]))
    with pytest.raises(ValueError, match="3 states do not fit 2 flags"):
        utils.inactive_states_dropout(np.zeros((3, 1)), np.array([True, False]))


def test_misuse_of_the_loop_is_named():
    ppo = make_ppo()
    with pytest.raises(ValueError, match="nothing to learn from"):
        ppo.learn()
    buffer = VecMemory(num_envs=2)
    with pytest.raises(ValueError, match="buffer is empty"):
        utils.buffer_to_target_buffer_transfer(buffer, ppo.memory)
    row = np.zeros(1)
    with pytest.raises(ValueError, match="num_envs is 3, but the buffer was made for 2"):
        utils.buffer_append(buffer, row, row, row, row, row, row, np.array([False] * 2), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -0.1}, "beta must be 0 or a positive number, got -0.1"),
        ({"policy_clip": 0.0}, "policy_clip must be a positive number, got 0.0"),
        ({"k_epochs": 0}, "k_epochs must be at least 1, got 0"),
        ({"gamma": 1.1}, "gamma must be between 0 and 1, got 1.1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer, got 2.5"),
        ({"action_dim": "2"}, "action_dim must be an integer, at least 1, got '2'"),
        ({"observ_dim": True}, "observ_dim must be an integer, at least 1, got True"),
        ({"hidden_sizes": 64}, "hidden_sizes must be a list, each an integer, got 64"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be sizes of at least 1, got (0,)"),
        ({"seed": -1}, "seed must be 0 or more, below 2**63, got -1"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"use_RND": "no"}, "use_RND must be true or false, got 'no'"),
        ({"is_continuous": "no"}, "is_continuous must be true or false, got 'no'"),
        ({"mini_batch_size": 0}, "mini_batch_size must be at least 1, got 0"),
        (
            {"is_continuous": True, "action_scaling": -1.0},
            "action_scaling must be a positive number",
        ),
    ],
)
def test_bad_parameters_are_named(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_ppo(**changes)


@pytest.mark.parametrize(
    ("env_id", "changes", "message"),
    [
        ("Acrobot-v1", {}, "observ_dim=4 does not fit Acrobot-v1"),
        ("CartPole-v1", {"action_dim": 3}, "action_dim=3 does not fit CartPole-v1"),
        ("Pendulum-v1", {"observ_dim": 3}, "is_continuous=False, action_dim=2 does not fit Pendulum-v1"),
        ("CartPole-v1", {"is_continuous": True}, "is_continuous=True, action_dim=2 does not fit CartPole-v1"),
        (
            "Pendulum-v1",
            {"is_continuous": True, "action_dim": 1, "observ_dim": 3, "action_scaling": 3.0},
            "action_scaling=3 exceeds the bounds of Pendulum-v1",
        ),
    ],
)
def test_a_ppo_that_does_not_fit_the_env_is_refused(env_id, changes, message):
    with pytest.raises(ConfigError, match=message):
        AsyncPPO(env=env_id, ppo=make_ppo(**changes))


def test_actions_that_are_left_out_are_told():
    ppo = make_ppo(is_continuous=True, action_dim=1, observ_dim=3, action_scaling=1.0)
    with pytest.warns(UserWarning, match="action_scaling=1 leaves out a part of the actions of Pendulum-v1"):
        AsyncPPO(env="Pendulum-v1", ppo=ppo)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 2.5}, "num_envs must be an integer, at least 1, got 2.5"),
        ({"num_envs": "3"}, "num_envs must be an integer, at least 1, got '3'"),
        ({"steps": 0}, "steps must be an integer, at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be an integer, 0 or more, or None, got -1"),
        ({"seed": -1}, "seed must be an integer, 0 or more, got -1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer, at least 1, got 0"),
        ({"transport": "x"}, "transport must be shared or pipe, got 'x'"),
        ({"step_timeout": -1}, "step_timeout must be a positive number, got -1"),
        ({"start_timeout": 0}, "start_timeout must be a positive number, got 0"),
    ],
)
def test_bad_settings_of_a_run_are_named(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        AsyncPPO(env="CartPole-v1", ppo=make_ppo(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": -1}, "num_workers must be an integer, 0 or more, or None, got -1"),
        ({"seed": -1}, "seed must be an integer, 0 or more, got -1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer, at least 1, got 0"),
        ({"step_timeout": -1}, "step_timeout must be a positive number, got -1"),
        ({"start_timeout": 0}, "start_timeout must be a positive number, got 0"),
    ],
)
def test_bad_settings_of_a_vectorizer_are_named(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        EnvVectorizer("CartPole-v1", num_envs=2, **changes)


@pytest.mark.parametrize("num_envs", [0, -1, 2.5])
def test_an_invalid_number_of_envs_is_named(num_envs):
    for make in (VecMemory, functools.partial(EnvVectorizer, "CartPole-v1")):
        with pytest.raises(ConfigError, match=f"^num_envs must be an integer, at least 1, got {num_envs}$"):
            make(num_envs=num_envs)


def test_action_masks_are_not_ignored_but_refused():
    with pytest.raises(EnvError, match="Taxi-v4 gives action masks, which PPO does not take"):
        AsyncPPO(env="Taxi-v4", ppo=make_ppo())


def low_gravity():
    """An env that was changed after it was made, and has been played."""
    env = gym.make("Pendulum-v1", max_episode_steps=200)
    env.unwrapped.g = 1.5
    env.reset(seed=3)
    env.step(np.zeros(1, np.float32))
    return env


def one_step(env):
    """The observation after the first step of the first episode of seed 0."""
    env.reset(seed=episode_seed(0, 0, 0))
    return env.step(np.ones(1, np.float32))[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_env_that_was_changed_reaches_the_workers_as_it_is(num_workers):
    with EnvVectorizer(env=low_gravity(), num_envs=1, num_workers=num_workers) as env:
        env.reset()
        found = env.step([[1.0]])[0][0]
    np.testing.assert_array_equal(found, one_step(low_gravity()))
    assert not np.array_equal(found, one_step(gym.make("Pendulum-v1")))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_async_ppo_trains_on_the_env_that_was_changed(num_workers):
    env = gym.make("CartPole-v1")
    env._max_episode_steps = 5  # no policy falls that early
    summary = AsyncPPO(env=env, ppo=make_ppo(), num_envs=2, steps=40, num_workers=num_workers).run()
    assert summary["mean_return"] == 5.0


def test_an_env_with_an_attribute_set_through_its_wrappers():
    env = gym.make("CartPole-v1", max_episode_steps=20)
    env.set_wrapper_attr("force_mag", 30.0)
    expected = gym.make("CartPole-v1").unwrapped
    expected.force_mag = 30.0
    expected.reset(seed=episode_seed(0, 0, 0))
    with EnvVectorizer(env=env, num_envs=1, num_workers=0) as vectorizer:
        vectorizer.reset()
        np.testing.assert_array_equal(vectorizer.step([1])[0][0], expected.step(1)[0])


def test_an_env_that_the_user_has_closed():
    env = gym.make("CartPole-v1", max_episode_steps=20)
    env.reset(seed=0)
    env.close()
    summary = AsyncPPO(env=env, ppo=make_ppo(), num_envs=2, steps=40, num_workers=1).run()
    assert summary["status"] == "finished"
    with EnvVectorizer(env=env, num_envs=2, num_workers=0) as vectorizer:
        assert vectorizer.reset()[0].shape == (2, 4)


class Intrusive(gym.Env):
    """Changes torch's settings and the working directory of its process."""

    observation_space = gym.spaces.Box(-1, 1, (4,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        t.set_default_dtype(t.float64)
        t.set_grad_enabled(False)
        os.chdir(tempfile.gettempdir())

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 1.0, False, False, {}


class IntrusiveInEveryStep(Intrusive):
    def step(self, action):
        self.__init__()
        return super().step(action)


def test_an_env_that_changes_settings_of_the_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = AsyncPPO(
        Intrusive, make_ppo(), num_envs=2, steps=20, num_workers=0, max_episode_steps=5, run_folder="run"
    )
    assert run.run()["status"] == "finished"
    assert (tmp_path / "run/weights/policy.safetensors").is_file()
    with EnvVectorizer(IntrusiveInEveryStep, num_envs=2, num_workers=0, max_episode_steps=5) as env:
        custom_loop(make_ppo(), env, 2, with_truncates=True)
    assert t.get_default_dtype() == t.float32
    assert t.is_grad_enabled()


def test_a_run_folder_is_free_again_if_the_run_cannot_begin(tmp_path):
    taken = tmp_path / "licence"

    class Once(Failing):
        def __init__(self):
            if taken.exists():
                raise RuntimeError("only one licence")
            taken.touch()

    run = AsyncPPO(Once, make_ppo(), num_workers=0, max_episode_steps=5, run_folder=tmp_path / "run")
    with pytest.raises(WorkerEnvFailed, match="only one licence"):
        run.run()
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_folder_of_another_is_not_told_to_go_on(tmp_path):
    """The quick start writes no checkpoints."""
    (tmp_path / "summary.json").touch()
    run = AsyncPPO("CartPole-v1", make_ppo(), num_workers=0, run_folder=tmp_path)
    with pytest.raises(ConfigError, match=r"holds a run already; choose another or remove it$"):
        run.run()


def test_a_sink_without_its_list_is_refused(tmp_path):
    run = AsyncPPO("CartPole-v1", make_ppo(), num_workers=0, run_folder=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^sinks must be a list of objects"):
        run.run(sinks=object())
    assert not (tmp_path / "run").exists()


class EndsByItself(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (4,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 1.0, True, False, {}


def test_async_ppo_takes_an_env_that_ends_by_itself():
    with pytest.raises(EnvError, match="ends_by_itself=True"):
        AsyncPPO(EndsByItself, make_ppo(), num_workers=0)
    ppo = make_ppo(batch_size=4)
    run = AsyncPPO(EndsByItself, ppo, num_envs=2, steps=4, num_workers=0, ends_by_itself=True)
    assert run.run()["mean_return"] == 1.0


class Limited(EndsByItself):
    def __init__(self):
        self.max_steps = 40


@pytest.mark.parametrize(
    "make",
    [
        lambda: AsyncPPO(Limited, make_ppo(), num_workers=0, max_episode_steps=41),
        lambda: EnvVectorizer(Limited, 1, num_workers=0, max_episode_steps=41),
    ],
)
def test_what_the_user_should_know_about_the_env_is_a_warning(make):
    with pytest.warns(UserWarning, match="^Limited ends its episodes itself after 40 steps") as caught:
        make()
    assert [warning.filename for warning in caught] == [__file__]  # the line that made the object


def test_sinks_get_the_metrics_of_every_update():
    class Recorder:
        def __init__(self):
            self.written, self.closed = [], False

        def write(self, timesteps, metrics):
            self.written.append((timesteps, metrics["rollout/ep_rew_mean"]))

        def close(self):
            self.closed = True

    sink = Recorder()
    ppo = make_ppo(batch_size=20)
    run = AsyncPPO("CartPole-v1", ppo, num_envs=2, steps=40, num_workers=0, max_episode_steps=5)
    summary = run.run(sinks=[sink])
    assert [timesteps for timesteps, _ in sink.written] == [20, 40]
    assert sink.written[-1][1] == summary["mean_return"] == 5.0
    assert sink.closed


class Failing(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (4,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        raise RuntimeError("out of order")


@pytest.mark.filterwarnings("ignore:worker .* it is started again")
def test_an_env_that_fails_in_every_episode_closes_the_vectorizer(leaves_nothing):
    env = EnvVectorizer(Failing, num_envs=1, num_workers=1, max_episode_steps=9)

    def play_on():
        for _ in range(10):
            env.reset()
            env.step(np.zeros(1, int))  # truncated with what was seen last, as long as there is hope

    with pytest.raises(WorkerEnvFailed, match="out of order"):
        play_on()


def test_same_seed_same_weights_for_any_number_of_workers():
    found = set()
    for num_workers in (0, 2):
        ppo = make_ppo(batch_size=200, seed=4)
        AsyncPPO(env="CartPole-v1", ppo=ppo, num_envs=6, steps=600, num_workers=num_workers, seed=4).run()
        found.add(weights_sha256(ppo.policy))
    assert len(found) == 1


def test_the_vectorizer_refuses_composite_spaces():
    class Nested(gym.Env):
        observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(2))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"a": 0}, {}

    with pytest.raises(EnvError, match=r"Nested: a custom loop takes .* arrays, not Dict"):
        EnvVectorizer(env=Nested, num_envs=1)
