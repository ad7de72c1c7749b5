"""Policies, rollouts and batches for the tests of `learner`."""

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from learner.actor import Actor
from learner.exploration import NoExplorationUpdate
from learner.minibatches import Batch
from learner.policy import ActorCritic
from learner.store import Rollout
from workers.rows import pack

torch.set_num_threads(1)  # such small tensors gain nothing by more, and threads wait for other processes


def vector_space(size):
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def make_policy(action_space=None, obs_dim=3, seed=0, hidden_sizes=(64, 64)):
    """An untrained policy for vector observations; three discrete actions by default."""
    space = gym.spaces.Discrete(3) if action_space is None else action_space
    return ActorCritic(vector_space(obs_dim), space, hidden_sizes, seed)


def sample_rows(space, count, seed=0):
    """Rows [S, *O] of random elements of any space."""
    space.seed(seed)
    return np.stack([pack(space, space.sample()) for _ in range(count)])


def identity_critic(policy):
    """Make V(obs) = obs[0], so that a test can choose every value."""
    weight = torch.zeros(1, policy.observation_space.shape[0])
    weight[0, 0] = 1.0
    policy.critic = nn.Linear(policy.observation_space.shape[0], 1, bias=False)
    policy.critic.weight.data.copy_(weight)
    return policy


def make_rollout(episodes, action_dtype=np.int64, continues=()):
    """A rollout of episodes (env, obs [T, *O], actions [T, *A], rewards [T], terminated, final_obs [*O]).

    `continues` has the numbers of the episodes that continue in the next rollout.
    """
    envs, obs, actions, rewards, terminated, final_obs = zip(*episodes, strict=True)
    ends = [np.arange(len(r)) == len(r) - 1 for r in rewards]
    return Rollout(
        env_ids=np.concatenate([np.full(len(r), env) for env, r in zip(envs, rewards, strict=True)]),
        obs=np.concatenate(obs).astype(np.float32),
        actions=np.concatenate(actions).astype(action_dtype),
        rewards=np.concatenate(rewards).astype(np.float32),
        ends=np.concatenate(ends),
        terminated=np.array(terminated),
        continues=np.isin(np.arange(len(episodes)), continues),
        final_obs=np.stack(final_obs).astype(np.float32),
        extra={},
    )


def play(policy, lengths, seed=0):
    """A rollout of random observations and rewards in which the policy itself has acted, env after env."""
    rng = np.random.default_rng(seed)
    (obs_dim,) = policy.observation_space.shape
    episodes = []
    for env, length in enumerate(lengths):
        obs = rng.standard_normal((length + 1, obs_dim)).astype(np.float32)
        actions = Actor(policy).act(obs[:-1], policy.head.draw_noise(rng, length))
        rewards = rng.standard_normal(length)
        episodes.append((env, obs[:-1], actions, rewards, env % 2 == 0, obs[-1]))
    return make_rollout(episodes, policy.head.action_space.dtype)


def numbered_batch(policy, size, exploration=None):
    """A batch whose first observation component is the number of the row; the rest is random but fitting."""
    generator = torch.Generator().manual_seed(5)
    obs = torch.randn(size, policy.observation_space.shape[0], generator=generator)
    obs[:, 0] = torch.arange(size)
    actions = torch.randint(policy.head.num_outputs, (size,), generator=generator)
    inputs, masks = policy.preprocess(obs)
    log_probs, values = policy.evaluate_actions(inputs, masks, actions)
    advantages = torch.randn(size, generator=generator)
    exploration = exploration or NoExplorationUpdate(size)
    return Batch(
        inputs, masks, actions, log_probs, values, advantages, advantages + values, policy, exploration
    )


def env_log_prob(head, outputs, actions):
    """Log-density of the env actions that belong to `actions`, [S] (change of variables)."""
    return head.log_prob(outputs, actions) - head.log_det(actions)


class Watch:
    """Sees the minibatches of a learner's updates, in order.

    Attributes:
        rows: the row numbers of each minibatch of a `numbered_batch`.
        weights: the policy's weights with which each minibatch was evaluated.
    """

    def __init__(self, learner):
        self._learner = learner
        self._gradient = learner._step.gradient
        self.rows = []
        self.weights = []

    def __enter__(self):
        self._learner._step.gradient = self._see
        return self

    def __exit__(self, *exc_info):
        self._learner._step.gradient = self._gradient

    def _see(self, batch, clip_range):
        self.rows.append([round(float(row)) for row in batch.inputs[:, 0]])
        self.weights.append(weights_of(self._learner.policy))
        return self._gradient(batch, clip_range)


def weights_of(policy):
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def same_bits(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def log_prob(policy, obs, actions):
    """Log pi(action | obs), f32[S], for obs [S, *O] and actions [S, *A]."""
    return policy.head.log_prob(policy.outputs(*policy.preprocess(obs)), actions)
