"""The parts of a custom loop: envs in worker processes, and a buffer for each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch

from learner.settings import require_counts
from learner.store import Rollout, Store
from prl.adapters.infos import as_vector
from prl.pools import make_pool
from prl.run.build import warn_of_notes
from prl.run.torch_state import standard_torch
from prl.training.arguments import check_pool_settings
from prl.training.checks import ActionCheck, as_flags
from workers.arrays import Array, Flags, Ids
from workers.casts import cast_exactly
from workers.data_pickle import NotData
from workers.env_call import EnvCall
from workers.envs import EnvLike, env_factory
from workers.errors import EnvCallError, EnvError
from workers.pool import StepBatch
from workers.recovering_pool import Recovery
from workers.seeding import episode_seed

_LAST_INFO = "workers.wrappers:LastInfo"


class VecMemory:
    """The steps of a custom loop, one buffer per env. Filled by `prl.utils.buffer_append`.

    Args:
        num_envs: N.
    """

    def __init__(self, num_envs: int) -> None:
        require_counts(num_envs=num_envs)
        self.num_envs = num_envs
        self._store: Store | None = None
        self._spaces: tuple[gym.spaces.Box, gym.spaces.Box] | None = None  # what rows look like

    def __len__(self) -> int:
        """Steps of all envs."""
        return 0 if self._store is None else len(self._store)

    def append(
        self,
        env_ids: Ids,
        states: Array,
        actions: Array,
        rewards: Array,
        terminated: Flags,
        truncated: Flags,
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
            ValueError: shapes do not fit together, rows are not like those appended before, or an env id is
                out of bounds. Nothing is appended then.
        """
        state, action = self._spaces or (_like(states), _like(actions))
        states, next_states = (
            _rows_like("states", states, state),
            _rows_like("next_states", next_states, state),
        )
        actions = _rows_like("actions", actions, action)
        if self._store is None:
            self._spaces = state, action
            self._store = Store(state, action, self.num_envs, ("values", "log_probs"))
        self._store.add_actions(env_ids, states, actions, values=state_values, log_probs=log_probs)
        self._store.add_outcomes(env_ids, next_states, rewards, terminated, terminated | truncated)

    def take(self) -> Rollout:
        """Everything, in env order; the buffers are empty afterwards.

        An episode that has not ended is truncated; its last state stands in for the unknown next one.

        Raises:
            ValueError: the buffer is empty.
        """
        if self._store is None:
            raise ValueError("the buffer is empty: nothing was appended")
        self._store.truncate_open_episodes()
        rollout = self._store.rollout()
        self._store.clear()
        return rollout


class EnvVectorizer:
    """N copies of an env in worker processes, for a custom loop: every env plays one episode.

    What the user should know about the env is a warning.

    Args:
        env: an env, id, spec, class or factory; see `workers.envs.env_factory`.
        num_envs: N.
        num_workers: processes; None starts one per usable core, 0 steps the envs in this process.
        seed: of the episodes.
        max_episode_steps: truncate episodes after this many steps.
        step_timeout: seconds a worker may take for one command.
        start_timeout: seconds a worker may take to start and build its first env, and then each further one.
        infos: whether `reset` and `step` return the envs' infos, which takes one more message per worker and
            step.
        env_index_kwarg: keyword argument under which the constructor gets the index of its env, 0..N-1.

    Raises:
        ConfigError: a setting is out of range.
        EnvError: the env cannot be used, or its observations or actions are not arrays.
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
        start_timeout: float = 120.0,
        infos: bool = False,
        env_index_kwarg: str | None = None,
    ) -> None:
        check_pool_settings(num_envs, num_workers, seed, max_episode_steps, step_timeout, start_timeout)
        with standard_torch():
            factory = env_factory(
                env,
                max_episode_steps=max_episode_steps,
                wrappers=(_LAST_INFO,) if infos else (),
                env_index_kwarg=env_index_kwarg,
                own_process=num_workers != 0,
                start_timeout=start_timeout,
            )
        for space in (factory.observation_space, factory.action_space):
            if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
                raise EnvError(
                    f"{factory.name}: a custom loop takes observations and actions that are arrays, "
                    f"not {space}; prl.Trainer and train.py take them"
                )
        warn_of_notes(factory)
        self.num_envs = num_envs
        self.seed = seed
        self.observation_space = factory.observation_space
        self.action_space = factory.action_space
        self._actions = ActionCheck(factory.action_space)
        self._calls: list[EnvCall] = []
        self._infos = infos
        self._episode = -1
        self._ended = np.ones(num_envs, np.bool_)  # what the envs say; `envs_active` is what the loop says
        self._finished = np.ones(num_envs, np.bool_)
        with standard_torch():
            self._pool = make_pool(
                factory,
                num_envs,
                num_workers,
                step_timeout=step_timeout,
                start_timeout=start_timeout,
                recovery=Recovery(),
            )

    @property
    def envs_active(self) -> Flags:
        """bool[N], set by the loop. The name is historical: True means that this env has *finished*."""
        return self._finished

    @envs_active.setter
    def envs_active(self, finished: Flags | torch.Tensor) -> None:
        """Set the mask.

        Raises:
            ValueError: another shape than [N], or something else than true and false.
        """
        self._finished = as_flags("envs_active", finished, self.num_envs)

    def reset(self) -> tuple[Array, dict[str, Any]]:
        """Start the next episode of every env.

        Returns:
            Observations [N, *O], and infos: see `step`.

        Raises:
            WorkerError: a worker died, hung or reported a failed env. All workers are ended then.
        """
        self._episode += 1
        self._finished = np.zeros(self.num_envs, np.bool_)
        seeds = [episode_seed(self.seed, env, self._episode) for env in range(self.num_envs)]
        self._pool.reset(np.arange(self.num_envs), seeds)
        obs = self._receive().obs
        self._ended[:] = False
        return obs, self._infos_of(np.arange(self.num_envs))

    def step(self, actions: Array | torch.Tensor) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of the envs that have not finished.

        Args:
            actions: [G, *A], one row for each env whose `envs_active` is False, in env order. They have to be
                elements of the action space: nothing is clipped or rounded.

        Returns:
            Next observations [G, *O] (final ones where an episode ended), rewards f32[G], terminated
            bool[G], truncated bool[G], and infos: an empty dict, or with `infos=True` those of the envs that
            have played, as Gymnasium's vector envs return them: for each key an array [G], and bool[G] under
            the key after an underscore, which envs have it.

        Raises:
            ValueError: an action is not in the action space, the number of rows is not that of the envs that
                still play, or an episode has to be started with `reset` first. Nothing was sent then.
            WorkerError: a worker died, hung or reported a failed env. All workers are ended then.
        """
        playing = self._playing()
        self._pool.send(playing, self._actions.rows(actions, playing))
        batch = self._receive()
        self._ended[playing] = batch.ended
        # The episode of a worker that could not be brought back is cut at what was seen last.
        truncated = batch.truncated | batch.lost
        # Copies, since a loop may change what it gets, and the pool may still need it.
        return batch.obs.copy(), batch.reward.copy(), batch.terminated, truncated, self._infos_of(playing)

    def _playing(self) -> Ids:
        """i64[G], the envs that take the next step."""
        if self._episode < 0:
            raise ValueError("step before the first reset: call reset()")
        playing = np.flatnonzero(~self._finished)
        if len(playing) == 0:
            raise ValueError("every env has finished its episode: call reset()")
        over = playing[self._ended[playing]]
        if len(over):
            raise ValueError(
                f"the episodes of envs {over.tolist()} are over, but envs_active says that they still play: "
                "update it after every step with utils.update_active_environments_list"
            )
        return playing

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every env, or of one of its wrappers; between two steps, or between episodes.

        The env of a worker that is started again gets all calls again, in their order. So what a call does
        must depend on nothing but its arguments and what calls before it have done. An env is reset once
        before its first call.

        Args:
            name: of the method; of an attribute that cannot be called, its values are the results.
            args, kwargs: of the method.

        Returns:
            N results, plain data.

        Raises:
            EnvCallError: an env has no such method or attribute, and no env was called; the workers live on.
                Or an env raised, or a result cannot be sent; then all workers are ended.
            NotData: a result is an object of a class that is not data. All workers are ended then.
            WorkerError: a worker died, hung or reported a failed env. All workers are ended then.
        """
        return tuple(self._change(EnvCall("call", name, *_copied(args, kwargs))))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every env, or of one of its wrappers.

        Raises:
            EnvCallError: an env has no such attribute, or it cannot be sent; the workers live on.
            NotData: it is an object of a class that is not data; the workers live on.
            WorkerError: a worker died, hung or reported a failed env. All workers are ended then.
        """
        with self._asking(EnvCallError, NotData):
            return tuple(self._pool.env_calls.get(np.arange(self.num_envs), name))

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every env where it is: in the env, or in one of its wrappers; see `call`.

        Args:
            name: of an attribute that is there.
            values: of all envs; a list or tuple has one for each of them.

        Raises:
            ValueError: the list has another length.
            EnvCallError, WorkerError: see `call`.
        """
        per_env = isinstance(values, list | tuple)
        if per_env and len(values) != self.num_envs:
            raise ValueError(
                f"a list of values of {name} has one for each of the {self.num_envs} envs, got {len(values)}"
            )
        args, _ = _copied(values if per_env else [values], {})
        self._change(EnvCall("set", name, args, per_env=per_env))

    def _change(self, call: EnvCall) -> list[Any]:
        calls = [*self._calls, call]
        with self._asking(EnvCallError):
            self._pool.env_calls.require(np.arange(self.num_envs), call.name)
        with self._asking():
            found = self._pool.env_calls.carry_out(np.arange(self.num_envs), calls, results=True)
        self._calls = calls
        return found

    def _infos_of(self, env_ids: Ids) -> dict[str, Any]:
        """The last infos of these envs: arrays [G] in their order."""
        if not self._infos:
            return {}
        with self._asking():
            groups = self._pool.env_calls.infos(env_ids)
        here = [group._replace(env_ids=np.searchsorted(env_ids, group.env_ids)) for group in groups]
        return as_vector(here, {}, len(env_ids))

    def _receive(self) -> StepBatch:
        with self._asking():
            return self._pool.recv()

    @contextlib.contextmanager
    def _asking(self, *harmless: type[Exception]) -> Iterator[None]:
        """Ask something of the workers, which are ended after any error but those that are harmless."""
        # An env in this process (num_workers=0) is the user's code, too.
        state = standard_torch() if self._pool.num_workers == 0 else contextlib.nullcontext()
        try:
            with state:
                yield
        except harmless:
            raise
        except BaseException:
            # A custom loop may have no `with`. After Ctrl-C in a notebook, the answer that is still to come
            # would be taken for that of the next command.
            self.close()
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


def _copied(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """As a worker gets them: the caller may change his own afterwards."""
    copies: tuple[list[Any], dict[str, Any]] = cloudpickle.loads(
        cloudpickle.dumps((list(args), dict(kwargs)))
    )
    return copies


def _rows_like(name: str, rows: Array, space: gym.spaces.Box) -> Array:
    """Rows [G, ...] in the shape and dtype of those that a buffer holds already."""
    if rows.shape[1:] != space.shape:
        raise ValueError(f"{name} have rows of shape {rows.shape[1:]}, but the buffer holds {space.shape}")
    array = cast_exactly(rows, space.dtype)
    if array is None:
        raise ValueError(f"{name} of dtype {rows.dtype} do not fit the buffer, which holds {space.dtype}")
    return array


def _like(rows: Array) -> gym.spaces.Box:
    """A space with the shape and dtype of rows; its bounds mean nothing."""
    return gym.spaces.Box(0, 1, rows.shape[1:], rows.dtype.type)
