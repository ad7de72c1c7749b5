"""Mistakes in bringing back what a dead worker takes with it, and in what a run goes on from."""

from __future__ import annotations

from mutation import Mutation

_POOL = "workers/recovering_pool.py"
_RECOVERING = "workers/test_recovering_pool.py"
_RECORD = "workers/test_episode_record.py"
_PLAYERS = "prl/test_players_recover.py"
_CHECKPOINTS = "prl/test_checkpoints.py"
_ONCE = f"{_RECOVERING}::test_what_breaks_once_changes_nothing"
_KILLS = f"{_RECOVERING}::test_kills_between_steps_change_nothing"

RECOVERY = (
    Mutation(
        "an episode is not repeated in a new process",
        _POOL,
        "            self._repeat(env)\n        elif",
        "            pass\n        elif",
        (_KILLS,),
    ),
    Mutation(
        "the open command is forgotten with the worker",
        _POOL,
        "        if sent is not None:\n            self._carry_out(env, sent)",
        "        if sent is not None and sent.actions is None:\n            self._carry_out(env, sent)",
        (_ONCE,),
    ),
    Mutation(
        "what a repeated episode shows is not compared",
        _POOL,
        "or alone.obs.tobytes() != episode.obs.tobytes()",
        "or len(alone.obs) != len(episode.obs)",
        (f"{_RECOVERING}::test_an_env_that_is_no_function_of_its_seed_loses_its_episode",),
    ),
    Mutation(
        "the action that fails is no part of a lost episode",
        _POOL,
        "            actions = np.concatenate([actions, sent.actions[np.searchsorted(sent.env_ids, env)][None]])",
        "            pass",
        (f"{_RECOVERING}::test_a_step_that_fails_whenever_it_is_taken",),
    ),
    Mutation(
        "a lost episode is told of twice",
        _POOL,
        "        self._doomed[batch.env_ids[batch.lost]] = False\n",
        "",
        (f"{_RECOVERING}::test_a_lost_episode_is_followed_by_the_next_one",),
    ),
    Mutation(
        "an env may fail in every episode",
        _POOL,
        "if self._failed_in_a_row[env] > _FAILED_IN_A_ROW or self._failed_since_an_end > _FAILED_TOGETHER:",
        "if self._failed_in_a_row[env] < 0:",
        (f"{_RECOVERING}::test_an_env_that_fails_in_every_episode_ends_the_run",),
    ),
    Mutation(
        "processes that are killed while they start are given up soon",
        _POOL,
        "return STARTS if env < 0 else _STRIKES",
        "return _STRIKES",
        (f"{_RECOVERING}::test_processes_that_are_killed_while_they_start",),
    ),
    Mutation(
        "a first hang is the end of an episode",
        _POOL,
        "return 1 if type(error) is type(first) else 2",
        "return 1",
        (f"{_RECOVERING}::test_a_worker_that_is_killed_and_then_stopped_changes_nothing",),
    ),
    Mutation(
        "restarts have no limit",
        "workers/restarts.py",
        "if len(self._recent) >= self._limit:",
        "if len(self._recent) > self._limit + 99:",
        (f"{_RECOVERING}::test_the_budget",),
    ),
    Mutation(
        "the record never forgets",
        "workers/episode_record.py",
        "        while self._steps and self._dropped < needed:\n",
        "        while False:\n",
        ("faults/test_pools.py::test_the_record_of_steps_is_as_long_as_episodes_are",),
    ),
    Mutation(
        "a step of others is a step of an env",
        "workers/episode_record.py",
        "if row < len(step.env_ids) and step.env_ids[row] == env:",
        "if row < len(step.env_ids):",
        (f"{_RECOVERING}::test_two_open_commands_of_one_worker_are_answered_in_their_order",),
    ),
    Mutation(
        "of several ends that are worked out together the first one counts",
        "workers/episode_record.py",
        "last_end[env_ids[ended]] = np.flatnonzero(ended)",
        "last_end[env_ids[ended][::-1]] = np.flatnonzero(ended)[::-1]",
        (_RECORD,),
    ),
    Mutation(
        "the step that ends an episode is one of the next episode, too",
        "workers/episode_record.py",
        "numbers[rows[begun]] + 1",
        "numbers[rows[begun]]",
        (_RECORD,),
    ),
    Mutation(
        "steps before an end count for the episode after it",
        "workers/episode_record.py",
        "later = np.arange(len(env_ids)) > last_end[env_ids]",
        "later = np.ones(len(env_ids), np.bool_)",
        (_RECORD,),
    ),
    Mutation(
        "calls between steps stay when their episode is over",
        "workers/episode_record.py",
        "for by_env in (self._earlier, self._calls):",
        "for by_env in (self._earlier,):",
        (_RECORD,),
    ),
    Mutation(
        "actions from before the record are left out",
        "workers/episode_record.py",
        "        self._earlier[env] = actions\n",
        "        self._earlier[env] = actions[:0]\n",
        (f"{_RECOVERING}::test_envs_are_brought_into_the_middle_of_episodes",),
    ),
    Mutation(
        "envs of a new process count as being where they were",
        "prl/training/worker_players.py",
        "            self._away.leave(self._pool.envs_of(worker))\n",
        "",
        (f"{_PLAYERS}::test_envs_of_workers_that_die_between_rounds_go_on_where_they_were",),
    ),
    Mutation(
        "a new process is not called for the old one's tasks",
        "prl/training/worker_players.py",
        "state.tasks = [open_task._replace(called=False) for open_task in state.tasks]",
        "state.tasks = [open_task for open_task in state.tasks]",
        (f"{_PLAYERS}::test_what_breaks_once_changes_nothing",),
    ),
    Mutation(
        "a new process is thought to know the weights",
        "prl/training/worker_players.py",
        "state.incarnation, state.knows = incarnation, [0] * SLOTS",
        "state.incarnation = incarnation",
        (f"{_PLAYERS}::test_what_breaks_once_changes_nothing",),
    ),
    Mutation(
        "deaths of idle workers count as failures",
        "prl/training/worker_players.py",
        "if state.tasks:  # else it was idle, and has failed at nothing",
        "if state:",
        (f"{_PLAYERS}::test_a_worker_that_dies_twice_while_it_is_idle_is_not_played_for_while_it_plays",),
    ),
    Mutation(
        "a worker is called for what the learner plays",
        "prl/training/worker_players.py",
        "        if self._workers[worker].failures >= _MAX_FAILURES:\n            return None",
        "        if self._workers[worker].failures < 0:\n            return None",
        (f"{_PLAYERS}::test_a_worker_that_has_failed_too_often_is_not_called",),
    ),
    Mutation(
        "what the pool gives up is tried once more",
        "prl/training/worker_players.py",
        "                self._play_here(worker)\n                return\n",
        "                with self._recovery():\n                    self._play_here(worker)\n                return\n",
        (f"{_PLAYERS}::test_what_the_pool_gives_up_while_the_learner_plays_ends_the_run",),
    ),
    Mutation(
        "episodes that others have begun in place of lost ones begin where those were",
        "prl/training/away.py",
        "        started[rows] += 1\n",
        "",
        (f"{_PLAYERS}::test_an_env_that_is_no_function_of_its_seed_begins_another_episode",),
    ),
    Mutation(
        "files of a checkpoint may still be on their way to the disk",
        "prl/run/files.py",
        "            _write_synced(temporary / name, content)\n",
        "            (temporary / name).write_bytes(content)\n",
        (f"{_CHECKPOINTS}::test_after_a_crash_at_any_operation_the_old_or_the_new_checkpoint_loads",),
    ),
    Mutation(
        "hashes of a checkpoint are not looked at",
        "prl/run/checkpoint_files.py",
        'if hashlib.sha256(content).hexdigest() != expected["sha256"]:',
        'if not expected["sha256"]:',
        ("prl/test_damaged_checkpoints.py::test_no_flipped_bit_goes_unnoticed",),
    ),
)
