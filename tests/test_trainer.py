"""collect and Trainer, over envs that say what they expect."""

import gymnasium as gym
import numpy as np
import pytest

from learner.policy import ActorCritic
from learner.ppo import PPOConfig, PPOLearner
from learner.store import Store
from prl.collect import Group, collect, split_groups
from prl.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.seeding import episode_seed


class Counting(gym.Env):
    """Episodes of 1 + seed % 7 steps: obs is (seed, step), reward the step; odd ones are truncated."""

    observation_space = gym.spaces.Box(0, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.seed, self.length, self.steps = seed, 1 + seed % 7, 0
        return np.array([seed, 0.0]), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length
        odd = self.seed % 2 == 1
        return np.array([self.seed, self.steps], float), float(self.steps), over and not odd, over and odd, {}


def play_round(num_envs, num_groups, seeds):
    factory = env_factory(Counting, max_episode_steps=100)
    policy = ActorCritic(factory.observation_space, factory.action_space)
    store = Store(policy.observation_space, policy.head.action_space, num_envs)
    groups = [
        Group(ids, np.random.default_rng([1, number]))
        for number, ids in enumerate(split_groups(num_envs, num_groups))
    ]
    with InlinePool(factory, num_envs) as pool:
        return collect(pool, policy, store, seeds, groups), store.rollout()


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_every_env_plays_exactly_one_episode(num_groups):
    seeds = [10, 3, 7, 21, 14, 6, 5]
    played, rollout = play_round(len(seeds), num_groups, seeds)
    lengths = [1 + seed % 7 for seed in seeds]
    assert played.lengths.tolist() == lengths
    assert played.returns.tolist() == [length * (length + 1) / 2 for length in lengths]
    assert played.lost == 0
    assert rollout.env_ids.tolist() == [env for env, length in enumerate(lengths) for _ in range(length)]
    assert rollout.obs.tolist() == [
        [seed, step] for seed, length in zip(seeds, lengths, strict=True) for step in range(length)
    ]
    assert rollout.rewards.tolist() == [step + 1 for length in lengths for step in range(length)]
    assert rollout.ends.tolist() == [step == length - 1 for length in lengths for step in range(length)]
    assert rollout.terminated.tolist() == [seed % 2 == 0 for seed in seeds]
    assert rollout.final_obs.tolist() == [[seed, 1 + seed % 7] for seed in seeds]


def test_an_envs_actions_do_not_depend_on_how_long_others_play():
    short, long = [7, 0, 0, 0], [7, 6, 13, 20]  # env 0 plays one step, the others one step or seven
    seeds = [13, *short[1:]], [13, *long[1:]]
    actions = []
    for some in seeds:
        _, rollout = play_round(4, 1, some)
        actions.append(rollout.actions[rollout.env_ids == 0].tolist())
    assert len(actions[0]) == 7
    assert actions[0] == actions[1]


def make_trainer(pool, factory, **settings):
    learner = PPOLearner(
        ActorCritic(factory.observation_space, factory.action_space, (8,)),
        PPOConfig(num_epochs=2, minibatch_size=16, **settings.pop("config", {})),
    )
    return Trainer(pool, learner, **({"batch_size": 60, "total_timesteps": 1000, "seed": 11} | settings))


@pytest.fixture
def factory():
    return env_factory(Counting, max_episode_steps=100)


def test_episode_k_of_env_i_starts_with_its_own_seed(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, batch_size=1)
        for k, report in zip(range(4), trainer.iterations(), strict=False):
            assert report.lengths.tolist() == [1 + episode_seed(11, env, k) % 7 for env in range(5)]


def test_an_update_waits_for_batch_size_steps_of_whole_rounds(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory)
        total = 0
        for count, report in zip(range(1, 4), trainer.iterations(), strict=False):
            steps = int(report.lengths.sum())
            last_round = int(report.lengths[-5:].sum())
            assert steps - last_round < 60 <= steps
            total += steps
            assert (report.iteration, report.timesteps) == (count, total)
            assert report.metrics["time/total_timesteps"] == total
            assert report.episodes % 5 == 0


def test_occupancy_and_mean_return_are_what_they_say(factory):
    with InlinePool(factory, 5) as pool:
        report = next(make_trainer(pool, factory, batch_size=1).iterations())
    assert report.metrics["rollout/occupancy"] == pytest.approx(
        report.lengths.sum() / (5 * report.lengths.max())
    )
    assert report.mean_return == pytest.approx(report.returns.mean())
    assert report.metrics["rollout/ep_len_mean"] == pytest.approx(report.lengths.mean())
    assert report.metrics["train/initial_ratio_error"] < 1e-5


def test_mean_return_is_over_the_last_100_episodes(factory):
    returns = []
    with InlinePool(factory, 30) as pool:
        for _, report in zip(range(5), make_trainer(pool, factory).iterations(), strict=False):
            returns += report.returns.tolist()
            assert report.mean_return == pytest.approx(np.mean(returns[-100:]))
    assert len(returns) > 100


def test_annealing_follows_the_share_of_the_run_that_is_done(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(
            pool, factory, config={"anneal_lr": True, "actor_lr": 1e-2}, total_timesteps=400
        )
        before = 0
        for _, report in zip(range(8), trainer.iterations(), strict=False):
            expected = 1e-2 * max(0.0, 1.0 - before / 400)
            assert report.metrics["train/learning_rate"] == pytest.approx(expected)
            before = report.timesteps


def test_a_run_continued_from_its_state_gives_the_same_bits(factory):
    def states(trainer, count):
        return [
            report.returns.tolist() for _, report in zip(range(count), trainer.iterations(), strict=False)
        ]

    with InlinePool(factory, 5) as pool:
        whole = make_trainer(pool, factory)
        expected = states(whole, 4)
        first = make_trainer(pool, factory)
        assert states(first, 2) == expected[:2]
        second = make_trainer(pool, factory)
        second.load_state_dict(first.state_dict())
        assert states(second, 2) == expected[2:]
    for name, tensor in whole.learner.policy.state_dict().items():
        assert (tensor == second.learner.policy.state_dict()[name]).all(), name


@pytest.mark.parametrize("num_groups", [0, 6])
def test_groups_must_not_be_empty(factory, num_groups):
    with InlinePool(factory, 5) as pool, pytest.raises(ValueError, match=r"num_groups must lie in 1\.\.5"):
        make_trainer(pool, factory, num_groups=num_groups)


def test_actions_that_are_not_finite_are_the_policys_fault(factory):
    from learner.ppo import NonFiniteError

    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory)
        trainer.learner.policy.head.sample = lambda outputs, noise: np.full(len(outputs), np.nan)
        with pytest.raises(NonFiniteError, match="actions are not finite"):
            next(trainer.iterations())


def test_weights_that_are_not_finite_end_the_run(factory):
    from learner.ppo import NonFiniteError

    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, config={"actor_lr": 1e38, "critic_lr": 1e38})
        with pytest.raises(NonFiniteError):
            for _ in zip(range(6), trainer.iterations(), strict=False):
                pass
