"""What every pool promises. A new pool starts by joining `POOLS`."""

import numpy as np
import pytest
from helpers import Expected, factory_of, faulty

from workers.envs import env_factory
from workers.errors import WorkerEnvFailed
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool
from workers.rows import RowCodec, pack, row_bytes
from workers.seeding import episode_seed
from workers.testing import CompositeProbe, FaultWrapper, ProbeEnv, composite_of, probe_obs

N = 7  # neither 2 nor 3 divides it

POOLS = {
    "inline": InlinePool,
    **{
        f"{transport}-{workers}": lambda factory, num_envs, transport=transport, workers=workers: ProcessPool(
            factory, num_envs, workers, transport=transport, step_timeout=20.0
        )
        for transport in ("pipe", "shared")
        for workers in (1, 2, 3)
    },
    "recovering-2": lambda factory, num_envs: RecoveringPool(
        ProcessPool(factory, num_envs, 2, step_timeout=20.0)
    ),
}
# Where each test starts a pool of its own, not every number of workers has to do it: it takes 0.3 s.
SOME_POOLS = tuple(name for name in POOLS if name not in ("pipe-2", "shared-1", "shared-3"))
# Pools that do not recover: what fails in them ends the run.
FAILING_POOLS = tuple(name for name in SOME_POOLS if not name.startswith("recovering"))
failing_pools = pytest.mark.parametrize(
    "make_pool", [POOLS[name] for name in FAILING_POOLS], ids=FAILING_POOLS
)
some_pools = pytest.mark.parametrize("make_pool", [POOLS[name] for name in SOME_POOLS], ids=SOME_POOLS)


@pytest.fixture(scope="module", params=POOLS.values(), ids=POOLS.keys())
def pool(request):
    """One pool for many tests: each starts with a reset and leaves no command unanswered."""
    with request.param(env_factory(ProbeEnv), N) as pool:
        yield pool


def ids(*env_ids):
    return np.array(env_ids, np.int64)


def actions_for(env_ids, step):
    """Another action for each env and each step."""
    return (3 * np.asarray(env_ids) + step) % 5


def reset_all(pool, expected, run_seed=1, episode=0):
    seeds = [episode_seed(run_seed, env, episode) for env in range(N)]
    pool.reset(ids(*range(N)), seeds)
    expected.check_reset(pool.recv(), range(N), seeds)


def step(pool, expected, env_ids, t):
    actions = actions_for(env_ids, t)
    pool.send(env_ids, actions)
    batch = pool.recv()
    expected.check_step(batch, env_ids, actions)
    return batch


def test_whole_episodes_row_by_row(pool):
    """A round: ended envs leave the batch, which gets smaller until nobody plays."""
    expected = Expected(N)
    for episode in range(2):
        reset_all(pool, expected, run_seed=5, episode=episode)
        active, t = ids(*range(N)), 0
        while len(active):
            batch = step(pool, expected, active, t)
            active, t = active[~batch.ended], t + 1
        assert t > 3  # the longest episode: the loop was worth its name


def test_with_next_seeds_an_env_goes_on_with_its_next_episode(pool):
    """No env leaves the batch: `obs` is the final observation, `next_obs` the first of the next episode."""
    expected = Expected(N)
    reset_all(pool, expected)
    everyone, episode, ends = ids(*range(N)), [0] * N, 0
    for t in range(40):
        seeds = [episode_seed(1, env, episode[env] + 1) for env in range(N)]
        pool.send(everyone, actions_for(everyone, t), seeds)
        batch = pool.recv()
        expected.check_step(batch, everyone, actions_for(everyone, t))
        for env in range(N):
            if batch.ended[env]:
                episode[env], ends = episode[env] + 1, ends + 1
                expected.seeds[env], expected.actions[env] = seeds[env], []
            np.testing.assert_array_equal(batch.next_obs[env], expected.obs(env))
    assert ends > 2 * N


def test_without_next_seeds_there_is_no_next_observation(pool):
    expected = Expected(N)
    reset_all(pool, expected)
    assert step(pool, expected, ids(*range(N)), 0).next_obs is None


def test_envs_that_get_no_command_stay_where_they_are(pool):
    expected = Expected(N)
    reset_all(pool, expected)
    step(pool, expected, ids(1, 4, 6), 0)
    step(pool, expected, ids(0), 1)
    step(pool, expected, ids(*range(N)), 2)  # would show any step too many or too few


def test_some_envs_are_reset_while_others_are_within_an_episode(pool):
    expected = Expected(N)
    reset_all(pool, expected)
    step(pool, expected, ids(*range(N)), 0)
    pool.reset(ids(2, 5), [11, 12])
    expected.check_reset(pool.recv(), [2, 5], [11, 12])
    step(pool, expected, ids(*range(N)), 1)


def test_answers_come_in_the_order_of_the_commands(pool):
    """Two groups in flight, as in double-buffering, and commands of both kinds."""
    expected = Expected(N)
    even, odd = ids(0, 2, 4, 6), ids(1, 3, 5)
    pool.reset(odd, [21, 23, 25])
    pool.reset(even, [20, 22, 24, 26])
    expected.check_reset(pool.recv(), odd, [21, 23, 25])
    for t in range(3):
        pool.send(odd, actions_for(odd, t))
        if t == 0:
            expected.check_reset(pool.recv(), even, [20, 22, 24, 26])
        else:
            expected.check_step(pool.recv(), even, actions_for(even, t))
        pool.send(even, actions_for(even, t + 1))
        expected.check_step(pool.recv(), odd, actions_for(odd, t))
    expected.check_step(pool.recv(), even, actions_for(even, 3))


def test_a_command_for_no_env_has_an_empty_answer(pool):
    expected = Expected(N)
    reset_all(pool, expected)
    pool.send(ids(), np.zeros(0, np.int64))
    expected.check_step(pool.recv(), [], [])
    step(pool, expected, ids(*range(N)), 0)


def test_a_batch_does_not_change_any_more(pool):
    expected = Expected(N)
    reset_all(pool, expected)
    first = step(pool, expected, ids(*range(N)), 0)
    kept = {name: getattr(first, name).copy() for name in ("env_ids", "obs", "reward", "terminated")}
    step(pool, expected, ids(*range(N)), 1)
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)


def test_the_actions_belong_to_the_caller_again_after_send(pool):
    expected = Expected(N)
    reset_all(pool, expected)
    actions = actions_for(range(N), 0)
    sent = actions.copy()
    pool.send(ids(*range(N)), actions)
    actions[:] = 0
    expected.check_step(pool.recv(), range(N), sent)


def test_recv_without_a_command_is_an_error(pool):
    with pytest.raises(RuntimeError, match="without an open command"):
        pool.recv(timeout=0.1)


LAYOUTS = {
    "bytes": ((3, 5, 2), "uint8"),
    "scalar": ((), "int64"),
    "doubles": ((2, 3), "float64"),
    # 196 kB per env: a frame of any worker is larger than what a pipe holds.
    "image": ((256, 256, 3), "uint8"),
}


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *((layout, name) for layout in LAYOUTS for name in ("inline", "pipe-1", "shared-2")),
        *((layout, name) for layout in ("bytes", "image") for name in ("pipe-3", "recovering-2")),
    ],
)
@pytest.mark.usefixtures("leaves_nothing")
def test_layouts_and_box_actions(layout, name):
    """Every layout here and over either transport; small and large rows in the other pools, too."""
    make_pool, (shape, dtype) = POOLS[name], LAYOUTS[layout]
    expected = Expected(N, shape, dtype)
    factory = env_factory(ProbeEnv, env_kwargs={"shape": shape, "dtype": dtype, "box_action": True})
    with make_pool(factory, N) as pool:
        reset_all(pool, expected)
        for t in range(2):
            actions = np.linspace(-2.0, 2.0, 2 * N, dtype=np.float32).reshape(N, 2) / (t + 1)
            pool.send(ids(*range(N)), actions)
            expected.check_step(pool.recv(), range(N), actions)


class ExpectedComposite(Expected):
    """What N `CompositeProbe`s must answer, in rows."""

    def __init__(self, num_envs, space):
        super().__init__(num_envs, (row_bytes(space),), "uint8")
        self.codec = RowCodec(space)

    def obs(self, env):
        code = probe_obs(self.seeds[env], self.actions[env], dtype="uint8")
        return self.codec.pack(composite_of(code))


@some_pools
@pytest.mark.usefixtures("leaves_nothing")
def test_nested_observations_and_actions(make_pool):
    """The env refuses actions that are not made as Gymnasium makes them, and certifies the others."""
    factory = env_factory(CompositeProbe)
    expected = ExpectedComposite(N, factory.observation_space)
    space = factory.action_space
    space.seed(1)
    with make_pool(factory, N) as pool:
        everyone, episode, ends = ids(*range(N)), [0] * N, 0
        reset_all(pool, expected)
        for _ in range(15):
            actions = np.stack([pack(space, space.sample()) for _ in range(N)])
            seeds = [episode_seed(1, env, episode[env] + 1) for env in range(N)]
            pool.send(everyone, actions, seeds)
            batch = pool.recv()
            expected.check_step(batch, everyone, actions)
            for env in np.flatnonzero(batch.ended):
                episode[env], ends = episode[env] + 1, ends + 1
                expected.seeds[env], expected.actions[env] = seeds[env], []
            np.testing.assert_array_equal(batch.next_obs, [expected.obs(env) for env in range(N)])
        pool.send(ids(1, 4), actions[[1, 4]])
        expected.check_step(pool.recv(), ids(1, 4), actions[[1, 4]])
    assert ends > N


@some_pools
@pytest.mark.usefixtures("leaves_nothing")
def test_masks_and_wrappers_travel_with_the_factory(make_pool):
    wrappers = ["gymnasium.wrappers:TimeAwareObservation(flatten=False)"]
    factory = env_factory("Taxi-v4", max_episode_steps=3, wrappers=wrappers)
    codec = RowCodec(factory.observation_space)
    env = factory.build()
    with make_pool(factory, 3) as pool:
        pool.reset(ids(0, 1, 2), [7, 8, 9])
        obs = pool.recv().obs
        for row, seed in zip(obs, (7, 8, 9), strict=True):
            np.testing.assert_array_equal(row, codec.pack(env.reset(seed=seed)[0]))
        for t in range(3):
            pool.send(ids(0, 2), np.array([1, t], np.int64))
            batch = pool.recv()
            np.testing.assert_array_equal(batch.obs[1], codec.pack(env.step(t)[0]))
        assert batch.truncated.all()


@some_pools
@pytest.mark.usefixtures("leaves_nothing")
def test_close_with_commands_unanswered_and_twice(make_pool):
    pool = make_pool(env_factory(ProbeEnv), N)
    pool.reset(ids(0, 1, 2), [0, 1, 2])
    pool.reset(ids(3, 4, 5, 6), [3, 4, 5, 6])
    pool.recv()
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.reset(ids(0), [0])
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.send(ids(0), np.zeros(1, np.int64))


@failing_pools
@pytest.mark.usefixtures("leaves_nothing")
def test_an_env_that_raises_is_named(make_pool):
    with make_pool(faulty("raise", at_step=2, seed=104), N) as pool:
        pool.reset(ids(*range(N)), range(100, 100 + N))
        pool.recv()
        pool.send(ids(*range(N)), np.zeros(N, np.int64))
        pool.recv()
        pool.send(ids(*range(N)), np.zeros(N, np.int64))
        with pytest.raises(WorkerEnvFailed, match=r"env 4, seed 104, step 2: step\(0\) raised") as caught:
            pool.recv()
    error = caught.value
    assert "ValueError: boom" in str(error)
    assert "ValueError: boom" in error.traceback
    assert "self._trigger()" in error.traceback  # the line of the env, not only the message
    assert 4 in error.env_ids
    assert error.last_command == "step"


@failing_pools
@pytest.mark.usefixtures("leaves_nothing")
def test_an_env_that_exits_is_an_env_that_fails(make_pool):
    """`sys.exit()` in an env must end neither the training nor a worker without a word."""
    with make_pool(faulty("system_exit", stage="reset", seed=6), N) as pool:
        pool.reset(ids(*range(N)), range(N))
        with pytest.raises(WorkerEnvFailed, match=r"env 6, .*reset\(seed=6\) raised SystemExit: 3"):
            pool.recv()


@some_pools
@pytest.mark.usefixtures("leaves_nothing")
def test_an_env_that_cannot_be_built(make_pool, tmp_path):
    """The first constructor of all succeeds, the others do not: the pool does not start by halves."""
    gate = tmp_path / "gate"
    factory = factory_of(
        lambda: FaultWrapper(ProbeEnv(), "raise", stage="init") if gate.exists() else _Gate(gate)
    )
    with pytest.raises(WorkerEnvFailed, match="its constructor raised ValueError: boom") as caught:
        make_pool(factory, N)
    assert caught.value.last_command == "start"
    assert "ValueError: boom" in caught.value.traceback


class _Gate(ProbeEnv):
    """Once one of these exists, no other can be built."""

    def __init__(self, gate):
        super().__init__()
        gate.touch()


@some_pools
def test_an_env_with_other_spaces_than_the_first_is_refused(make_pool):
    factory = factory_of(lambda: ProbeEnv(shape=(9,)))
    with pytest.raises(WorkerEnvFailed, match=r"env \d: its observation_space is Box.*\(9,\)"):
        make_pool(factory, N)


@some_pools
def test_no_envs_are_refused(make_pool):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_pool(env_factory(ProbeEnv), 0)


def test_no_more_workers_than_envs_are_started():
    with ProcessPool(env_factory(ProbeEnv), 2, 8) as pool:
        assert pool.num_workers == 2
        assert len(set(pool.worker_pids)) == 2
        pool.reset(ids(0, 1), [1, 2])
        Expected(2).check_reset(pool.recv(), [0, 1], [1, 2])
