"""Helpers of the custom loop: the mask of finished envs, and the per-env buffers.

In all of them `True` in a mask means that the env has *finished* its episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from prl.training.checks import as_array, as_flags, as_floats, require_finite, require_rows
from workers.arrays import Array, Flags, Ids

if TYPE_CHECKING:
    import torch

    from learner.store import Rollout
    from prl.custom_loop import VecMemory

Rows: TypeAlias = "Array | torch.Tensor"


def inactive_states_dropout(states: Rows, finished: Rows) -> Array:
    """The rows of envs whose episodes continue.

    Args:
        states: [G, *O], the observations that the last step returned.
        finished: bool[G], `dones | truncates` of the same step.

    Returns:
        [H, *O], H <= G.

    Raises:
        ValueError: the numbers of rows do not fit together, or `finished` holds other values.
    """
    states, gone = as_array("states", states), as_flags("finished", finished)
    count = len(states) if states.ndim else 1
    if count != len(gone):
        raise ValueError(f"{count} states do not fit {len(gone)} flags of finished envs")
    rows: Array = states[~gone]
    return rows


def update_active_environments_list(envs_active: Rows, finished: Rows) -> Flags:
    """The mask after a step.

    Args:
        envs_active: bool[N], before the step; True means finished.
        finished: bool[G], for the G envs that were still playing, in env order.

    Returns:
        bool[N], a new array.

    Raises:
        ValueError: `finished` has not one flag for each env that was playing, or a mask holds other values.
    """
    mask, ended = as_flags("envs_active", envs_active), as_flags("finished", finished)
    playing = np.flatnonzero(~mask)
    if len(playing) != len(ended):
        raise ValueError(f"{len(ended)} flags do not fit {len(playing)} envs that are still playing")
    mask[playing] = ended
    return mask


def buffer_append(
    buffer: VecMemory,
    states: Rows,
    actions: Rows,
    rewards: Rows,
    dones: Rows,
    state_values: Rows,
    log_probs: Rows,
    is_env_terminal: Rows,
    num_envs: int,
    truncates: Rows | None = None,
    next_states: Rows | None = None,
) -> None:
    """Append one step of the G envs that were playing to their buffers.

    With `truncates` and `next_states`, an episode that a time limit truncated is bootstrapped from the value
    of its final observation, as it should be. Without `next_states` the last state stands in for it; without
    `truncates` such an episode is only recognised as truncated when the buffer is transferred.

    Args:
        buffer: of N envs.
        states: [G, *O], what the policy saw.
        actions: [G, *A], what the envs got.
        rewards: [G].
        dones: bool[G], terminated.
        state_values, log_probs: [G], as `PPO.get_action` returned them.
        is_env_terminal: bool[N], the mask *before* this step; True means finished.
        num_envs: N.
        truncates: bool[G].
        next_states: [G, *O], what the step returned.

    Raises:
        ValueError: rows do not fit together or are not like those appended before, or numbers are not finite.
            Nothing is appended then.
    """
    if num_envs != buffer.num_envs:
        raise ValueError(f"num_envs is {num_envs}, but the buffer was made for {buffer.num_envs}")
    env_ids = np.flatnonzero(~as_flags("is_env_terminal", is_env_terminal, num_envs))
    terminated = as_flags("dones", dones, len(env_ids))
    rows = {
        "states": _rows("states", states, env_ids),
        "actions": _rows("actions", actions, env_ids),
        "rewards": as_floats("rewards", rewards, env_ids),
        "terminated": terminated,
        "truncated": (
            np.zeros_like(terminated) if truncates is None else as_flags("truncates", truncates, len(env_ids))
        ),
        "next_states": _rows("next_states", states if next_states is None else next_states, env_ids),
        "state_values": as_floats("state_values", state_values, env_ids),
        "log_probs": as_floats("log_probs", log_probs, env_ids),
    }
    buffer.append(env_ids, **rows)


def _rows(name: str, value: Rows, env_ids: Ids) -> Array:
    """Finite numbers, [G, ...]."""
    rows = require_rows(name, as_array(name, value), len(env_ids))
    require_finite(name, rows, env_ids)
    return rows


def buffer_to_target_buffer_transfer(buffer: VecMemory, memory: list[Rollout]) -> None:
    """Move all episodes of a buffer to the memory of a `PPO`; the buffer is empty afterwards.

    Args:
        buffer: filled by `buffer_append`.
        memory: `ppo.memory`.

    Raises:
        ValueError: the buffer is empty.
    """
    memory.append(buffer.take())
