"""What a round is, against a slow reference: an env that counts, episode after episode and step by step."""

import dataclasses
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import same_bits, weights_of
from torch import nn

from learner.actor import Actor
from learner.advantages import gae
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.store import concatenate
from prl.training.group_round import episodes_of
from prl.training.players import LearnerPlayers
from prl.training.rounds import EpisodeTracker, FixedSteps, Round, WholeEpisodes, split_groups
from prl.training.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.seeding import Stream, episode_seed, generator


def length_of(seed):
    """1 to 7 steps; even seeds are terminated, odd ones truncated."""
    return 1 + seed % 7


def reward_of(seed, step, action):
    return step + 0.25 * action + (seed % 4) / 16.0


STARTED = []
"""Seeds, by all envs together in the order of resets."""


class Counter(gym.Env):
    """Sees (seed % 1000, step)."""

    observation_space = gym.spaces.Box(0, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps = seed, 0
        STARTED.append(seed)
        return np.array([seed % 1000, 0.0]), {}

    def step(self, action):
        reward = reward_of(self.seed, self.steps, action)
        self.steps += 1
        over, odd = self.steps == length_of(self.seed), self.seed % 2 == 1
        return np.array([self.seed % 1000, float(self.steps)]), reward, over and not odd, over and odd, {}


@pytest.fixture(autouse=True)
def _forget():
    STARTED.clear()


def make_world(num_envs=5, seed=11):
    factory = env_factory(Counter, max_episode_steps=100)
    policy = ActorCritic(factory.observation_space, factory.action_space, (8,))
    with torch.no_grad():  # actions should depend on what is seen
        policy.actor[-1].weight.mul_(100.0)
    STARTED.clear()  # of the trial env
    return factory, policy, EpisodeTracker(num_envs, seed)


def play(pool, policy, rounds, num_groups, key):
    """One round of the learner's own play, and its rows."""
    players, groups = LearnerPlayers(pool), split_groups(pool.num_envs, num_groups)
    tasks = [rounds.task(group, ids, (Stream.NOISE, key)) for group, ids in enumerate(groups)]
    parts = sorted(players.play(players.publish(policy), tasks), key=lambda part: part.group)
    for part in parts:
        rounds.take(groups[part.group], part)
    assert not players.active.mask.any()
    played = Round.of(parts)
    return played, concatenate(played.parts)


class Reference:
    """Plays N counting envs for a fixed number of steps per round: one env and one step after the other."""

    def __init__(self, policy, num_envs, seed):
        self.policy, self.num_envs, self.seed = policy, num_envs, seed
        self.episode = [0] * num_envs
        self.step = [0] * num_envs
        self.total = [0.0] * num_envs

    def seed_of(self, env):
        return episode_seed(self.seed, env, self.episode[env])

    def obs(self, env):
        return [float(self.seed_of(env) % 1000), float(self.step[env])]

    def play(self, num_steps, num_groups, key):
        """One round: its rows, and (env, return, length) of the episodes that ended in it."""
        rows = {env: [] for env in range(self.num_envs)}
        finished = []
        for group, ids in enumerate(split_groups(self.num_envs, num_groups)):
            rng = generator(self.seed, Stream.NOISE, key, group)
            for count in range(num_steps):
                noise = self.policy.head.draw_noise(rng, len(ids))
                obs = np.array([self.obs(env) for env in ids])
                actions = Actor(self.policy).act(obs, noise).tolist()
                for env, action in zip(ids.tolist(), actions, strict=True):
                    row = self._step(env, action, count == num_steps - 1)
                    rows[env].append(row)
                    if row["over"]:
                        finished.append((env, row["return"], row["length"]))
        return [row for env in rows for row in rows[env]], sorted(finished, key=lambda f: f[0])

    def _step(self, env, action, last):
        seed, step, seen = self.seed_of(env), self.step[env], self.obs(env)
        reward = float(np.float32(reward_of(seed, step, action)))
        self.step[env] += 1
        self.total[env] += reward
        over = self.step[env] == length_of(seed)
        row = {
            "env": env, "obs": seen, "action": action, "reward": reward, "over": over, "end": over or last,
            "terminated": over and seed % 2 == 0, "final": self.obs(env),
            "return": self.total[env], "length": self.step[env],
        }  # fmt: skip
        if over:
            self.episode[env] += 1
            self.step[env], self.total[env] = 0, 0.0
        return row


def check(rollout, rows):
    """Every column, row by row."""
    ends = [row for row in rows if row["end"]]
    assert rollout.env_ids.tolist() == [row["env"] for row in rows]
    assert rollout.obs.tolist() == [row["obs"] for row in rows]
    assert rollout.actions.tolist() == [row["action"] for row in rows]
    assert rollout.rewards.tolist() == [row["reward"] for row in rows]
    assert rollout.ends.tolist() == [row["end"] for row in rows]
    assert rollout.terminated.tolist() == [row["terminated"] for row in ends]
    assert rollout.continues.tolist() == [not row["over"] for row in ends]
    assert rollout.final_obs.tolist() == [row["final"] for row in ends]
    assert rollout.episode_ends.tolist() == [row["over"] for row in rows]
    assert rollout.next_obs().tolist() == [row["final"] for row in rows]
    last = [rows[i]["env"] != rows[i + 1]["env"] for i in range(len(rows) - 1)]
    assert rollout.last_of_env.tolist() == [*last, True]


# ---- rounds of a fixed number of steps


@pytest.mark.parametrize("num_groups", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [1, 3, 10, 23])
def test_every_env_plays_so_many_steps_and_goes_on_where_it_was(num_steps, num_groups):
    factory, policy, tracker = make_world()
    rounds, reference = FixedSteps(tracker, num_steps, policy.head.to_env), Reference(policy, 5, 11)
    with InlinePool(factory, 5) as pool:
        for key in range(6):
            played, rollout = play(pool, policy, rounds, num_groups, key)
            rows, finished = reference.play(num_steps, num_groups, key)
            check(rollout, rows)
            assert played.returns.tolist() == [total for _, total, _ in finished]
            assert played.lengths.tolist() == [length for _, _, length in finished]
            assert (played.steps, played.longest, played.lost) == (5 * num_steps, num_steps, 0)
    assert tracker.started.tolist() == [episode + 1 for episode in reference.episode]


@pytest.mark.parametrize("num_groups", [1, 2])
def test_several_rounds_can_lie_in_one_batch(num_groups):
    factory, policy, tracker = make_world()
    rounds, reference = FixedSteps(tracker, 4, policy.head.to_env), Reference(policy, 5, 11)
    played, rollouts = [], []
    with InlinePool(factory, 5) as pool:
        for key in range(4):
            rollouts.append(play(pool, policy, rounds, num_groups, key)[1])
            played.append(reference.play(4, num_groups, key)[0])
    rows = sorted(itertools.chain(*played), key=lambda row: row["env"])  # stable: rounds stay in order
    check(concatenate(rollouts), rows)


def test_episode_k_of_env_i_has_its_own_seed_in_order():
    factory, policy, tracker = make_world(num_envs=3)
    rounds = FixedSteps(tracker, 9, policy.head.to_env)
    with InlinePool(factory, 3) as pool:
        for key in range(5):
            play(pool, policy, rounds, 1, key)
    own = {env: [episode_seed(11, env, k) for k in range(int(tracker.started[env]))] for env in range(3)}
    assert sorted(STARTED) == sorted(itertools.chain(*own.values()))
    for seeds in own.values():
        assert len(seeds) >= 45 // 7
        assert [seed for seed in STARTED if seed in seeds] == seeds


def test_the_round_ends_every_env_without_ending_its_episode():
    """The last observation of a round is the first one of the next, unless an episode ended just there."""
    factory, policy, tracker = make_world()
    rounds = FixedSteps(tracker, 5, policy.head.to_env)
    rollouts = []
    with InlinePool(factory, 5) as pool:
        rollouts += [play(pool, policy, rounds, 1, key)[1] for key in range(8)]
    kinds = set()
    for before, after in itertools.pairwise(rollouts):
        for env in range(5):
            end = np.flatnonzero(before.env_ids == env)[-1]
            index = int(before.ends[: end + 1].sum()) - 1
            cut = bool(before.continues[index])
            first = after.obs[after.env_ids == env][0]
            assert (first == before.final_obs[index]).all() == cut
            assert cut == (first[1] != 0.0)
            kinds.add(cut)
    assert kinds == {True, False}


def test_advantages_bootstrap_from_the_observation_at_the_cut_and_stop_there():
    """V(obs) = the step number: against the recursion over each piece between two ends."""
    factory, policy, tracker = make_world()
    policy.critic = nn.Linear(2, 1, bias=False)
    policy.critic.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    learner = PPOLearner(policy, PPOConfig(gamma=0.9, gae_lambda=0.8))
    rounds = FixedSteps(tracker, 4, policy.head.to_env)
    with InlinePool(factory, 5) as pool:
        rollout = concatenate([play(pool, policy, rounds, 1, key)[1] for key in range(3)])
    batch = learner.prepare(rollout)
    expected, start = [], 0
    stops = (np.flatnonzero(rollout.ends) + 1).tolist()
    for number, stop in enumerate(stops):
        values = rollout.obs[start:stop, 1]
        after = 0.0 if rollout.terminated[number] else rollout.final_obs[number, 1]
        advantage, reversed_advantages = 0.0, []
        for step in reversed(range(len(values))):
            following = after if step == len(values) - 1 else values[step + 1]
            delta = rollout.rewards[start + step] + 0.9 * following - values[step]
            advantage = delta + 0.9 * 0.8 * advantage
            reversed_advantages.append(advantage)
        expected += reversed(reversed_advantages)
        start = stop
    assert start == len(rollout) == 60
    assert {(bool(t), bool(c)) for t, c in zip(rollout.terminated, rollout.continues, strict=True)} == {
        (True, False), (False, True), (False, False),
    }  # fmt: skip
    np.testing.assert_allclose(batch.advantages, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.returns, np.array(expected) + rollout.obs[:, 1], rtol=1e-5, atol=1e-5)


def test_two_halves_of_an_episode_are_one_episode_to_lambda_0():
    """With lambda 0 a cut changes nothing at all; with another lambda it must."""
    rewards, values = [1.0, 2.0, 3.0, 4.0], [0.5, 0.4, 0.3, 0.2]
    following = [*values[1:], 0.0]
    whole, cut = [0, 0, 0, 1], [0, 1, 0, 1]
    for lam in (0.0, 0.8):
        same = np.array_equal(
            gae(rewards, values, following, whole, 0.9, lam), gae(rewards, values, following, cut, 0.9, lam)
        )
        assert same == (lam == 0.0)


def test_where_all_episodes_are_as_long_as_the_round_both_kinds_are_the_same():
    def weights(num_steps):
        factory = env_factory("CartPole-v1", max_episode_steps=4)  # nothing falls that fast
        policy = ActorCritic(factory.observation_space, factory.action_space, (8,))
        learner = PPOLearner(policy, PPOConfig(num_epochs=2, normalize_reward=True))
        with InlinePool(factory, 6) as pool:
            trainer = Trainer(
                pool, learner, batch_size=60, total_timesteps=1000, seed=2, num_steps=num_steps
            )  # fmt: skip
            reports = list(itertools.islice(trainer.iterations(), 3))
        assert [report.timesteps for report in reports] == [72, 144, 216]
        assert [report.episodes for report in reports] == [18, 36, 54]
        return weights_of(policy)

    assert same_bits(weights(None), weights(4))


def test_steps_that_are_certain_before_they_are_played():
    _, policy, tracker = make_world()
    assert FixedSteps(tracker, 4, policy.head.to_env).least_steps(np.arange(3)) == 12
    assert WholeEpisodes(tracker).least_steps(np.arange(3)) == 0


# ---- rounds of whole episodes


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_whole_episodes_start_and_end_with_the_round(num_groups):
    factory, policy, tracker = make_world()
    rounds = WholeEpisodes(tracker)
    with InlinePool(factory, 5) as pool:
        for k in range(4):
            played, rollout = play(pool, policy, rounds, num_groups, k)
            seeds = [episode_seed(11, env, k) for env in range(5)]
            lengths = [length_of(seed) for seed in seeds]
            assert played.lengths.tolist() == lengths
            assert (played.steps, played.longest) == (sum(lengths), max(lengths))
            assert rollout.env_ids.tolist() == [env for env in range(5) for _ in range(lengths[env])]
            assert rollout.obs.tolist() == [
                [seeds[env] % 1000, step] for env in range(5) for step in range(lengths[env])
            ]
            assert not rollout.continues.any()
            assert rollout.terminated.tolist() == [seed % 2 == 0 for seed in seeds]
            returns = [float(rollout.rewards[rollout.env_ids == env].sum()) for env in range(5)]
            assert played.returns.tolist() == returns
    assert sorted(STARTED) == sorted(episode_seed(11, env, k) for env in range(5) for k in range(4))


# ---- episodes that are lost


class Losing(InlinePool):
    """What a pool says whose workers fail and cannot replay an episode: here, wherever one is truncated."""

    def recv(self, timeout=None):
        batch = super().recv(timeout)
        return batch._replace(lost=batch.truncated, truncated=np.zeros_like(batch.truncated))


@pytest.mark.parametrize("num_steps", [None, 9], ids=["whole", "fixed"])
def test_a_lost_episode_is_kept_as_a_truncated_one_and_counted(num_steps):
    rollouts, lost = [], []
    for make_pool in (InlinePool, Losing):
        factory, policy, tracker = make_world()
        with make_pool(factory, 5) as pool:
            kind = FixedSteps(tracker, num_steps, policy.head.to_env) if num_steps else WholeEpisodes(tracker)
            played, rollout = play(pool, policy, kind, 1, 0)
        rollouts.append(rollout)
        lost.append(played.lost)
    plain, losing = rollouts
    assert lost == [0, int((~plain.terminated & ~plain.continues).sum())]
    assert lost[1] > 0
    for column in ("env_ids", "obs", "actions", "rewards", "ends", "terminated", "continues", "final_obs"):
        np.testing.assert_array_equal(getattr(losing, column), getattr(plain, column), err_msg=column)


# ---- the tracker


def test_returns_are_summed_in_float64():
    factory, policy, tracker = make_world(num_envs=1)
    task = tracker.task(0, np.arange(1), (Stream.NOISE, 0), None, None)
    with InlinePool(factory, 1) as pool:
        _, rollout = play(pool, policy, WholeEpisodes(tracker), 1, 0)
    size = 1000
    rollout = dataclasses.replace(
        rollout,
        env_ids=np.zeros(size, np.int64),
        rewards=np.full(size, 0.1, np.float32),
        ends=np.arange(size) == size - 1,
    )
    episodes, returns, lengths = episodes_of(rollout, task, np.zeros((1, 0)), np.zeros(1, bool))
    assert episodes.returns[0] == pytest.approx(size * float(np.float32(0.1)), rel=1e-12)
    assert (episodes.lengths.tolist(), returns.tolist(), lengths.tolist()) == ([size], [0.0], [0])


def test_the_tracker_goes_on_from_its_state():
    factory, policy, tracker = make_world()
    other = EpisodeTracker(5, 11)
    with InlinePool(factory, 5) as pool:
        play(pool, policy, FixedSteps(tracker, 9, policy.head.to_env), 2, 0)
    assert tracker.lengths.any()
    other.load_state_dict(tracker.state_dict())
    for name in ("started", "returns", "lengths"):
        np.testing.assert_array_equal(getattr(other, name), getattr(tracker, name))
    np.testing.assert_array_equal(other.running_seeds(), tracker.running_seeds())


def test_the_policy_of_these_tests_acts_on_what_it_sees():
    """Or the comparison of actions above would say nothing about observations."""
    _, policy, _ = make_world()
    obs = np.array([[seed, step] for seed in (3.0, 700.0) for step in (0.0, 5.0)])
    noise = np.zeros((4, 3), np.float32)
    assert len(set(Actor(policy).act(obs, noise).tolist())) > 1
