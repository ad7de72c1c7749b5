"""Mistakes in who plays, with which weights, and what comes back."""

from __future__ import annotations

from mutation import Mutation

_PLAYERS = "prl/test_players.py"
_LAGGING = "prl/test_lagging.py"
_GUESTS = "workers/test_guest.py"
_CORES = "workers/test_cores.py"

PLAYERS = (
    Mutation(
        "workers play the episodes of env 0 of their group",
        "prl/training/group_round.py",
        "int(task.env_ids[row])",
        "int(row)",
        ("prl/test_rounds.py",),
    ),
    Mutation(
        "groups share their noise",
        "prl/training/rounds.py",
        "noise=(*noise, group)",
        "noise=(*noise, 0)",
        ("prl/test_rounds.py",),
    ),
    Mutation(
        "returns of running episodes are lost between rounds",
        "prl/training/group_round.py",
        "returns[is_first] += task.returns",
        "returns[is_first] += 0.0 * task.returns",
        ("prl/test_rounds.py",),
    ),
    Mutation(
        "a group goes on from the observations of before",
        "prl/training/group_round.py",
        "            self._obs = obs\n",
        "            pass\n",
        ("prl/test_rounds.py",),
    ),
    Mutation(
        "weights of the other slot",
        "prl/training/player_guest.py",
        "self._policies[asked.slot]",
        "self._policies[1 - asked.slot]",
        (f"{_PLAYERS}::test_workers_play_what_the_learner_would_play",),
    ),
    Mutation(
        "all versions of the weights lie in one slot",
        "prl/training/worker_players.py",
        "slot, weights = open_task.version % SLOTS, None",
        "slot, weights = 0, None",
        (f"{_PLAYERS}::test_two_versions_of_the_weights_are_played_at_the_same_time",),
    ),
    Mutation(
        "weights that came over a pipe stay for ever",
        "prl/training/worker_players.py",
        "state.knows[slot] != open_task.version",
        "not state.knows[slot]",
        (f"{_PLAYERS}::test_workers_play_what_the_learner_would_play",),
    ),
    Mutation(
        "envs that have finished stay in the active mask",
        "prl/training/worker_players.py",
        "                self.active.leave(env_ids, ago)\n",
        "",
        (f"{_PLAYERS}::test_envs_leave_the_mask_with_their_episode_shortest_first",),
    ),
    Mutation(
        "in rounds of fixed steps an env leaves with its episode",
        "prl/training/player_guest.py",
        "nobody_listens if goes_on_after_episodes(asked.task) else news",
        "news",
        (f"{_PLAYERS}::test_in_rounds_of_fixed_steps_all_stay_to_the_end",),
    ),
    Mutation(
        "statistics of observations stay as they were at the first look",
        "learner/actor.py",
        "return [*statistics, *parameters_of(policy.actor), *policy.head.parameters()]",
        "return [*(s.clone() for s in statistics), *parameters_of(policy.actor), *policy.head.parameters()]",
        ("learner/test_numpy_policy.py",),
    ),
    Mutation(
        "leaves share the statistics of the first",
        "learner/inputs.py",
        "own, remaining = remaining[: inputs.num_statistics], remaining[inputs.num_statistics :]",
        "own = remaining[: inputs.num_statistics]",
        ("learner/test_inputs.py",),
    ),
    Mutation(
        "NumPy's one-hot without the space's start",
        "learner/inputs.py",
        "np.cumsum([0, *self.sizes[:-1]]) - np.array(self.start, np.int64)",
        "np.cumsum([0, *self.sizes[:-1]])",
        ("learner/test_inputs.py",),
    ),
    Mutation(
        "NumPy acts although the encoder has a hook",
        "learner/actor.py",
        "module._forward_hooks or module._forward_pre_hooks for module in policy.encoder.modules()",
        "False for module in policy.encoder.modules()",
        ("learner/test_inputs.py",),
    ),
    Mutation(
        "a rollout of any group will do",
        "prl/training/worker_players.py",
        "if part.group != task.group:",
        "if part.group < 0:",
        (f"{_PLAYERS}::test_a_rollout_of_another_group_is_refused",),
    ),
    Mutation(
        "pieces of an answer are thrown away",
        "workers/worker_handle.py",
        "self._pieces.append(frame.payload)",
        "pass",
        (f"{_GUESTS}::test_an_answer_in_pieces_is_put_together",),
    ),
    Mutation(
        "a worker that makes steps shows no sign of life",
        "workers/child.py",
        '        self._send(Kind.NEWS, b"")\n',
        "",
        (f"{_GUESTS}::test_a_worker_that_makes_steps_is_alive_however_long_its_call_takes",),
    ),
    Mutation(
        "a lag of none",
        "prl/training/trainer.py",
        "acting = lagging.acting(self._players)\n        following = lagging.follow(self._players)",
        "following = lagging.follow(self._players)\n        acting = following",
        (f"{_LAGGING}::test_the_lag_is_one_update_whoever_plays",),
    ),
    Mutation(
        "a lag of two",
        "prl/training/lagging.py",
        "        self._acting, self._spare = self._spare, self._acting\n"
        "        self._acting.load_state_dict(self._policy.state_dict())\n",
        "        self._acting, self._spare = self._spare, self._acting\n"
        "        self._spare.load_state_dict(self._policy.state_dict())\n",
        (f"{_LAGGING}::test_the_lag_is_one_update_whoever_plays",),
    ),
    Mutation(
        "a state forgets the weights that act",
        "prl/training/lagging.py",
        "self._acting.load_state_dict(state)\n",
        "pass\n",
        (f"{_LAGGING}::test_a_run_continued_from_its_state_gives_the_same_bits",),
    ),
    Mutation(
        "statistics of observations do not go to workers",
        "prl/training/worker_players.py",
        "view[...] = array",
        "view[...] = array if array.itemsize == 4 else view",
        (f"{_PLAYERS}::test_statistics_of_observations_go_out_with_the_weights",),
    ),
    Mutation(
        "the learner acts with as many threads as NumPy likes",
        "prl/training/players.py",
        "with blas_threads(1):",
        "with blas_threads(2):",
        (f"{_PLAYERS}::test_the_learner_acts_with_one_thread_as_workers_do",),
    ),
    Mutation(
        "the following batch begins before this one is full",
        "prl/training/collector.py",
        "following is not None and certain >= self.batch_size",
        "following is not None",
        ("prl/test_collector.py",),
    ),
    Mutation(
        "steps that are certain before they are played are counted twice",
        "prl/training/collector.py",
        "certain += len(part.rollout) - least[part.group]",
        "certain += len(part.rollout)",
        ("prl/test_collector.py",),
    ),
    Mutation(
        "no step is certain before it is played",
        "prl/training/collector.py",
        "certain = steps + sum(least)",
        "certain = steps",
        ("prl/test_collector.py",),
    ),
    Mutation(
        "a round of fixed steps is certain to have more of them",
        "prl/training/rounds.py",
        "return self.num_steps * len(env_ids)",
        "return self.num_steps * len(env_ids) + 1",
        ("prl/test_rounds.py::test_steps_that_are_certain_before_they_are_played",),
    ),
    Mutation(
        "news of ended episodes wait for the end of the round",
        "prl/training/player_guest.py",
        "if now - self._told >= self._every:",
        "if now < self._told:",
        (f"{_PLAYERS}::test_envs_leave_the_mask_with_their_episode_shortest_first",),
    ),
    Mutation(
        "each ended episode wakes the learner",
        "prl/training/player_guest.py",
        "if now - self._told >= self._every:",
        "if now >= self._told:",
        (f"{_PLAYERS}::test_news_are_told_together_and_say_how_old_they_are",),
    ),
    Mutation(
        "news that have waited are told as new",
        "prl/training/player_guest.py",
        "np.full(len(env_ids), now - at)",
        "np.full(len(env_ids), 0.0 * at)",
        (f"{_PLAYERS}::test_news_are_told_together_and_say_how_old_they_are",),
    ),
    Mutation(
        "all workers leave their cores for the learner's update",
        "workers/cores.py",
        "if pid and own == core]",
        "if pid]",
        (_CORES,),
    ),
    Mutation(
        "workers that made room for the learner do not go back",
        "workers/cores.py",
        "_bind(pid, {core})",
        "_bind(pid, set(cores))",
        (_CORES,),
    ),
    Mutation(
        "workers that make room may stay on the learner's core",
        "workers/cores.py",
        "_bind(pid, set(cores) - {core})",
        "_bind(pid, set(cores))",
        (_CORES,),
    ),
    Mutation(
        "who has begun the next round begins it again",
        "prl/training/collector.py",
        "if group not in self.begun]\n        open_parts",
        "]\n        open_parts",
        ("prl/test_collector.py",),
    ),
)
