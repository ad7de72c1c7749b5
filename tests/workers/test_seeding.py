import numpy as np
import pytest

from workers.seeding import Stream, episode_seed, evaluation_seed, generator


def test_seeds_never_change():
    # Recorded once. Another number here breaks the resumption of every run that is stored somewhere.
    assert [episode_seed(1, 0, 0), episode_seed(1, 0, 1), episode_seed(1, 1, 0), episode_seed(2, 0, 0)] == [
        841291577,
        1392381825,
        121559155,
        1743286643,
    ]


def test_seeds_are_plain_ints_that_every_simulator_accepts():
    seeds = [episode_seed(run, env, 0) for run in (0, 1, 2**63) for env in range(100)]
    assert {type(seed) for seed in seeds} == {int}
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert max(seeds) >= 2**30  # all 31 bits are in use


def test_seeds_of_a_run_are_distinct():
    seeds = {episode_seed(7, env, episode) for env in range(64) for episode in range(64)}
    # Among 4096 draws of 31 bits, 0.004 collisions are to be expected.
    assert len(seeds) == 64 * 64


def test_neither_env_and_episode_nor_run_and_env_can_be_exchanged():
    assert (
        len({episode_seed(3, 5, 7), episode_seed(3, 7, 5), episode_seed(5, 3, 7), episode_seed(7, 5, 3)}) == 4
    )


def test_the_global_generator_is_neither_used_nor_touched():
    np.random.seed(0)  # noqa: NPY002 - that is what the test is about
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = episode_seed(1, 2, 3)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert episode_seed(1, 2, 3) == first


def test_a_negative_run_seed_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        episode_seed(-1, 0, 0)


@pytest.mark.parametrize(
    ("stream", "counters", "key"),
    [
        (Stream.EPISODE, (5, 7), (0, 5, 7)),
        (Stream.NOISE, (3, 1), (1, 3, 1)),
        (Stream.NOISE, (), (1,)),
        (Stream.SHUFFLE, (2,), (2, 2)),
        (Stream.WARM_UP, (0,), (3, 0)),
        (Stream.EVALUATION, (), (4,)),
    ],
)
def test_the_numbers_of_each_stream_never_change(stream, counters, key):
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(11, spawn_key=key)))
    assert generator(11, stream, *counters).integers(2**63, size=4).tolist() == (
        expected.integers(2**63, size=4).tolist()
    )


def test_each_call_makes_a_new_generator():
    first = generator(1, Stream.NOISE, 0, 0)
    first.random(10)
    assert generator(1, Stream.NOISE, 0, 0).random() != first.random()
    assert generator(1, Stream.NOISE, 0, 0).random() == generator(1, Stream.NOISE, 0, 0).random()


def test_the_seed_of_evaluations_never_changes():
    assert [evaluation_seed(0), evaluation_seed(1)] == [16732062099500631801, 11724249445994358946]
