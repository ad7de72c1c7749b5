"""The interface of every pool, and the batch that the learner reads.

Letters in shapes: N envs, G rows in one message, O observation shape, A action shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from workers.arrays import Array, Flags, Floats, Ids
from workers.env_call import ChangesEnvs
from workers.envs import EnvFactory
from workers.final_infos import InfoColumn
from workers.slab import Slab

POOL_CLOSED = "the pool is closed (a custom loop also closes it after an env or worker failure)"

Seeds: TypeAlias = "Sequence[int] | Ids"

TERMINATED = 1
TRUNCATED = 2
LOST = 4
IS_TERMINATED = np.array([False, True, False, True, False])  # by flags
IS_TRUNCATED = np.array([False, False, True, True, False])
_IS_LOST = np.array([False, False, False, False, True])


class StepBatch(NamedTuple):
    """What G envs answered to one `reset` or `send`, in ascending env order.

    After a reset, rewards are 0 and no row has ended. Arrays are not to be changed in place: a pool that
    recovers looks at them later.

    Attributes:
        env_ids: i64[G].
        obs: [G, *O] in the dtype of the observation space; the *final* observation where a row ended.
        reward: f32[G].
        terminated: bool[G], the episode reached a terminal state (no bootstrap).
        truncated: bool[G], the episode was cut by a time limit (bootstrap from `obs`).
        lost: bool[G], the episode was closed because its worker failed and it could not be replayed
            (treated as truncated). Always false in pools that do not recover.
        next_obs: [G, *O], what to act on next, if `send` was given `next_seeds`: `obs`, but the first
            observation of the next episode where a row ended. May be `obs` itself. Else None.
        final_info: f64[E, K], the pool's `info_columns` of the E episodes that have ended, in the order of
            their rows: NaN is what an info does not say, infinity what is no number. None if K is 0.
    """

    env_ids: Ids
    obs: Array
    reward: Floats
    terminated: Flags
    truncated: Flags
    lost: Flags
    next_obs: Array | None = None
    final_info: npt.NDArray[np.float64] | None = None

    @property
    def ended(self) -> Flags:
        """bool[G], the rows whose episode is over."""
        ended: Flags = self.terminated | self.truncated | self.lost
        return ended


class EnvPool(Protocol):
    """N envs behind two verbs, `send` and `recv`; nothing here blocks in a step.

    Commands are answered in the order in which they were given: `recv` returns the batch of the oldest
    unanswered `reset` or `send`. `env_ids` is i64[G], strictly ascending; an env has at most one
    unanswered command. A context manager: leaving it closes the pool.

    The first step of a rollout, with time indices (observation o_t, action a_t, reward r_t)::

        pool.reset(env_ids, seeds)  # starts an episode in each env
        o_0 = pool.recv().obs  # [G, *O]
        pool.send(env_ids, a_0)  # [G, *A], chosen for o_0; returns at once
        batch = pool.recv()  # o_1 = batch.obs and r_1 = batch.reward, which a_0 led to
        env_ids = env_ids[~batch.ended]  # where an episode has ended, o_1 is its final observation
    """

    num_envs: int
    """N."""
    num_workers: int
    """Worker processes; 0 if the envs are in this process."""

    @property
    def info_columns(self) -> Sequence[InfoColumn]:
        """What is kept of the last infos of episodes."""

    @property
    def restarts(self) -> int:
        """Workers that broke and were started again, so far."""

    def reset(self, env_ids: Ids, seeds: Seeds) -> None:
        """Start a new episode in each env, with `reset(seed=...)`.

        Raises:
            RuntimeError: the pool is closed; so does `send`.
        """

    def send(self, env_ids: Ids, actions: Array, next_seeds: Seeds | None = None) -> None:
        """Take one step in each env. `actions` is [G, *A] and valid for the action space.

        With `next_seeds`, [G], an env whose episode ends in this step is at once reset with its seed, and
        the next `send` continues with the new episode.
        """

    def recv(self, timeout: float | None = None) -> StepBatch:
        """The answer to the oldest open command.

        Args:
            timeout: seconds; None takes the pool's `step_timeout`.

        Raises:
            WorkerError: a worker died, hung or reported a failed env.
        """

    def close(self) -> None:
        """End all envs and workers, in bounded time. Idempotent."""

    def __enter__(self) -> EnvPool: ...

    def __exit__(self, *exc_info: object) -> None: ...


class ChangeablePool(EnvPool, Protocol):
    """An `EnvPool` whose envs can be called from outside, while they have no command open."""

    factory: EnvFactory
    """Has built the envs."""

    @property
    def env_calls(self) -> ChangesEnvs:
        """Calls to the envs."""

    def __enter__(self) -> ChangeablePool: ...


def read_batch(slab: Slab, env_ids: Ids, restarts: bool) -> StepBatch:
    """The answers that lie in the rows `env_ids` of a slab, copied.

    Args:
        restarts: whether envs whose episode ended have started the next one.
    """
    # `take` and `nonzero` are several times faster than indexing and `any`; every env waits for this.
    flags = slab.flags.take(env_ids)
    obs = slab.obs.take(env_ids, axis=0)
    next_obs = obs if restarts else None
    final_info = slab.no_final_info
    if (restarts or final_info is not None) and len(ended := flags.nonzero()[0]):
        over = env_ids.take(ended)
        if restarts:
            next_obs = obs.copy()
            next_obs[ended] = slab.next_obs.take(over, axis=0)
        if final_info is not None:
            final_info = slab.final_info.take(over, axis=0)
    return StepBatch(
        env_ids=env_ids,
        obs=obs,
        next_obs=next_obs,
        reward=slab.reward.take(env_ids),
        terminated=IS_TERMINATED.take(flags),
        truncated=IS_TRUNCATED.take(flags),
        lost=_IS_LOST.take(flags),
        final_info=final_info,
    )
