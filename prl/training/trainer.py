"""The training loop as a generator: stopping, logging and saving are up to its user."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.settings import require_counts
from learner.store import Rollout, concatenate
from prl.training.arguments import check_rounds, check_spaces, require_from_0
from prl.training.collector import Collector
from prl.training.env_calls import RunCalls, attribute_call, method_call
from prl.training.episode_infos import EpisodeInfos
from prl.training.group_round import PlayingTime
from prl.training.lagging import LaggingPolicy
from prl.training.phases import phase_shares
from prl.training.players import LearnerPlayers, Players, Weights
from prl.training.progress import Progress, Stopwatch
from prl.training.rounds import (
    REPLAY_LIMIT,
    EpisodeTracker,
    FixedSteps,
    Round,
    RoundKind,
    WholeEpisodes,
    split_groups,
)
from workers.cores import own_core
from workers.env_call import EnvCall
from workers.pool import ChangeablePool
from workers.seeding import Stream, generator

_WARM_UP_STEPS = 2048
_WARM_UP_EPISODE = 1 << 31  # beyond all episodes of the run itself


@dataclass(frozen=True)
class Report:
    """The outcome of one iteration: rounds, then an update.

    Attributes:
        iteration: counts from 1.
        timesteps: env steps since the run began.
        episodes: finished since the run began.
        returns: f64[episodes of this iteration], undiscounted, round after round in env order; there may be
            none in rounds of a fixed number of steps.
        lengths: i64[episodes of this iteration].
        mean_return: over the last 100 episodes; NaN before the first has ended.
        lost_episodes: since the run began.
        metrics: by name, e.g. "rollout/ep_rew_mean" (the names of Stable-Baselines3). What infos say is in it
            as soon as an episode has said it.
    """

    iteration: int
    timesteps: int
    episodes: int
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    mean_return: float
    lost_episodes: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Collected:
    """What an update learns from.

    Attributes:
        rollout: S steps.
        acting_policy: has played them.
        rounds: in which they were played.
        timesteps_before: env steps of the run before the first of them.
        seconds: that the learner has given to collecting them.
        playing: what the players have spent meanwhile, all together.
    """

    rollout: Rollout
    acting_policy: ActorCritic
    rounds: list[Round]
    timesteps_before: int
    seconds: float
    playing: PlayingTime


class Trainer:
    """Rounds and updates without end; the caller decides when to stop.

    Args:
        pool: N envs.
        learner: its policy plays, and is improved in place.
        batch_size: steps that an update waits for, at least.
        total_timesteps: length of the run, for annealing.
        seed: of everything that is drawn during the run.
        num_groups: in which envs are stepped; the policy acts for one while the others step. Part of what a
            seed means: another number gives other weights.
        num_steps: of every env in a round; None makes a round one whole episode of every env.
        overlap: play each batch with the weights before the last update, while that update runs.
        players: play in the pool; None lets the learner act.
        replay_limit: steps after which a running episode cannot be repeated any more, neither after the death
            of its worker nor from a state of this trainer; bounds memory.

    Raises:
        ConfigError: a setting is out of range, or the policy was made for other spaces than the envs'.
        ValueError: the players have another pool.
    """

    def __init__(
        self,
        pool: ChangeablePool,
        learner: PPOLearner,
        *,
        batch_size: int,
        total_timesteps: int,
        seed: int,
        num_groups: int = 1,
        num_steps: int | None = None,
        overlap: bool = False,
        players: Players | None = None,
        replay_limit: int = REPLAY_LIMIT,
    ) -> None:
        require_counts(batch_size=batch_size, total_timesteps=total_timesteps)
        require_from_0(seed=seed, replay_limit=replay_limit)
        check_rounds(pool.num_envs, num_groups, num_steps)
        check_spaces(learner.policy, pool.factory)
        self.pool = pool
        self.learner = learner
        self.total_timesteps = total_timesteps
        self.seed = seed
        self.overlap = overlap
        self._players = LearnerPlayers(pool) if players is None else players
        if self._players.pool is not pool:
            raise ValueError("the players must play in the trainer's own pool")
        self._num_steps = num_steps
        self._replay_limit = replay_limit
        groups = split_groups(pool.num_envs, num_groups)
        rounds = self._rounds_of(EpisodeTracker(pool.num_envs, seed), num_steps)
        self._collector = Collector(self._players, rounds, groups, batch_size)
        self._calls = RunCalls()
        self._players.remember(rounds.running_actions, rounds.running_calls, self._calls.first)
        self._progress = Progress(infos=EpisodeInfos(pool.info_columns))
        self._stopwatch = Stopwatch(0)
        self._lagging = LaggingPolicy(learner.policy) if overlap else None
        self._core = contextlib.ExitStack()  # has the learner's own core, while it computes beside players

    def _rounds_of(self, tracker: EpisodeTracker, num_steps: int | None) -> RoundKind:
        if num_steps is None:
            return WholeEpisodes(tracker)
        return FixedSteps(tracker, num_steps, self.learner.policy.head.to_env, self._replay_limit)

    def call_envs(self, name: str, *args: Any, evaluation: bool = False, **kwargs: Any) -> None:
        """Call a method of every env, or of one of its wrappers, between two batches.

        Between two reports nothing plays without overlap: the envs are called at once, before the next batch.
        With overlap the next batch is being played already: the envs are called before the one after it. In
        the middle of an episode the call comes between two steps.

        The call is part of the run. An env that has to be brought back, since its worker died or the run goes
        on from a state, gets all calls again, in their order: those before its episode, then those between
        its steps. So what a call does must depend on nothing but its arguments and what calls before it have
        done. An env is reset once before its first call.

        Args:
            name: of the method; what it returns is dropped.
            args, kwargs: plain data, as JSON can hold it.
            evaluation: also call the envs of the run's evaluations, before the next one.

        Raises:
            TypeError, ValueError: an argument is no plain data; nothing was called.
            EnvCallError: an env raised. With overlap, `iterations` raises it. The run cannot go on.
            WorkerError: a worker died or hung.
        """
        self._call(method_call(name, args, kwargs), evaluation)

    def set_env_attr(self, name: str, value: Any, *, evaluation: bool = False) -> None:
        """Set an attribute of every env, where it is: in the env, or in one of its wrappers.

        Args:
            name: of an attribute that is there.
            value: for all envs; a list or tuple has one for each of them.
            evaluation: see `call_envs`; only with one value for all.

        Raises:
            ValueError: also, the list has another length.
            Others: see `call_envs`, which also says when the envs are called.
        """
        call = attribute_call(name, value, self.pool.num_envs)
        if evaluation and call.per_env:
            raise ValueError(f"evaluation takes one value of {name} for all envs, not a list")
        self._call(call, evaluation)

    def _call(self, call: EnvCall, evaluation: bool) -> None:
        batch = self._progress.iteration + (2 if self.overlap and self._progress.iteration else 1)
        self._calls.add(call, batch, evaluation)
        if not self.overlap:  # at once, so that errors come where they belong
            self.pool.env_calls.carry_out(np.arange(self.pool.num_envs), self._calls.first())

    def evaluation_calls(self) -> list[EnvCall]:
        """The calls so far that the envs of evaluations get, too."""
        return self._calls.of_evaluations()

    def iterations(self) -> Iterator[Report]:
        """One report per update, until `total_timesteps` are done: collect a batch, then learn from it.

        At the `yield` the policy is that of the report. Other schedules are other generators over `collect`
        and `learn`.
        """
        self._stopwatch = Stopwatch(self._progress.timesteps)
        self._warm_up()
        with self._core:
            while self._progress.timesteps < self.total_timesteps:
                report = self._iterate() if self._lagging is None else self._iterate_overlapped(self._lagging)
                self._stopwatch.pause()
                yield report
                self._stopwatch.resume()

    def _iterate(self) -> Report:
        """Collect with the present weights, then update them. Nothing is running afterwards."""
        return self.learn(self.collect(self.learner.policy))

    def _iterate_overlapped(self, lagging: LaggingPolicy) -> Report:
        """While an update runs, players in other processes play the next batch with the weights before it.

        The lag is one update by construction, and not a matter of time: batch k is played with the weights
        before update k - 1 (the first two with the initial ones), however long anything takes.
        """
        acting = lagging.acting(self._players)
        following = lagging.follow(self._players)
        goes_on = self._progress.timesteps + self._collector.batch_size < self.total_timesteps
        collected = self._collect(acting, following if goes_on else None)
        if self._progress.timesteps < self.total_timesteps:
            self._collector.begin(following)
        return self.learn(collected)

    def collect(self, policy: ActorCritic) -> Collected:
        """Play as many rounds as a batch needs.

        Args:
            policy: acts; the learner's own, or a copy whose weights may be older.
        """
        return self._collect(self._players.publish(policy), None)

    def _collect(self, weights: Weights, following: Weights | None) -> Collected:
        self._core.close()
        began, playing = time.perf_counter(), copy.copy(self._players.seconds)
        before = self._progress.timesteps
        rounds: list[Round] = []
        batch = self._progress.iteration + 1
        self._collector.calls = self._calls.before(batch), self._calls.before(batch + 1)
        for played in self._collector.collect(weights, following):
            self._progress.count(played)
            rounds.append(played)
        rollout = concatenate([part for played in rounds for part in played.parts])
        return Collected(
            rollout=rollout,
            acting_policy=weights.policy,
            rounds=rounds,
            timesteps_before=before,
            seconds=time.perf_counter() - began,
            playing=self._players.seconds - playing,
        )

    def learn(self, collected: Collected) -> Report:
        """One update, and the report of the iteration that ends with it."""
        began = time.perf_counter()
        share_done = min(1.0, collected.timesteps_before / self.total_timesteps)
        rng = generator(self.seed, Stream.SHUFFLE, self._progress.iteration)
        if self.overlap:  # until it waits for players again
            self._core.enter_context(own_core(*self._players.bound))
        losses = self.learner.update(collected.rollout, rng, share_done, collected.acting_policy)
        self._progress.iteration += 1
        update_seconds = time.perf_counter() - began
        seconds = max(self._stopwatch.lap(), collected.seconds + update_seconds)
        times = {
            "time/fps": self._stopwatch.steps_per_second(self._progress.timesteps),
            "time/iteration_fps": len(collected.rollout) / seconds,
            "time/straggler_share": sum(played.idle_seconds for played in collected.rounds) / seconds,
            **phase_shares(collected, update_seconds, seconds, self._players),
        }
        return self._report(collected.rounds, times, losses)

    def _warm_up(self) -> None:
        """First statistics of observations, from steps of the untrained policy that are not learnt from."""
        policy = self.learner.policy
        if self._progress.iteration > 0 or not policy.normalizes:
            return
        num_envs = self.pool.num_envs
        wanted = min(_WARM_UP_STEPS, self.total_timesteps // 10)
        per_env = max(1, -(-wanted // num_envs))
        steps = self._rounds_of(EpisodeTracker(num_envs, self.seed, _WARM_UP_EPISODE), per_env)
        weights = self._players.publish(policy)
        tasks = [
            steps.task(group, ids, (Stream.WARM_UP,), self._calls.before(1))
            for group, ids in enumerate(self._collector.groups)
        ]
        played = Round.of(sorted(self._players.play(weights, tasks), key=lambda part: part.group))
        policy.update_statistics(concatenate(played.parts).obs)
        if self._lagging is not None:
            self._lagging.catch_up()
        self._progress.timesteps += played.steps

    def _report(self, rounds: list[Round], times: dict[str, float], losses: dict[str, float]) -> Report:
        progress = self._progress
        mean_return = _mean(progress.recent_returns)
        steps = sum(r.steps for r in rounds)
        capacity = sum(r.longest for r in rounds) * self.pool.num_envs
        metrics = {
            "rollout/ep_rew_mean": mean_return,
            "rollout/ep_len_mean": _mean(progress.recent_lengths),
            "rollout/iteration_rew_mean": _mean(np.concatenate([r.returns for r in rounds])),
            "rollout/occupancy": steps / capacity,
            **{f"rollout/{name}": mean for name, mean in progress.infos.means().items()},
            "faults/lost_episodes": float(progress.lost_episodes),
            "faults/worker_restarts": float(self.pool.restarts),
            "time/iterations": float(progress.iteration),
            "time/total_timesteps": float(progress.timesteps),
            **times,
            **{f"train/{name}": value for name, value in losses.items()},
        }
        return Report(
            iteration=progress.iteration,
            timesteps=progress.timesteps,
            episodes=progress.episodes,
            returns=np.concatenate([r.returns for r in rounds]),
            lengths=np.concatenate([r.lengths for r in rounds]),
            mean_return=mean_return,
            lost_episodes=progress.lost_episodes,
            metrics=metrics,
        )

    def unsaid_infos(self) -> list[str]:
        """Keys of infos that the pool was asked for, and that no episode so far has had in its last info."""
        return self._progress.infos.unsaid() if self._progress.episodes else []

    def _signature(self) -> dict[str, Any]:
        """What has to be equal in a trainer that continues from a state of this one."""
        return {
            "num_envs": self.pool.num_envs,
            "num_groups": len(self._collector.groups),
            "num_steps": self._num_steps,
            "overlap": self.overlap,
            "seed": self.seed,
            "exploration": type(self.learner.exploration).__name__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, the state of envs included.

        Further training does not change it.
        """
        return {
            "signature": self._signature(),
            "learner": self.learner.state_dict(),
            "progress": self._progress.state_dict(),
            "rounds": self._collector.rounds.state_dict(),
            "env_calls": self._calls.state_dict(),
            "acting": None if self._lagging is None else self._lagging.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """The inverse of `state_dict`, which it leaves as it is.

        Returns:
            Episodes that are lost: their envs were in mid-episode, and cannot be brought back (see
            `RoundKind.load_state_dict`).

        Raises:
            ValueError: the state is that of another kind of trainer, or the envs of the pool have had calls
                that it does not know; nothing has changed.
        """
        other, own = state["signature"], self._signature()
        differences = [f"{name} {other[name]}, not {own[name]}" for name in own if other[name] != own[name]]
        if differences:
            raise ValueError(f"the state is of a trainer with {'; '.join(differences)}")
        calls, made = RunCalls.of_trainer(state, self.pool)
        self._collector.abandon()
        self._calls.become(calls)
        self.learner.load_state_dict(state["learner"])
        self._progress.load_state_dict(state["progress"])
        self._collector.next_round = self._progress.round
        lost = self._collector.rounds.load_state_dict(state["rounds"], self.pool, made)
        self._progress.lost_episodes += lost
        if self._lagging is not None:
            self._lagging.load_state_dict(state["acting"])
        return lost


def _mean(numbers: Iterable[float]) -> float:
    """NaN if there are none."""
    values = np.fromiter(numbers, np.float64)
    return float(values.mean()) if len(values) else float("nan")
