"""The mistakes of `mutation_check.py`: where, what is right, what is wrong, and which tests are asked."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One mistake. `right` stands exactly once in `file`."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


_PPO = ("test_ppo.py",)
_HEADS = ("test_heads.py", "test_distributions.py")

MUTATIONS = (
    Mutation(
        "truncation counts as termination",
        "learner/ppo.py",
        "np.where(rollout.terminated, 0.0, final_values)",
        "np.zeros(len(final_values))",
        _PPO,
    ),
    Mutation(
        "terminal states are bootstrapped",
        "learner/ppo.py",
        "np.where(rollout.terminated, 0.0, final_values)",
        "final_values",
        _PPO,
    ),
    Mutation(
        "bootstrap from the last value of another env",
        "learner/ppo.py",
        "np.where(rollout.terminated, 0.0, final_values)",
        "np.where(rollout.terminated, 0.0, np.roll(final_values, 1))",
        (*_PPO, "test_rounds.py"),
    ),
    Mutation(
        "Gaussian log-probability at the squashed action",
        "learner/heads.py",
        "z = (actions.reshape(outputs.shape) - outputs)",
        "z = (torch.tanh(actions.reshape(outputs.shape)) - outputs)",
        _HEADS,
    ),
    Mutation(
        "entropy is detached",
        "learner/ppo.py",
        "entropy = self.policy.head.entropy(outputs).mean()",
        "entropy = self.policy.head.entropy(outputs).mean().detach()",
        _PPO,
    ),
    Mutation(
        "minibatches are never shuffled",
        "learner/ppo.py",
        "rng.permutation(len(batch))",
        "np.arange(len(batch))",
        _PPO,
    ),
    Mutation(
        "the short last minibatch is dropped",
        "learner/ppo.py",
        "for start in range(0, len(batch), self.config.minibatch_size):",
        "for start in range(0, len(batch) - self.config.minibatch_size + 1, self.config.minibatch_size):",
        _PPO,
    ),
    Mutation(
        "weights decay (AdamW)",
        "learner/ppo.py",
        "self._optimizer = torch.optim.Adam(",
        "self._optimizer = torch.optim.AdamW(",
        _PPO,
    ),
    Mutation("Adam's own eps", "learner/ppo.py", "eps=1e-5,", "eps=1e-8,", _PPO),
    Mutation(
        "no bound on the gradient",
        "learner/ppo.py",
        "nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)",
        "nn.utils.clip_grad_norm_(parameters, 1e9)",
        _PPO,
    ),
    Mutation(
        "the learning rate is never annealed",
        "learner/ppo.py",
        "factor = left if self.config.anneal_lr else 1.0",
        "factor = 1.0",
        _PPO,
    ),
    Mutation(
        "the clip range is never annealed",
        "learner/ppo.py",
        "(left if self.config.anneal_clip_range else 1.0)",
        "1.0",
        _PPO,
    ),
    Mutation(
        "statistics of observations change before the update",
        "learner/ppo.py",
        "        metrics = self.optimize(self.prepare(rollout), rng, progress)\n        self.policy.observe(rollout.obs)\n",
        "        self.policy.observe(rollout.obs)\n        metrics = self.optimize(self.prepare(rollout), rng, progress)\n",
        (*_PPO, "test_normalize.py"),
    ),
    Mutation(
        "the surrogate takes the larger of the two",
        "learner/losses.py",
        "return -torch.min(ratio",
        "return -torch.max(ratio",
        ("test_losses.py",),
    ),
    Mutation(
        "value clipping takes the smaller loss",
        "learner/losses.py",
        "loss = torch.max(loss,",
        "loss = torch.min(loss,",
        ("test_losses.py",),
    ),
    Mutation(
        "approx_kl with the wrong sign",
        "learner/losses.py",
        "(torch.expm1(log_ratio) - log_ratio)",
        "(torch.expm1(-log_ratio) - log_ratio)",
        ("test_losses.py",),
    ),
    Mutation(
        "a single advantage is normalised",
        "learner/losses.py",
        "if len(advantages) < 2:",
        "if len(advantages) < 1:",
        ("test_losses.py",),
    ),
    Mutation(
        "the lambda chain runs across ends",
        "learner/returns.py",
        "np.where(np.asarray(ends, np.bool_), 0.0, gamma * gae_lambda)",
        "np.where(np.asarray(ends, np.bool_), gamma * gae_lambda, gamma * gae_lambda)",
        ("test_returns.py",),
    ),
    Mutation(
        "the value of the next state is not discounted",
        "learner/returns.py",
        "+ gamma * next_values -",
        "+ next_values -",
        ("test_returns.py",),
    ),
    Mutation(
        "the policy head starts with gain 1",
        "learner/policy.py",
        "self.head.num_outputs], 0.01, generator",
        "self.head.num_outputs], 1.0, generator",
        ("test_policy.py", "test_networks.py"),
    ),
    Mutation(
        "env actions leave their bounds",
        "learner/heads.py",
        "return np.clip(squashed.astype(self._space.dtype), self._space.low, self._space.high)",
        "return squashed.astype(self._space.dtype)",
        _HEADS,
    ),
    Mutation(
        "tanh saturates: log(1 - tanh^2) taken literally",
        "learner/heads.py",
        "return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))",
        "return torch.log(1.0 - torch.tanh(u) ** 2)",
        _HEADS,
    ),
    Mutation(
        "action masks are ignored",
        "learner/policy.py",
        "return outputs if self._mask is None else mask_outputs(outputs, self._mask(inputs))",
        "return outputs",
        ("test_policy.py",),
    ),
    Mutation(
        "one-hot without the space's start",
        "learner/encoders.py",
        "functional.one_hot(choices[:, column] - start, size)",
        "functional.one_hot(choices[:, column], size)",
        ("test_encoders.py",),
    ),
    Mutation(
        "bytes of images are not scaled",
        "learner/encoders.py",
        "self.cnn(self._to_channels(inputs).float() / self._scale)",
        "self.cnn(self._to_channels(inputs).float())",
        ("test_encoders.py",),
    ),
    Mutation(
        "running moments forget the shift of the mean",
        "learner/normalize.py",
        " + delta.square() * (old * seen / total)",
        "",
        ("test_normalize.py",),
    ),
    Mutation(
        "observations are not clipped",
        "learner/normalize.py",
        ".clamp(-self.clip, self.clip).float()",
        ".float()",
        ("test_normalize.py",),
    ),
    Mutation(
        "discounted returns go on into the next episode",
        "learner/normalize.py",
        "values[env] = 0.0 if over else value",
        "values[env] = value",
        ("test_normalize.py",),
    ),
    Mutation(
        "rewards lose their mean",
        "learner/normalize.py",
        "np.clip(np.asarray(rewards, np.float64) / std,",
        "np.clip((np.asarray(rewards, np.float64) - float(self.mean)) / std,",
        ("test_normalize.py",),
    ),
    Mutation(
        "RND: the target learns, too",
        "learner/rnd.py",
        ".requires_grad_(False)",
        ".requires_grad_(True)",
        ("test_rnd.py",),
    ),
    Mutation(
        "RND: rewards are not normalised",
        "learner/rnd.py",
        "        return self.scale(rewards)\n",
        "        return rewards\n",
        ("test_rnd.py",),
    ),
    Mutation(
        "RND: the filter runs over envs instead of time",
        "learner/rnd.py",
        "self.update(rewards, env_ids, np.zeros(len(rewards), np.bool_))",
        "self.update(rewards, np.zeros(len(rewards), np.int64), np.zeros(len(rewards), np.bool_))",
        ("test_rnd.py",),
    ),
    Mutation(
        "RND: the intrinsic stream ends with the episode",
        "learner/rnd.py",
        "        last = rollout.last_of_env\n",
        "        last = rollout.ends\n",
        ("test_rnd.py",),
    ),
    Mutation(
        "RND: sees the state instead of the next one",
        "learner/rnd.py",
        "return self._rows[self._following[rows]]",
        "return self._rows[rows]",
        ("test_rnd.py",),
    ),
    Mutation(
        "steps are stored under another env",
        "learner/store.py",
        'self._columns["env_id"][rows] = env_ids',
        'self._columns["env_id"][rows] = env_ids[::-1]',
        ("test_store.py",),
    ),
    Mutation(
        "a cut episode counts as over",
        "learner/store.py",
        'self._columns["cut"][rows] = closed & ~ended',
        'self._columns["cut"][rows] = False',
        ("test_store.py", "test_rounds.py"),
    ),
    Mutation(
        "noise of whoever plays, not of the env",
        "prl/collect.py",
        "noise[np.searchsorted(group.env_ids, env_ids)]",
        "noise[: len(env_ids)]",
        ("test_trainer.py", "test_rounds.py"),
    ),
    Mutation(
        "all envs play the same episodes",
        "prl/rounds.py",
        "episode_seed(self.seed, env, int(self.started[env]))",
        "episode_seed(self.seed, 0, int(self.started[env]))",
        ("test_rounds.py", "test_trainer.py"),
    ),
    Mutation(
        "after an end the policy acts on the final observation",
        "prl/rounds.py",
        "obs = batch.obs if batch.next_obs is None else batch.next_obs",
        "obs = batch.obs",
        ("test_rounds.py",),
    ),
    Mutation(
        "the first observation of the next episode hides the final one",
        "workers/protocol.py",
        "next_obs = obs.copy()",
        "next_obs = obs",
        ("test_pool_contract.py",),
    ),
    Mutation(
        "terminated and truncated are exchanged",
        "workers/protocol.py",
        "_IS_TERMINATED = np.array([False, True, False, True])",
        "_IS_TERMINATED = np.array([False, False, True, True])",
        ("test_pool_contract.py",),
    ),
    Mutation(
        "leaves of a Dict are read one byte off",
        "learner/spaces.py",
        "rows[:, self.offset : self.offset + self.nbytes]",
        "rows[:, max(0, self.offset - 1) : max(0, self.offset - 1) + self.nbytes]",
        ("test_spaces.py",),
    ),
    Mutation(
        "learn() silently does nothing",
        "prl/quickstart.py",
        "metrics = self.learner.optimize(self._batch(_concatenated(self.memory)), self._shuffle_rng)",
        "metrics = dict[str, float]()",
        ("test_quickstart.py",),
    ),
    Mutation(
        "the custom loop keeps the rows of finished envs",
        "prl/utils.py",
        "rows: Array = states[~gone]",
        "rows: Array = states[: (~gone).sum()]",
        ("test_quickstart.py",),
    ),
    Mutation(
        "evaluation draws its actions",
        "prl/evaluate.py",
        "self._rngs = None if deterministic else",
        "self._rngs = None if not deterministic else",
        ("test_evaluate.py",),
    ),
)
