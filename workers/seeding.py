"""All randomness of a run, as pure functions of its seed: any part of a run can be repeated by itself.

No generator is kept between rounds, so there is no generator state to save. Whoever needs random numbers
makes a new generator from the run seed, a stream and counters (round, group, iteration, ...).
"""

from __future__ import annotations

import enum

import numpy as np

NO_SEED = -1
"""In place of a seed: `reset` gets none, and the env's generators go on."""


class Stream(enum.IntEnum):
    """What random numbers are for. Streams of one seed are independent of each other.

    The values are part of what a seed means: changing one changes the results of every run.
    """

    EPISODE = 0
    """Seeds of the episodes; counters: env, episode."""
    NOISE = 1
    """Noise of the actions; counters: round, group. Of an evaluation episode's own seed: no counters."""
    SHUFFLE = 2
    """Order of the minibatches; counter: iteration."""
    WARM_UP = 3
    """Noise of the actions before the first update; counter: group."""
    EVALUATION = 4
    """The seed of the evaluations of a run; no counters."""
    TUNING = 5
    """What settings a study tries; counter: trial."""


def seed_sequence(seed: int, stream: Stream, *counters: int) -> np.random.SeedSequence:
    """The NumPy seed sequence of one stream of a seed.

    Args:
        seed: of a run, or of an episode; at least 0.
        stream: what the numbers are for.
        counters: which of the stream's generators; each at least 0.

    Raises:
        ValueError: a number is negative.
    """
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *counters))


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """A new generator that depends on nothing but the arguments; see `seed_sequence`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, stream, *counters)))


def episode_seed(run_seed: int, env_index: int, episode: int) -> int:
    """The seed that `reset` gets for episode `episode` of env `env_index`.

    The result lies in [0, 2**31), which every simulator accepts. It depends on nothing but the
    arguments: not on the number of workers, not on what other envs do.
    """
    sequence = seed_sequence(run_seed, Stream.EPISODE, env_index, episode)
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)


def evaluation_seed(run_seed: int) -> int:
    """The seed, in [0, 2**64), below which the episodes of a run's evaluations get theirs."""
    return int(seed_sequence(run_seed, Stream.EVALUATION).generate_state(1, np.uint64)[0])
