"""Copies of states."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def copied(state: Any) -> Any:
    """A copy of a `state_dict` that shares no memory with it.

    As `copy.deepcopy`, in a fraction of the time, for what states are made of: dicts, lists, tuples, tensors,
    and values that nobody changes. A run takes such a copy after each of its updates.
    """
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(copied, state))
    return state
