"""Seeds of episodes: a pure function, so that any episode can be started again by anyone."""

from __future__ import annotations

import numpy as np

_EPISODE_STREAM = 0  # keeps these seeds apart from every other stream that is derived from the run seed


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """The seed that `reset` gets for episode `episode` of env `env_index`.

    The result lies in [0, 2**31), which every simulator accepts. It depends on nothing but the
    arguments: not on the number of workers, not on what other envs do.
    """
    sequence = np.random.SeedSequence(run_seed, spawn_key=(_EPISODE_STREAM, env_index, episode))
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)
