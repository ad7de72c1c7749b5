"""Calls that change the envs of a run while it is trained: which there were, and when.

An env's state then is a function of its episode's seed, the actions since, and the calls: those before the
episode, and those between two steps of it. N is the number of envs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from workers.arrays import Flags, Ids
from workers.env_call import EnvCall
from workers.episode_record import EpisodeCalls
from workers.pool import ChangeablePool

_MAX_DEPTH = 32
_ALLOWED = "None, bool, int, float, str, and lists and dicts of these, since checkpoints hold them"
_FIELDS = {"batch", "evaluation", "verb", "name", "args", "kwargs", "per_env"}


def method_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EnvCall:
    """The call of a method.

    Raises:
        TypeError, ValueError: an argument is no plain data.
    """
    _check_name(name)
    named = {key: plain(value, f"argument {key} of {name}") for key, value in kwargs.items()}
    listed = [plain(value, f"argument {place} of {name}") for place, value in enumerate(args)]
    return EnvCall("method", name, listed, named)


def attribute_call(name: str, value: Any, num_envs: int) -> EnvCall:
    """The setting of an attribute.

    Args:
        name: of the attribute.
        value: for all envs; a list or tuple has one for each of them.
        num_envs: N.

    Raises:
        TypeError, ValueError: the value is no plain data, or the list has another length.
    """
    _check_name(name)
    if not isinstance(value, list | tuple):
        return EnvCall("set", name, [plain(value, f"the value of {name}")])
    if len(value) != num_envs:
        raise ValueError(
            f"a list of values of {name} has one for each of the {num_envs} envs, got {len(value)}; a value "
            f"that is a list itself is [value] * {num_envs}"
        )
    values = [plain(own, f"the value of {name} for env {env}") for env, own in enumerate(value)]
    return EnvCall("set", name, values, per_env=True)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a method or attribute is text, got {name!r}")


def plain(value: Any, what: str, depth: int = 0) -> Any:
    """A copy of plain data; NumPy's numbers become Python's.

    Args:
        value: what a checkpoint is to hold.
        what: names it in messages.
        depth: of it in what was asked for.

    Raises:
        TypeError, ValueError: it is, or holds, something else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{what} is {value}; calls of envs take finite numbers alone")
        return value
    if depth > _MAX_DEPTH:
        raise ValueError(f"{what} is nested too deeply")
    if type(value) is list:
        return [plain(item, what, depth + 1) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: plain(item, what, depth + 1) for key, item in value.items()}
    advice = "; array.tolist() makes a list of it" if isinstance(value, np.ndarray) else ""
    kind = "dict with keys that are no text" if type(value) is dict else type(value).__name__
    raise TypeError(f"{what} is or holds a {kind}{advice}; calls of envs take {_ALLOWED}")


class _TimedCall(NamedTuple):
    batch: int
    evaluation: bool
    call: EnvCall


class RunCalls:
    """The calls of a run, in their order.

    Batches are counted from 1.
    """

    def __init__(self) -> None:
        self._calls: list[_TimedCall] = []

    def add(self, call: EnvCall, batch: int, evaluation: bool) -> None:
        """One more.

        Args:
            call: to all envs.
            batch: is the first to be played after it; not less than that of the call before.
            evaluation: whether the envs of evaluations get it, too.
        """
        self._calls.append(_TimedCall(batch, evaluation, call))

    def before(self, batch: int) -> int:
        """How many calls come before a batch."""
        return bisect_right(self._calls, batch, key=lambda timed: timed.batch)

    def first(self, count: int | None = None) -> list[EnvCall]:
        """The first so many calls; all of them without a number."""
        return [timed.call for timed in self._calls[:count]]

    def of_evaluations(self) -> list[EnvCall]:
        """Those that the envs of evaluations get, too."""
        return [timed.call for timed in self._calls if timed.evaluation]

    def state_dict(self) -> list[dict[str, Any]]:
        """All of them, as JSON can hold them."""
        return [
            {
                "batch": batch,
                "evaluation": evaluation,
                "verb": call.verb,
                "name": call.name,
                "args": list(call.args),
                "kwargs": dict(call.kwargs),
                "per_env": call.per_env,
            }
            for batch, evaluation, call in self._calls
        ]

    def become(self, other: RunCalls) -> None:
        """These are the calls of another object from now on."""
        self._calls = other._calls

    @classmethod
    def of_trainer(cls, state: Mapping[str, Any], pool: ChangeablePool) -> tuple[RunCalls, list[EnvCall]]:
        """The calls in the state of a trainer, and those of them that its envs have had.

        Args:
            state: of a trainer.
            pool: in which it goes on.

        Raises:
            ValueError: the state is none, or envs of the pool have had other calls than come before the
                running episodes.
        """
        calls = cls.of_state(state.get("env_calls", []), pool.num_envs)
        made = calls.first(calls.before(state["progress"]["iteration"]))
        within = max((len(at) for at in state["rounds"].get("called", ())), default=0)
        pool.env_calls.check(made[: len(made) - within])
        return calls, made

    @classmethod
    def of_state(cls, state: Any, num_envs: int) -> RunCalls:
        """The inverse of `state_dict`.

        Args:
            state: may come from a file.
            num_envs: N.

        Raises:
            ValueError: it is something else.
        """
        calls = cls()
        if not isinstance(state, list):
            raise ValueError("the calls of envs are no list")
        for number, entry in enumerate(state):
            timed = _read(entry, num_envs)
            if timed is None or (calls._calls and timed.batch < calls._calls[-1].batch):
                raise ValueError(f"call {number} of the envs is none")
            calls._calls.append(timed)
        return calls


def _read(entry: Any, num_envs: int) -> _TimedCall | None:
    """A call of a state; None if it is none."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        return None
    verb, name, args, kwargs = (entry[key] for key in ("verb", "name", "args", "kwargs"))
    batch, evaluation, per_env = (entry[key] for key in ("batch", "evaluation", "per_env"))
    types = type(batch) is int and type(evaluation) is bool and type(per_env) is bool
    if not (types and isinstance(name, str) and type(args) is list and type(kwargs) is dict):
        return None
    if verb == "method":
        fits = not per_env and all(isinstance(key, str) for key in kwargs)
    else:
        fits = verb == "set" and not kwargs and len(args) == (num_envs if per_env else 1)
    return _TimedCall(batch, evaluation, EnvCall(verb, name, args, kwargs, per_env)) if fits else None


class CallMarks:
    """At which steps of the envs' running episodes calls were made.

    Args:
        num_envs: N.
    """

    def __init__(self, num_envs: int) -> None:
        self._had = np.zeros(num_envs, np.int64)  # calls before the tasks that are done
        self._given = np.zeros(num_envs, np.int64)  # before those that are given
        self._at: list[tuple[int, ...]] = [()] * num_envs

    def give(self, env_ids: Ids, count: int) -> None:
        """The next task of these envs comes after the first `count` calls."""
        self._given[env_ids] = count

    def take(self, env_ids: Ids, lengths: Ids, begun: Flags) -> None:
        """The task is done.

        Args:
            env_ids: i64[G].
            lengths: i64[G], steps of the running episodes before it.
            begun: bool[G], envs that have begun another episode in it.
        """
        new = self._given[env_ids] - self._had[env_ids]
        if not new.any() and not any(self._at):
            return
        rows = zip(env_ids.tolist(), lengths.tolist(), begun.tolist(), new.tolist(), strict=True)
        for env, length, has_begun, count in rows:
            self._at[env] = () if has_begun else (*self._at[env], *[length] * count)
        self._had[env_ids] = self._given[env_ids]

    def forget(self, env_ids: Ids) -> None:
        """Other episodes have begun in these envs, after all calls."""
        for env in env_ids.tolist():
            self._at[env] = ()

    def of_episodes(self) -> list[EpisodeCalls]:
        """The calls to each env, by when they came."""
        counts = zip(self._had.tolist(), self._at, strict=True)
        return [EpisodeCalls(had - len(at), at) for had, at in counts]

    def state_dict(self) -> list[list[int]]:
        """Of each env, the steps of its running episode before each call since its reset."""
        return [list(at) for at in self._at]

    def load_state_dict(self, state: Any, count: int, lengths: Ids) -> None:
        """The inverse of `state_dict`.

        Args:
            state: may come from a file.
            count: calls so far.
            lengths: i64[N], of the running episodes.

        Raises:
            ValueError: it is something else.
        """
        state = state or [[]] * len(self._at)
        fits = isinstance(state, list) and len(state) == len(self._at)
        if not fits or not all(map(_is_ascending, state, lengths.tolist(), [count] * len(state))):
            raise ValueError("the calls within episodes make no sense")
        self._at = [tuple(at) for at in state]
        self._had[:] = self._given[:] = count


def _is_ascending(at: Any, length: int, count: int) -> bool:
    is_list = isinstance(at, list) and len(at) <= count and all(type(step) is int for step in at)
    return is_list and at == sorted(at) and all(0 <= step <= length for step in at)
