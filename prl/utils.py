"""Helpers of the custom loop: the mask of finished envs, and the per-env buffers.

In all of them `True` in a mask means that the env has *finished* its episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from learner.store import Rollout
    from prl.custom_loop import VecMemory

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Rows: TypeAlias = "Array | torch.Tensor"


def inactive_states_dropout(states: Rows, finished: Rows) -> Array:
    """The rows of envs that go on.

    Args:
        states: [G, *O], the observations that the last step returned.
        finished: bool[G], `dones | truncates` of the same step.

    Returns:
        [H, *O], H <= G.
    """
    states, gone = np.asarray(states), np.asarray(finished, np.bool_)
    if len(states) != len(gone):
        raise ValueError(f"{len(states)} states do not fit {len(gone)} flags of finished envs")
    rows: Array = states[~gone]
    return rows


def update_active_environments_list(envs_active: Rows, finished: Rows) -> Flags:
    """The mask after a step.

    Args:
        envs_active: bool[N], before the step; True means finished.
        finished: bool[G], for the G envs that were still playing, in env order.

    Returns:
        bool[N], a new array.
    """
    mask, ended = np.array(envs_active, np.bool_), np.asarray(finished, np.bool_)
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

    With `truncates` and `next_states` an episode that a time limit cut is bootstrapped from the value of
    its final observation, as it should be. Without `next_states` the last state stands in for it; without
    `truncates` such an episode is only recognised, and treated so, when the buffer is transferred.

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
        ValueError: the numbers of rows do not fit together.
    """
    if num_envs != buffer.num_envs:
        raise ValueError(f"num_envs is {num_envs}, but the buffer was made for {buffer.num_envs}")
    env_ids = np.flatnonzero(~np.asarray(is_env_terminal, np.bool_))
    terminated = np.asarray(dones, np.bool_)
    rows = {
        "states": np.asarray(states),
        "actions": np.asarray(actions),
        "rewards": np.asarray(rewards, np.float32),
        "terminated": terminated,
        "truncated": np.zeros_like(terminated) if truncates is None else np.asarray(truncates, np.bool_),
        "next_states": np.asarray(states if next_states is None else next_states),
        "state_values": np.asarray(state_values, np.float32).reshape(-1),
        "log_probs": np.asarray(log_probs, np.float32).reshape(-1),
    }
    for name, value in rows.items():
        if len(value) != len(env_ids):
            raise ValueError(f"{name} has {len(value)} rows, but {len(env_ids)} envs were playing")
    buffer.append(env_ids, **rows)


def buffer_to_target_buffer_transfer(buffer: VecMemory, memory: list[Rollout]) -> None:
    """Move all episodes of a buffer to the memory of a `PPO`; the buffer is empty afterwards.

    Args:
        buffer: filled by `buffer_append`.
        memory: `ppo.memory`.

    Raises:
        ValueError: the buffer is empty.
    """
    memory.append(buffer.take())
