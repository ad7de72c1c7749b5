"""Mistakes in `prl/` and `workers/`."""

from __future__ import annotations

from mutation import Mutation

_PPO = ("learner/test_ppo.py",)
_HEADS = ("learner/test_heads.py", "learner/test_leaf_heads.py")

RUNS = (
    Mutation(
        "noise of whoever plays, not of the env",
        "prl/training/collect.py",
        "noise[np.searchsorted(group.env_ids, env_ids)]",
        "noise[: len(env_ids)]",
        ("prl/test_trainer.py", "prl/test_rounds.py"),
    ),
    Mutation(
        "all envs play the same episodes",
        "prl/training/rounds.py",
        "episode_seed(self.seed, env, int(self.started[env]))",
        "episode_seed(self.seed, 0, int(self.started[env]))",
        ("prl/test_rounds.py", "prl/test_trainer.py"),
    ),
    Mutation(
        "after an end the policy acts on the final observation",
        "prl/training/rounds.py",
        "obs = batch.obs if batch.next_obs is None else batch.next_obs",
        "obs = batch.obs",
        ("prl/test_rounds.py",),
    ),
    Mutation(
        "the first observation of the next episode hides the final one",
        "workers/pool.py",
        "next_obs = obs.copy()",
        "next_obs = obs",
        ("workers/test_pool_contract.py",),
    ),
    Mutation(
        "terminated and truncated are exchanged",
        "workers/pool.py",
        "_IS_TERMINATED = np.array([False, True, False, True])",
        "_IS_TERMINATED = np.array([False, False, True, True])",
        ("workers/test_pool_contract.py",),
    ),
    Mutation(
        "learn() silently does nothing",
        "prl/quickstart.py",
        "metrics = self.learner.optimize(self._batch(concatenate(self.memory)), self._shuffle_rng)",
        "metrics = dict[str, float]()",
        ("prl/test_quickstart.py",),
    ),
    Mutation(
        "the custom loop keeps the rows of finished envs",
        "prl/utils.py",
        "rows: Array = states[~gone]",
        "rows: Array = states[: (~gone).sum()]",
        ("prl/test_quickstart.py",),
    ),
    Mutation(
        "evaluation draws its actions",
        "prl/training/evaluate.py",
        "self._rngs = None if deterministic else",
        "self._rngs = None if not deterministic else",
        ("prl/test_evaluate.py",),
    ),
    Mutation(
        "the bonus has its default step size",
        "prl/run/build.py",
        "        lr=config.rnd_lr,\n",
        "",
        ("learner/test_rnd.py",),
    ),
    Mutation(
        "the bonus has its default discount",
        "prl/run/build.py",
        "        gamma=config.rnd_gamma,\n",
        "",
        ("learner/test_rnd.py",),
    ),
    Mutation(
        "the bonus has its default lambda",
        "prl/run/build.py",
        "        gae_lambda=config.gae_lambda,\n",
        "",
        ("learner/test_rnd.py",),
    ),
    Mutation(
        "the quick start's weight of the bonus is bounded",
        "prl/quickstart.py",
        "coef=beta,",
        "coef=min(beta, 0.3),",
        ("learner/test_rnd.py",),
    ),
    Mutation(
        "a policy is played as it trains",
        "prl/training/evaluate.py",
        "policy.eval()",
        "policy.train()",
        ("prl/test_play.py",),
    ),
    Mutation(
        "a signal interrupts what is being written",
        "prl/run/sinks.py",
        "            with self._hold():\n                self._sink.write(timesteps, metrics)",
        "            self._sink.write(timesteps, metrics)",
        ("prl/test_signals.py",),
    ),
    Mutation(
        "only errors of the operating system are a sink's own",
        "prl/run/sinks.py",
        "except Exception as error:  # a sink can be the user's code",
        "except OSError as error:",
        ("prl/test_sinks.py",),
    ),
    Mutation(
        "an env's default dtype stays",
        "prl/run/torch_state.py",
        "        torch.set_default_dtype(dtype)\n",
        "        pass\n",
        ("prl/test_torch_state.py",),
    ),
    Mutation(
        "of equal evaluations the last is the best",
        "prl/run/periodic_evaluation.py",
        "evaluation.mean_return > self.best.mean_return",
        "evaluation.mean_return >= self.best.mean_return",
        ("prl/test_evaluate.py",),
    ),
    Mutation(
        "runs that start at once share a folder",
        "prl/run/run_folder.py",
        "                path.mkdir()\n",
        "                path.mkdir(exist_ok=True)\n",
        ("prl/test_run_folder.py",),
    ),
    Mutation(
        "text that looks like a number is written without quotes",
        "prl/config/yaml_format.py",
        "for _class in (_Loader, _Dumper):",
        "for _class in (_Loader,):",
        ("prl/test_train_config.py",),
    ),
)
