"""The parts of a loop of one's own: envs in worker processes, and a buffer for each of them."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from learner.settings import require_counts
from learner.store import Rollout, Store
from prl.pools import make_pool
from workers.envs import EnvLike, env_factory
from workers.errors import EnvError, WorkerError
from workers.seeding import episode_seed

Array = npt.NDArray[Any]


class VecMemory:
    """The steps of a custom loop, one buffer per env. Filled by `prl.utils.buffer_append`.

    Args:
        num_envs: N.
    """

    def __init__(self, num_envs: int) -> None:
        require_counts(num_envs=num_envs)
        self.num_envs = num_envs
        self._store: Store | None = None

    def __len__(self) -> int:
        """Steps of all envs."""
        return 0 if self._store is None else len(self._store)

    def append(
        self,
        env_ids: npt.NDArray[np.int64],
        states: Array,
        actions: Array,
        rewards: Array,
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        next_states: Array,
        state_values: Array,
        log_probs: Array,
    ) -> None:
        """One step of G envs.

        Args:
            env_ids: i64[G].
            states, next_states: [G, *O].
            actions: [G, *A], as the env got them.
            rewards, state_values, log_probs: [G].
            terminated, truncated: bool[G].

        Raises:
            ValueError: shapes do not fit together, or an env id is out of bounds.
        """
        if self._store is None:
            self._store = Store(_like(states), _like(actions), self.num_envs, ("values", "log_probs"))
        self._store.add_actions(env_ids, states, actions, values=state_values, log_probs=log_probs)
        self._store.add_outcomes(env_ids, next_states, rewards, terminated, terminated | truncated)

    def take(self) -> Rollout:
        """Everything, in env order; the buffers are empty afterwards.

        An episode that has not ended is cut as truncated; its last state stands in for the unknown next one.

        Raises:
            ValueError: there is nothing.
        """
        if self._store is None:
            raise ValueError("the buffer is empty: nothing was appended")
        self._store.truncate_open_episodes()
        rollout = self._store.rollout()
        self._store.clear()
        return rollout


class EnvVectorizer:
    """N copies of an env in worker processes, for a loop of one's own: every env plays one episode.

    Args:
        env: an env, id, spec, class or factory; see `workers.envs.env_factory`.
        num_envs: N.
        num_workers: processes; None takes one per usable core, 0 none.
        seed: of the episodes.
        max_episode_steps: cut episodes after so many steps.
        step_timeout: seconds a worker may take for one command.

    Attributes:
        envs_active: bool[N], set by the loop. The name is historical: True means that this env has
            *finished* its episode.
    """

    def __init__(
        self,
        env: EnvLike,
        num_envs: int,
        *,
        num_workers: int | None = None,
        seed: int = 0,
        max_episode_steps: int | None = None,
        step_timeout: float = 60.0,
    ) -> None:
        require_counts(num_envs=num_envs)
        factory = env_factory(env, max_episode_steps=max_episode_steps)
        for space in (factory.observation_space, factory.action_space):
            if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
                raise EnvError(
                    f"{factory.name}: a loop of one's own takes observations and actions that are arrays, "
                    f"not {space}; prl.Trainer and train.py take them"
                )
        self.num_envs = num_envs
        self.seed = seed
        self.observation_space = factory.observation_space
        self.action_space = factory.action_space
        self._episode = -1
        self.envs_active = np.ones(num_envs, np.bool_)
        self._pool = make_pool(factory, num_envs, num_workers, step_timeout=step_timeout)

    def reset(self) -> tuple[Array, dict[str, Any]]:
        """Start the next episode of every env.

        Returns:
            Observations [N, *O], and an empty dict.
        """
        self._episode += 1
        self.envs_active = np.zeros(self.num_envs, np.bool_)
        seeds = [episode_seed(self.seed, env, self._episode) for env in range(self.num_envs)]
        self._pool.reset(np.arange(self.num_envs), seeds)
        return self._receive().obs, {}

    def step(self, actions: Array | torch.Tensor) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of the envs that have not finished.

        Args:
            actions: [G, *A], one row for each env whose `envs_active` is False, in env order.

        Returns:
            Next observations [G, *O] (final ones where an episode ended), rewards f32[G], terminated
            bool[G], truncated bool[G], and an empty dict.

        Raises:
            ValueError: the number of rows is not that of the envs that still play.
        """
        playing = np.flatnonzero(~np.asarray(self.envs_active, np.bool_))
        rows = np.asarray(actions)
        if len(playing) == 0:
            raise ValueError("every env has finished its episode: call reset()")
        if len(rows) != len(playing):
            raise ValueError(f"step got {len(rows)} actions, but {len(playing)} envs are still playing")
        self._pool.send(playing, rows)
        batch = self._receive()
        return batch.obs, batch.reward, batch.terminated, batch.truncated, {}

    def _receive(self) -> Any:
        try:
            return self._pool.recv()
        except WorkerError:
            self.close()  # a loop of one's own may have no `with`
            raise

    def close(self) -> None:
        """End all workers. Idempotent; also done at the exit of the program."""
        self._pool.close()

    def __enter__(self) -> EnvVectorizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _like(rows: Array) -> gym.spaces.Box:
    """A space with the shape and dtype of rows; its bounds mean nothing."""
    return gym.spaces.Box(0, 1, rows.shape[1:], rows.dtype.type)
