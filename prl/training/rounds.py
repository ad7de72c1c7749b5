"""What a round is: whole episodes, or a fixed number of steps; who begins which episode."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from learner.arrays import Floats
from learner.store import Rollout
from prl.training.env_calls import CallMarks
from prl.training.episode_log import EpisodeLog, ToEnv
from prl.training.group_round import GroupRollout, GroupTask
from workers.arrays import Array, Ids
from workers.env_call import EnvCall
from workers.episode_record import NO_CALLS, EpisodeCalls
from workers.pool import ChangeablePool, EnvPool
from workers.replay import replay
from workers.seeding import episode_seed

REPLAY_LIMIT = 100_000
"""Steps after which an episode cannot be repeated any more."""
_NOBODY = np.zeros(0, np.int64)


def split_groups(num_envs: int, num_groups: int) -> list[Ids]:
    """Env indices in contiguous blocks of nearly equal size; they depend on nothing but the two numbers."""
    bounds = [group * num_envs // num_groups for group in range(num_groups + 1)]
    return [np.arange(*pair) for pair in itertools.pairwise(bounds)]


@dataclass(frozen=True)
class Round:
    """The outcome of one round.

    Attributes:
        parts: the steps of each group.
        returns: f64[E] of the episodes that ended in it, undiscounted, in env order.
        lengths: i64[E], steps.
        infos: f64[E, K], what their last infos say.
        steps: of all envs.
        longest: steps of the env that played most.
        lost: episodes that were closed because their worker failed.
        idle_seconds: that an env waited for the last ones to finish, averaged over envs.
    """

    parts: list[Rollout]
    returns: Floats
    lengths: Ids
    infos: Floats
    steps: int
    longest: int
    lost: int
    idle_seconds: float

    @classmethod
    def of(cls, parts: Sequence[GroupRollout], idle_seconds: float = 0.0) -> Round:
        """The groups' parts, in the order of the groups, as one."""
        env_ids = np.concatenate([part.episodes.env_ids for part in parts])
        order = np.argsort(env_ids, kind="stable")  # an env's own episodes stay in the order of time
        return cls(
            parts=[part.rollout for part in parts],
            returns=np.concatenate([part.episodes.returns for part in parts])[order],
            lengths=np.concatenate([part.episodes.lengths for part in parts])[order],
            infos=np.concatenate([part.episodes.infos for part in parts])[order],
            steps=sum(len(part.rollout) for part in parts),
            longest=max(part.longest for part in parts),
            lost=sum(part.lost for part in parts),
            idle_seconds=idle_seconds,
        )


class EpisodeTracker:
    """Episodes of N envs: how many have begun, and how far the running ones are.

    Args:
        num_envs: N.
        seed: of the run; episode k of env i has `episode_seed(seed, i, k)`.
        first_episode: k of every env's first episode.

    Attributes:
        started: i64[N], k of the episode that each env begins next.
        returns, lengths: f64[N] and i64[N], of the episodes that are in their middle; else 0.
    """

    def __init__(self, num_envs: int, seed: int, first_episode: int = 0) -> None:
        self.num_envs = num_envs
        self.seed = seed
        self.started = np.full(num_envs, first_episode, np.int64)
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)

    def task(
        self,
        group: int,
        env_ids: Ids,
        noise: Sequence[int],
        num_steps: int | None,
        obs: Array | None,
        calls: int = 0,
    ) -> GroupTask:
        """What a group plays next; see `GroupTask`."""
        return GroupTask(
            group=group,
            env_ids=env_ids,
            seed=self.seed,
            noise=(*noise, group),
            started=self.started[env_ids],
            num_steps=num_steps,
            obs=obs,
            returns=self.returns[env_ids],
            lengths=self.lengths[env_ids],
            calls=calls,
        )

    def take(self, env_ids: Ids, part: GroupRollout) -> None:
        """Go on from where a group's part has ended."""
        self.started[env_ids] = part.started
        self.returns[env_ids] = part.returns
        self.lengths[env_ids] = part.lengths

    def state_dict(self) -> dict[str, Any]:
        """Which episodes were started, and how far the running ones are."""
        return {
            "started": self.started.tolist(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }

    def begin(self, env_ids: Ids) -> None:
        """The next episodes of these envs begin."""
        self.started[env_ids] += 1
        self.returns[env_ids] = 0.0
        self.lengths[env_ids] = 0

    def running_seeds(self) -> Ids:
        """The seeds i64[N] of the episodes that were started last."""
        episodes = enumerate((self.started - 1).tolist())
        return np.array([episode_seed(self.seed, env, episode) for env, episode in episodes], np.int64)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.started = np.array(state["started"], np.int64)
        self.returns = np.array(state["returns"])
        self.lengths = np.array(state["lengths"], np.int64)


class RoundKind(Protocol):
    """One kind of round."""

    tracker: EpisodeTracker

    def task(self, group: int, env_ids: Ids, noise: Sequence[int], calls: int = 0) -> GroupTask:
        """What a group plays in its next round.

        Args:
            group: its number.
            env_ids: i64[G], its envs.
            noise: stream and counters of the generator that draws the noise of actions; the group's number
                follows them.
            calls: of envs that come before it.
        """

    def least_steps(self, env_ids: Ids) -> int:
        """Steps that a round of these envs has in any case; 0 if that cannot be said before."""

    def take(self, env_ids: Ids, part: GroupRollout) -> None:
        """The group's next round begins where this one has ended."""

    def state_dict(self) -> dict[str, Any]:
        """What the next round depends on, the state of envs included."""

    def running_actions(self) -> Sequence[Sequence[Array] | None]:
        """The env actions of each env's running episode, in the order of time.

        Episodes that are in their middle when a round begins can be repeated with them. None: it is too long
        to be repeated.
        """

    def running_calls(self) -> Sequence[EpisodeCalls]:
        """The calls that each env has had before the tasks that are not done."""

    def load_state_dict(
        self, state: dict[str, Any], pool: ChangeablePool, calls: Sequence[EnvCall] = ()
    ) -> int:
        """The inverse of `state_dict`; the envs of the pool, with no command open, are brought back.

        Args:
            state: of rounds.
            pool: hosts the envs.
            calls: of envs that have been made.

        Returns:
            The number of episodes that are lost, since they were too long or an env is not a function of its
            seed and its actions; others have begun in their place.
        """


class WholeEpisodes:
    """Every env plays one whole episode; envs that have finished leave the batch. Implements `RoundKind`."""

    def __init__(self, tracker: EpisodeTracker) -> None:
        self.tracker = tracker

    def task(self, group: int, env_ids: Ids, noise: Sequence[int], calls: int = 0) -> GroupTask:
        """See `RoundKind`."""
        return self.tracker.task(group, env_ids, noise, None, None, calls)

    def least_steps(self, env_ids: Ids) -> int:
        """See `RoundKind`."""
        return 0

    def take(self, env_ids: Ids, part: GroupRollout) -> None:
        """See `RoundKind`."""
        self.tracker.take(env_ids, part)

    def state_dict(self) -> dict[str, Any]:
        """See `RoundKind`. No env is in mid-episode between two rounds."""
        return {"tracker": self.tracker.state_dict()}

    def running_actions(self) -> Sequence[Sequence[Array] | None]:
        """See `RoundKind`. No episode is in its middle when a round begins."""
        return [[] for _ in range(self.tracker.num_envs)]

    def running_calls(self) -> Sequence[EpisodeCalls]:
        """See `RoundKind`. Nobody asks: see `running_actions`."""
        return [NO_CALLS for _ in range(self.tracker.num_envs)]

    def load_state_dict(
        self, state: dict[str, Any], pool: ChangeablePool, calls: Sequence[EnvCall] = ()
    ) -> int:
        """See `RoundKind`. Envs get the calls with their next tasks."""
        self.tracker.load_state_dict(state["tracker"])
        return 0


class FixedSteps:
    """Every env plays `num_steps` steps; ended episodes are followed by the next ones at once. A `RoundKind`.

    Args:
        tracker: of the envs' episodes.
        num_steps: per env and round.
        to_env: makes env actions of those in rollouts, for states: they hold those of running episodes.
        replay_limit: steps after which an episode's actions are forgotten, which bounds memory.
    """

    def __init__(
        self, tracker: EpisodeTracker, num_steps: int, to_env: ToEnv, replay_limit: int = REPLAY_LIMIT
    ) -> None:
        self.tracker = tracker
        self.num_steps = num_steps
        self._obs: Array | None = None
        self._shown = np.zeros(tracker.num_envs, np.bool_)  # envs that are in mid-episode
        self._log = EpisodeLog(tracker.num_envs, to_env)
        self._marks = CallMarks(tracker.num_envs)
        self._replay_limit = replay_limit

    def task(self, group: int, env_ids: Ids, noise: Sequence[int], calls: int = 0) -> GroupTask:
        """See `RoundKind`."""
        self._marks.give(env_ids, calls)
        obs = self._obs[env_ids] if self._obs is not None and self._shown[env_ids].all() else None
        return self.tracker.task(group, env_ids, noise, self.num_steps, obs, calls)

    def least_steps(self, env_ids: Ids) -> int:
        """See `RoundKind`."""
        return self.num_steps * len(env_ids)

    def take(self, env_ids: Ids, part: GroupRollout) -> None:
        """See `RoundKind`."""
        assert part.obs is not None, "a group that has played fixed steps is in mid-episode"
        has_begun = part.started > self.tracker.started[env_ids]
        self._marks.take(env_ids, self.tracker.lengths[env_ids], has_begun)
        self.tracker.take(env_ids, part)
        self._shown[env_ids] = True
        if self._obs is None:
            self._obs = np.zeros((self.tracker.num_envs, *part.obs.shape[1:]), part.obs.dtype)
        self._obs[env_ids] = part.obs
        self._log.add(part.rollout, part.begun)
        too_long = env_ids[part.lengths > self._replay_limit]
        if len(too_long):
            self._log.forget(too_long)

    def running_actions(self) -> Sequence[Sequence[Array] | None]:
        """See `RoundKind`."""
        return _known(self._log.of_envs(), self._log.forgotten.tolist())

    def running_calls(self) -> Sequence[EpisodeCalls]:
        """See `RoundKind`."""
        return self._marks.of_episodes()

    def state_dict(self) -> dict[str, Any]:
        """See `RoundKind`. Of each env, in mid-episode: its actions since the reset, and what it shows."""
        return {
            "tracker": self.tracker.state_dict(),
            "actions": [None if env is None else torch.as_tensor(env) for env in self._log.of_envs()],
            "forgotten": self._log.forgotten.tolist(),
            "called": self._marks.state_dict(),
            "obs": None if self._obs is None else torch.as_tensor(self._obs.copy()),
        }

    def load_state_dict(
        self, state: dict[str, Any], pool: ChangeablePool, calls: Sequence[EnvCall] = ()
    ) -> int:
        """See `RoundKind`."""
        self.tracker.load_state_dict(state["tracker"])
        self._marks.load_state_dict(state.get("called"), len(calls), self.tracker.lengths)
        actions = [None if env is None else env.numpy() for env in state["actions"]]
        self._obs = None if state["obs"] is None else state["obs"].numpy().copy()
        self._shown[:] = self._obs is not None
        lost = _NOBODY
        if self._obs is not None:  # before the first round there is nothing to bring back
            known = _known(actions, state["forgotten"])
            seeds, called = self.tracker.running_seeds(), self._marks.of_episodes()
            lost = replay(pool, seeds, known, self._obs, calls, called)
            self._begin_others(lost, actions, self._obs, pool)
        self._log.load(actions)
        return len(lost)

    def _begin_others(self, lost: Ids, actions: list[Array | None], obs: Array, pool: EnvPool) -> None:
        """The next episodes of these envs begin, since the running ones are lost."""
        if not len(lost):
            return
        self.tracker.begin(lost)
        pool.reset(lost, self.tracker.running_seeds()[lost])
        obs[lost] = pool.recv().obs
        self._marks.forget(lost)
        for env in lost.tolist():
            actions[env] = None


def _known(actions: Sequence[Array | None], forgotten: Sequence[bool]) -> list[Sequence[Array] | None]:
    """Of each env, the actions of its running episode; None if they are forgotten."""
    return [
        None if gone else () if env is None else list(env)
        for env, gone in zip(actions, forgotten, strict=True)
    ]
