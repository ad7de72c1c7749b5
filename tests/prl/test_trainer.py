"""collect and Trainer, over envs that say what they expect."""

import copy
import io
import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from learner_helpers import same_bits, weights_of

from learner.actor import Actor
from learner.errors import NonFiniteError
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from learner.store import concatenate
from prl.training.evaluate import evaluate
from prl.training.group_round import GroupTask, play_groups
from prl.training.rounds import Round, split_groups
from prl.training.trainer import Trainer
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.seeding import Stream, episode_seed


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
    tasks = [
        GroupTask(group, ids, 0, (Stream.NOISE, 1, group), ids * 0, None, None, np.zeros(len(ids)), ids * 0)
        for group, ids in enumerate(split_groups(num_envs, num_groups))
    ]
    with InlinePool(factory, num_envs) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prl.training.group_round.episode_seed", lambda seed, env, episode: seeds[env])
        parts = sorted(play_groups(pool, Actor(policy).now(), tasks), key=lambda part: part.group)
    played = Round.of(parts)
    return played, concatenate(played.parts)


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_every_env_plays_exactly_one_episode(num_groups):
    seeds = [10, 3, 7, 21, 14, 6, 5]
    played, rollout = play_round(len(seeds), num_groups, seeds)
    lengths = [1 + seed % 7 for seed in seeds]
    assert played.lengths.tolist() == lengths
    assert played.returns.tolist() == [length * (length + 1) / 2 for length in lengths]
    assert (played.steps, played.longest, played.lost) == (sum(lengths), max(lengths), 0)
    assert rollout.env_ids.tolist() == [env for env, length in enumerate(lengths) for _ in range(length)]
    assert rollout.obs.tolist() == [
        [seed, step] for seed, length in zip(seeds, lengths, strict=True) for step in range(length)
    ]
    assert rollout.rewards.tolist() == [step + 1 for length in lengths for step in range(length)]
    assert rollout.ends.tolist() == [step == length - 1 for length in lengths for step in range(length)]
    assert rollout.terminated.tolist() == [seed % 2 == 0 for seed in seeds]
    assert rollout.final_obs.tolist() == [[seed, 1 + seed % 7] for seed in seeds]
    assert not rollout.continues.any()


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("env", range(4))
def test_an_envs_actions_do_not_depend_on_how_long_others_play(env, num_groups):
    actions = []
    for others in ([7, 0, 0], [6, 13, 20], [0, 3, 6]):  # they play one step, or seven, or 1, 4 and 7
        seeds = [*others[:env], 13, *others[env:]]
        _, rollout = play_round(4, num_groups, seeds)
        actions.append(rollout.actions[rollout.env_ids == env].tolist())
    assert len(actions[0]) == 7
    assert actions[0] == actions[1] == actions[2]


def make_trainer(pool, factory, *, normalize_obs=False, **settings):
    learner = PPOLearner(
        ActorCritic(factory.observation_space, factory.action_space, (8,), normalize_obs=normalize_obs),
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


@pytest.mark.parametrize("settings", [{}, {"num_steps": 12, "overlap": True}])
def test_iterations_end_with_the_total(factory, settings):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, total_timesteps=200, **settings)
        *_, before, last = (report.timesteps for report in trainer.iterations())
        assert before < 200 <= last
        assert not list(trainer.iterations())


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


@pytest.mark.parametrize("num_steps", [None, 12])
def test_annealing_follows_the_share_of_the_run_that_is_done(factory, num_steps):
    settings = {"anneal_lr": True, "anneal_clip_range": True, "actor_lr": 1e-2, "clip_range": 0.25}
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, config=settings, total_timesteps=400, num_steps=num_steps)
        before = 0
        for _, report in zip(range(8), trainer.iterations(), strict=False):
            left = max(0.0, 1.0 - before / 400)
            assert report.metrics["train/learning_rate"] == pytest.approx(1e-2 * left, abs=1e-12)
            assert report.metrics["train/clip_range"] == pytest.approx(0.25 * left, abs=1e-12)
            before = report.timesteps
        assert before > 400  # annealing has come to its end


@pytest.mark.parametrize("num_steps", [None, 5, 12])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_run_continued_from_its_state_gives_the_same_bits(factory, normalized, num_steps):
    settings = {
        "normalize_obs": normalized,
        "config": {"normalize_reward": normalized, "anneal_lr": True},
        "num_steps": num_steps,
    }

    def states(trainer, count):
        return [
            (report.returns.tolist(), report.timesteps, report.episodes, f"{report.mean_return}")
            for _, report in zip(range(count), trainer.iterations(), strict=False)
        ]

    with InlinePool(factory, 5) as pool:
        whole = make_trainer(pool, factory, **settings)
        expected = states(whole, 4)
        first = make_trainer(pool, factory, **settings)
        assert states(first, 2) == expected[:2]
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
    with InlinePool(factory, 5) as pool:  # no env of the first run is left
        second = make_trainer(pool, factory, **settings)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert states(second, 2) == expected[2:]
    assert same_bits(weights_of(whole.learner.policy), weights_of(second.learner.policy))


@pytest.mark.parametrize("num_steps", [None, 7])
def test_a_state_from_before_the_first_round_will_do(factory, num_steps):
    settings = {"num_steps": num_steps, "normalize_obs": True}
    with InlinePool(factory, 5) as pool:
        straight, resumed = (make_trainer(pool, factory, **settings) for _ in range(2))
        resumed.load_state_dict(straight.state_dict())
        for trainer in (straight, resumed):
            assert len(list(itertools.islice(trainer.iterations(), 3))) == 3
    assert same_bits(weights_of(straight.learner.policy), weights_of(resumed.learner.policy))


@pytest.mark.parametrize("num_steps", [None, 7])
@pytest.mark.parametrize("step", ["by-hand", "by-autograd"])
def test_a_state_stays_what_it_was_while_trainers_go_on(factory, num_steps, step, monkeypatch):
    """The one it is of, and those that start from it: each of these gives the same weights."""
    if step == "by-autograd":
        monkeypatch.setattr("learner.fused_step.fits", lambda policy: False)
    found = []
    with InlinePool(factory, 5) as pool:
        straight = make_trainer(pool, factory, num_steps=num_steps)
        updates = straight.iterations()
        next(updates)
        state = straight.state_dict()
        list(itertools.islice(updates, 2))
        found.append(weights_of(straight.learner.policy))
        for _ in range(2):
            resumed = make_trainer(pool, factory, num_steps=num_steps)
            resumed.load_state_dict(state)
            list(itertools.islice(resumed.iterations(), 2))
            found.append(weights_of(resumed.learner.policy))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


@pytest.mark.parametrize(
    ("num_envs", "settings", "message"),
    [
        (4, {}, "num_envs 5, not 4"),
        (5, {"num_groups": 2}, "num_groups 1, not 2"),
        (5, {"num_steps": 7}, "num_steps None, not 7"),
        (5, {"seed": 12}, "seed 11, not 12"),
        (4, {"num_steps": 7}, "num_envs 5, not 4; num_steps None, not 7"),
    ],
)
def test_a_state_of_another_kind_of_run_is_refused(factory, num_envs, settings, message):
    with InlinePool(factory, 5) as pool:
        state = make_trainer(pool, factory).state_dict()
    with InlinePool(factory, num_envs) as pool:
        trainer = make_trainer(pool, factory, **settings)
        before = weights_of(trainer.learner.policy)
        with pytest.raises(ValueError, match=f"^the state is of a trainer with {message}$"):
            trainer.load_state_dict(state)
        assert same_bits(before, weights_of(trainer.learner.policy))


@pytest.mark.parametrize("num_groups", [0, 6])
def test_groups_must_not_be_empty(factory, num_groups):
    with InlinePool(factory, 5) as pool, pytest.raises(ValueError, match=r"num_groups must lie in 1\.\.5"):
        make_trainer(pool, factory, num_groups=num_groups)


def test_actions_that_are_not_finite_are_the_policys_fault(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory)
        trainer.learner.policy.head.actions.sample = lambda outputs, noise, weights: outputs[:, 0] * np.nan
        with pytest.raises(NonFiniteError, match="actions are not finite"):
            next(trainer.iterations())


def test_weights_that_are_not_finite_end_the_run(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, config={"actor_lr": 1e38, "critic_lr": 1e38})
        with pytest.raises(NonFiniteError):
            for _ in zip(range(6), trainer.iterations(), strict=False):
                pass


# ---- rounds of a fixed number of steps


@pytest.mark.parametrize(("batch_size", "rounds"), [(1, 1), (60, 1), (61, 2), (200, 4)])
def test_an_update_waits_for_batch_size_steps_of_fixed_rounds(factory, batch_size, rounds):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, batch_size=batch_size, num_steps=12)
        episodes = 0
        for count, report in zip(range(1, 4), trainer.iterations(), strict=False):
            assert report.timesteps == count * rounds * 60
            assert report.metrics["rollout/occupancy"] == 1.0
            assert report.metrics["train/initial_ratio_error"] < 1e-5
            assert len(report.returns) == len(report.lengths)
            episodes += len(report.returns)
            assert report.episodes == episodes


def test_episodes_of_fixed_rounds_are_those_of_whole_ones_in_the_same_order(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, num_steps=7)
        lengths = [[] for _ in range(5)]
        for report in itertools.islice(trainer.iterations(), 6):
            assert report.returns.tolist() == [length * (length + 1) / 2 for length in report.lengths]
            for env in range(5):  # every env has played the same number of steps: whose episodes are whose?
                while (
                    sum(lengths[env]) + 1 + episode_seed(11, env, len(lengths[env])) % 7
                    <= report.timesteps / 5
                ):
                    lengths[env].append(1 + episode_seed(11, env, len(lengths[env])) % 7)
            assert report.episodes == sum(len(own) for own in lengths)
    assert report.episodes > 30


class Unending(gym.Env):
    observation_space = gym.spaces.Box(0, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.array([self.steps], np.float32), 1.0, False, False, {}


def test_without_finished_episodes_there_is_no_mean_return():
    factory = env_factory(Unending)
    with InlinePool(factory, 3) as pool:
        trainer = make_trainer(pool, factory, num_steps=8, batch_size=24)
        for count, report in zip(range(1, 4), trainer.iterations(), strict=False):
            assert (report.episodes, report.timesteps) == (0, 24 * count)
            assert len(report.returns) == len(report.lengths) == 0
            for name in ("rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/iteration_rew_mean"):
                assert math.isnan(report.metrics[name])
            assert math.isnan(report.mean_return)
            assert report.metrics["train/initial_ratio_error"] < 1e-5


@pytest.mark.parametrize("num_steps", [None, 12])
def test_returns_are_reported_in_the_unit_of_the_env(factory, num_steps):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, config={"normalize_reward": True}, num_steps=num_steps)
        for report in itertools.islice(trainer.iterations(), 3):
            assert report.returns.tolist() == [length * (length + 1) / 2 for length in report.lengths]
            assert report.metrics["rollout/iteration_rew_mean"] == pytest.approx(report.returns.mean())


# ---- other schedules


def lagging(trainer, updates):
    """Each batch is played with the weights before the last update."""
    acting = copy.deepcopy(trainer.learner.policy)
    for _ in range(updates):
        collected = trainer.collect(acting)
        acting = copy.deepcopy(trainer.learner.policy)
        yield trainer.learn(collected)


def test_another_schedule_is_a_short_generator_over_collect_and_learn(factory):
    """Ratios are those to the weights that acted, and annealing follows the batch that is learnt from."""
    with InlinePool(factory, 4) as pool:
        trainer = make_trainer(
            pool, factory, total_timesteps=1000, config={"anneal_lr": True, "actor_lr": 0.01}
        )
        before = 0
        for number, report in enumerate(lagging(trainer, 4)):
            assert report.metrics["train/initial_ratio_error"] < 1e-5
            assert report.metrics["train/learning_rate"] == pytest.approx(0.01 * (1.0 - before / 1000))
            assert (report.iteration, report.timesteps > before) == (number + 1, True)
            before = report.timesteps


# ---- the first statistics of observations


@pytest.mark.parametrize("num_steps", [None, 12])
@pytest.mark.parametrize(
    ("num_envs", "total", "warm_up"), [(5, 10**6, 2050), (64, 10**6, 2048), (3, 10**6, 2049), (5, 5011, 505)]
)
def test_a_warm_up_is_counted_in_timesteps_but_not_learnt_from(factory, num_steps, num_envs, total, warm_up):
    with InlinePool(factory, num_envs) as pool:
        trainer = make_trainer(pool, factory, normalize_obs=True, num_steps=num_steps, total_timesteps=total)
        seen = []
        update = trainer.learner.update
        trainer.learner.update = lambda rollout, *args: seen.append(rollout) or update(rollout, *args)
        first, second = itertools.islice(trainer.iterations(), 2)
        steps = [len(rollout) for rollout in seen]
        assert first.timesteps == warm_up + steps[0]
        assert second.timesteps == warm_up + sum(steps)
        assert sum(steps) < warm_up
        normalizer = trainer.learner.policy.encoder.normalizer
        assert float(normalizer.count) == warm_up + sum(steps)
        # Episodes of the warm-up are not those of the run, and not counted among them.
        firsts = [float(seen[0].obs[seen[0].env_ids == env][0, 0]) for env in range(num_envs)]
        assert firsts == [episode_seed(11, env, 0) for env in range(num_envs)]
        assert first.episodes == len(first.returns)
        assert first.metrics["train/initial_ratio_error"] < 1e-5


def test_without_normalisation_there_is_no_warm_up(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, config={"normalize_reward": True})
        report = next(trainer.iterations())
        assert report.timesteps == int(report.lengths.sum()) < 100
        assert set(trainer.learner.policy.state_dict()) == {
            f"{part}.{layer}.{kind}"
            for part in ("actor", "critic")
            for layer in (0, 2)
            for kind in ("weight", "bias")
        }


def test_the_warm_up_plays_other_episodes_than_the_run(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, normalize_obs=True, total_timesteps=10**6)
        policy, seen = trainer.learner.policy, []
        update = policy.update_statistics
        policy.update_statistics = lambda obs: seen.append(obs) or update(obs)
        next(trainer.iterations())
    warm_up, update = seen
    assert len(warm_up) == 2050
    far, own = (
        {episode_seed(11, env, first + k) for env in range(5) for k in range(400)} for first in (1 << 31, 0)
    )
    assert set(warm_up[:, 0].tolist()) <= far
    assert set(update[:, 0].tolist()) <= own
    assert not far & own


def test_evaluation_changes_no_bit_of_the_policy(factory):
    with InlinePool(factory, 5) as pool:
        trainer = make_trainer(pool, factory, normalize_obs=True, config={"normalize_reward": True})
        next(trainer.iterations())
        before, rewards = weights_of(trainer.learner.policy), trainer.state_dict()["learner"]["rewards"]
        rewards = {name: tensor.clone() for name, tensor in rewards.items()}
        for deterministic in (True, False):
            evaluate(trainer.learner.policy, pool, [1, 2, 3, 4, 5, 6, 7], deterministic=deterministic)
        assert same_bits(before, weights_of(trainer.learner.policy))
        assert same_bits(rewards, trainer.state_dict()["learner"]["rewards"])


def test_overlap_begins_with_the_statistics_of_the_warm_up(factory):
    with InlinePool(factory, 5) as pool:
        policy = ActorCritic(factory.observation_space, factory.action_space, normalize_obs=True)
        trainer = Trainer(
            pool, PPOLearner(policy, PPOConfig()), batch_size=60, total_timesteps=1000, seed=0, overlap=True
        )
        played, learn = [], trainer.learn
        trainer.learn = lambda collected: (
            played.append(copy.deepcopy(collected.acting_policy)) or learn(collected)
        )
        next(trainer.iterations())
    assert float(played[0].encoder.normalizer.count) >= 100
