"""Overlap: batch k is played with the weights before update k - 1, and a state says which these are."""

import itertools

import numpy as np
import pytest
import torch
from helpers import factory_of
from learner_helpers import same_bits, weights_of
from player_helpers import Slow

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.training.lagging import LaggingPolicy
from prl.training.players import LearnerPlayers
from prl.training.trainer import Trainer
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.testing import ProbeEnv

pytestmark = pytest.mark.usefixtures("leaves_nothing")

ACTIONS = 5


def make_policy(factory):
    return ActorCritic(factory.observation_space, factory.action_space, (8,), 2)


def trainer_of(
    pool, players=None, policy=None, *, num_steps=6, batch_size=24, total_timesteps=10**6, **options
):
    learner = PPOLearner(policy, PPOConfig(num_epochs=1, actor_lr=1e-2))
    return Trainer(
        pool,
        learner,
        batch_size=batch_size,
        total_timesteps=total_timesteps,
        seed=11,
        num_groups=2,
        num_steps=num_steps,
        overlap=True,
        players=players,
        **options,
    )


def in_workers(factory, policy, transport="shared"):
    """A pool with players of a policy, and these."""
    kit = player_kit(policy)
    pool = ProcessPool(factory, 4, 2, transport=transport, invitation=invitation(kit), step_timeout=20.0)
    return pool, WorkerPlayers(pool, kit)


def mark(policy, number):
    """Weights with which action `number` alone is drawn."""
    with torch.no_grad():
        policy.actor[-1].weight.zero_()
        policy.actor[-1].bias.zero_()
        policy.actor[-1].bias[number] = 1000.0


def batches_of_marked_updates(trainer, count):
    """The actions in each batch, if update k (counted from 1) makes weights that draw k alone."""
    seen, policy = [], trainer.learner.policy
    mark(policy, 0)
    trainer._lagging = LaggingPolicy(policy)

    def update(rollout, rng, progress, acting_policy):
        seen.append(np.unique(rollout.actions).tolist())
        assert int(acting_policy.actor[-1].bias.argmax()) == seen[-1][0]
        mark(policy, min(len(seen), ACTIONS - 1))
        return {}

    trainer.learner.update = update
    assert len(list(itertools.islice(trainer.iterations(), count))) == count
    return seen


@pytest.mark.parametrize("num_steps", [6, None])
@pytest.mark.parametrize("transport", ["shared", "pipe", None])
def test_the_lag_is_one_update_whoever_plays(transport, num_steps):
    """Marks of the batches: 0, 0, 1, 2, 3: the first two are played with the initial weights."""
    factory = env_factory(ProbeEnv)
    policy = make_policy(factory)
    if transport is None:
        pool, players = InlinePool(factory, 4), None
    else:
        pool, players = in_workers(factory, policy, transport)
    with pool:
        seen = batches_of_marked_updates(trainer_of(pool, players, policy, num_steps=num_steps), ACTIONS)
    assert seen == [[0], [0], [1], [2], [3]]


def test_the_lag_is_one_update_if_a_batch_takes_several_rounds():
    factory = env_factory(ProbeEnv)
    policy = make_policy(factory)
    pool, players = in_workers(factory, policy)
    with pool:
        seen = batches_of_marked_updates(trainer_of(pool, players, policy, batch_size=60), ACTIONS)
    assert seen == [[0], [0], [1], [2], [3]]


def test_weights_that_act_stay_while_the_policy_moves():
    with InlinePool(env_factory(ProbeEnv), 2) as pool:
        policy = make_policy(env_factory(ProbeEnv))
        lagging, players = LaggingPolicy(policy), LearnerPlayers(pool)
        first = lagging.acting(players)
        mark(policy, 3)
        assert lagging.acting(players) is first
        second = lagging.follow(players)
        assert second.version > first.version
        assert same_bits(weights_of(second.policy), weights_of(policy))
        assert not same_bits(weights_of(first.policy), weights_of(policy))
        mark(policy, 1)  # an update, while the second version plays
        assert int(second.policy.actor[-1].bias.argmax()) == 3
        assert lagging.acting(players) is second


@pytest.mark.parametrize("num_steps", [6, None])
@pytest.mark.parametrize("transport", ["shared", "pipe", None])
def test_a_run_continued_from_its_state_gives_the_same_bits(transport, num_steps):
    """Saved after the second of four updates, while the next batch is in flight already."""
    factory = env_factory(ProbeEnv)

    def trainer():
        policy = make_policy(factory)
        if transport is None:
            pool, players = InlinePool(factory, 4), None
        else:
            pool, players = in_workers(factory, policy, transport)
        return pool, trainer_of(pool, players, policy, num_steps=num_steps)

    def outcomes(iterations, count):
        return [(r.timesteps, r.returns.tolist()) for r in itertools.islice(iterations, count)]

    pool, whole = trainer()
    with pool:
        iterations = whole.iterations()
        outcomes(iterations, 2)
        state = whole.state_dict()
        expected = outcomes(iterations, 2)
        end = weights_of(whole.learner.policy)
        # Back to the state, in the same pool, whose players are in the middle of the fifth batch.
        whole.load_state_dict(state)
        assert outcomes(whole.iterations(), 2) == expected
        assert same_bits(weights_of(whole.learner.policy), end)
    pool, other = trainer()
    with pool:
        outcomes(other.iterations(), 1)
        other.load_state_dict(state)
        assert outcomes(other.iterations(), 2) == expected
        assert same_bits(weights_of(other.learner.policy), end)


def test_the_last_batch_of_a_run_is_followed_by_none():
    """Nothing plays any more when the run has come to its total."""
    factory = env_factory(ProbeEnv)
    policy = make_policy(factory)
    pool, players = in_workers(factory, policy)
    with pool:
        trainer = trainer_of(pool, players, policy, total_timesteps=48)
        iterations = trainer.iterations()
        assert next(iterations).timesteps == 24
        assert any(state.tasks for state in players._workers)  # the second batch is in flight
        assert next(iterations).timesteps == 48
        assert not players.active.mask.any()
        pool.reset(np.arange(4), [1, 2, 3, 4])  # free
        assert len(pool.recv().obs) == 4


def test_a_pool_can_be_closed_while_the_next_batch_is_played():
    factory = factory_of(Slow)
    policy = make_policy(factory)
    pool, players = in_workers(factory, policy)
    with pool:
        next(trainer_of(pool, players, policy, num_steps=20, batch_size=80).iterations())
        assert any(state.tasks for state in players._workers)
