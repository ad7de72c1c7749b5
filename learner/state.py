"""Copies of states."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import Tensor

State = TypeVar("State")


def copied(state: State) -> State:
    """A copy of a `state_dict` that shares no memory with it.

    As `copy.deepcopy`, in a fraction of the time, for what states are made of: dicts, lists, tuples, tensors,
    and values that nobody changes. A run takes such a copy after each of its updates.
    """
    return cast("State", _copied(state))


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_copied, state))
    return state
