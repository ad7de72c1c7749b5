"""A pool whose workers break answers as if nothing had happened, or says which episodes are lost."""

import os
import signal

import numpy as np
import pytest
from helpers import Expected, Forgetful, Lives, children, factory_of, faulty

from workers.envs import env_factory
from workers.episode_record import NO_CALLS
from workers.errors import WorkerDied, WorkerEnvFailed
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool, Recovery
from workers.rows import pack
from workers.testing import CompositeProbe, FaultWrapper, ProbeEnv

pytestmark = [
    pytest.mark.usefixtures("leaves_nothing"),
    pytest.mark.filterwarnings("ignore:worker .* it is started again"),
]

N = 4  # envs 0 and 1 on worker 0, envs 2 and 3 on worker 1
ALL = np.arange(N)
SEEDS = np.array([57, 58, 59, 50])  # episodes of 10, 11, 12 and 3 steps


def pool_of(factory, transport="shared", lost=None, **options):
    limits = {name: options.pop(name) for name in ("max_restarts", "replay_limit") if name in options}
    pool = ProcessPool(factory, N, 2, transport=transport, **{"step_timeout": 20.0} | options)
    return RecoveringPool(pool, Recovery(**limits), [].append if lost is None else lost.append)


def actions_for(env_ids, t):
    return (3 * env_ids + t) % 5


def play(pool, expected=None, seeds=SEEDS, before_step=lambda t: None):
    """One whole episode of every env; every row is verified. The batches of all steps."""
    expected = Expected(N) if expected is None else expected
    pool.reset(ALL, seeds)
    expected.check_reset(pool.recv(), ALL.tolist(), seeds.tolist())
    env_ids, t = ALL, 0
    while len(env_ids):
        before_step(t)
        actions = actions_for(env_ids, t)
        pool.send(env_ids, actions)
        batch = pool.recv()
        expected.check_step(batch, env_ids.tolist(), actions.tolist())
        env_ids, t = env_ids[~batch.ended], t + 1


@pytest.mark.parametrize(
    ("fault", "stage", "at_step", "transport"),
    [
        ("sigkill", "reset", 0, "shared"),
        ("sigkill", "step", 1, "pipe"),
        ("sigkill", "step", 7, "shared"),
        ("os_exit", "step", 7, "pipe"),
        ("raise", "reset", 0, "pipe"),
        ("raise", "step", 7, "shared"),
        ("system_exit", "step", 1, "shared"),
        ("obs_nan", "step", 7, "pipe"),
        ("reward_none", "step", 1, "shared"),
    ],
)
def test_what_breaks_once_changes_nothing(fault, stage, at_step, transport, tmp_path):
    factory = faulty(fault, stage=stage, at_step=at_step, seed=58, once=str(tmp_path / "once"))
    lost = []
    with pool_of(factory, transport, lost) as pool:
        play(pool)
        play(pool, seeds=SEEDS + 10)
        assert pool.restarts == 1
    assert lost == []


@pytest.mark.parametrize("fault", ["hang_gil", "sigstop"])
def test_a_worker_that_hangs_once_changes_nothing(fault, tmp_path):
    factory = faulty(fault, at_step=3, seed=59, once=str(tmp_path / "once"))
    with pool_of(factory, step_timeout=1.0) as pool:
        play(pool)
        assert pool.restarts == 1


def test_a_worker_that_is_killed_and_then_stopped_changes_nothing(tmp_path):
    """Two accidents: its successor is stopped while it repeats the steps."""
    killed, stopped = tmp_path / "killed", str(tmp_path / "stopped")

    def build():
        if killed.exists():
            return FaultWrapper(ProbeEnv(), "sigstop", at_step=2, seed=58, once=stopped)
        return FaultWrapper(ProbeEnv(), "sigkill", at_step=3, seed=58, once=str(killed))

    lost = []
    with pool_of(factory_of(build), lost=lost, step_timeout=2.0) as pool:
        play(pool)
        assert pool.restarts == 2
    assert lost == []


@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_kills_between_steps_change_nothing(transport):
    def kill(t):
        if t % 3:
            return
        pid = pool.worker_pids[t % 2]
        with Lives([pid]) as worker:
            os.kill(pid, signal.SIGKILL)
            assert not worker.alive_after(5.0)

    with pool_of(env_factory(ProbeEnv), transport) as pool:
        play(pool, before_step=kill)
        assert pool.restarts == 4


def test_both_workers_at_once():
    def kill(t):
        for pid in pool.worker_pids if t == 2 else ():
            os.kill(pid, signal.SIGKILL)

    with pool_of(env_factory(ProbeEnv)) as pool:
        play(pool, before_step=kill)
        assert pool.restarts == 2


def test_two_open_commands_of_one_worker_are_answered_in_their_order(tmp_path):
    """Double-buffering: env 0 has answered already when env 1, of the other group, takes the worker along."""
    factory = faulty("sigkill", at_step=2, seed=58, once=str(tmp_path / "once"))
    groups, expected = (ALL[::2], ALL[1::2]), Expected(N)
    with pool_of(factory, "pipe") as pool:
        for group in groups:
            pool.reset(group, SEEDS[group])
        for group in groups:
            expected.check_reset(pool.recv(), group.tolist(), SEEDS[group].tolist())
        for t in range(3):
            for group in groups:
                pool.send(group, actions_for(group, t))
            for group in groups:
                actions = actions_for(group, t)
                expected.check_step(pool.recv(), group.tolist(), actions.tolist())
        assert pool.restarts == 1


@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_the_next_episode_begins_in_the_same_step(transport, tmp_path):
    """With seeds of next episodes; env 3 ends its third step and goes on with seed 61."""
    factory = faulty("sigkill", at_step=1, seed=61, once=str(tmp_path / "once"))
    seeds = np.array([57, 58, 59, 61])

    def batches(pool):
        found = []
        pool.reset(ALL, SEEDS)
        pool.recv()
        for t in range(8):
            pool.send(ALL, actions_for(ALL, t), seeds)
            found.append(pool.recv())
        return found

    with pool_of(factory, transport) as pool, pool_of(env_factory(ProbeEnv), transport) as other:
        for found, wanted in zip(batches(pool), batches(other), strict=True):
            for name in ("obs", "reward", "terminated", "truncated", "lost", "next_obs"):
                np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
        assert (pool.restarts, other.restarts) == (1, 0)


def test_nested_observations_and_actions():
    space = CompositeProbe().action_space
    space.seed(7)

    def batches(kills):
        found = []
        with RecoveringPool(ProcessPool(env_factory(CompositeProbe), 2, 1, step_timeout=20.0)) as pool:
            pool.reset(ALL[:2], SEEDS[:2])
            found.append(pool.recv())
            for t, actions in enumerate(steps):
                if kills and t == 2:
                    os.kill(pool.worker_pids[0], signal.SIGKILL)
                pool.send(ALL[:2], actions)
                found.append(pool.recv())
            assert pool.restarts == kills
        return found

    steps = [np.stack([pack(space, space.sample()) for _ in range(2)]) for _ in range(5)]
    for found, wanted in zip(batches(1), batches(0), strict=True):
        np.testing.assert_array_equal(found.obs, wanted.obs)
        np.testing.assert_array_equal(found.reward, wanted.reward)


# --- episodes that cannot be brought back -------------------------------------------------------------------


def known(episode):
    actions = None if episode.actions is None else episode.actions.tolist()
    return episode.env, episode.seed, episode.steps, actions


def lost_step(pool, t, env_ids=ALL, seeds=None):
    pool.send(env_ids, actions_for(env_ids, t), seeds)
    return pool.recv()


def test_an_env_that_is_no_function_of_its_seed_loses_its_episode(tmp_path):
    lost, path = [], str(tmp_path / "built")
    with pool_of(factory_of(lambda: Forgetful(path)), lost=lost) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        before = lost_step(pool, 0)
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        batch = lost_step(pool, 1)
        assert batch.lost.tolist() == [True, True, False, False]
        assert batch.ended.tolist() == [True, True, False, False]
        np.testing.assert_array_equal(batch.obs[:2], before.obs[:2])
        assert batch.reward[:2].tolist() == [0.0, 0.0]
        later = lost_step(pool, 2, ALL[2:])
        assert later.lost.tolist() == [False, False]
        pool.reset(ALL[:2], SEEDS[:2])  # and then they play on
        pool.recv()
        assert not lost_step(pool, 0, ALL[:2]).lost.any()
    assert [known(one.episode) for one in lost] == [(0, 57, 1, [0]), (1, 58, 1, [3])]
    assert "not a function" in lost[0].reason


def test_a_lost_episode_is_followed_by_the_next_one(tmp_path):
    path = str(tmp_path / "built")
    with pool_of(factory_of(lambda: Forgetful(path))) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        before = lost_step(pool, 0, seeds=SEEDS + 10)
        os.kill(pool.worker_pids[1], signal.SIGKILL)
        batch = lost_step(pool, 1, seeds=SEEDS + 10)
        assert batch.lost.tolist() == [False, False, True, True]
        np.testing.assert_array_equal(batch.obs[2:], before.obs[2:])
        first = Expected(N)
        first.seeds = (SEEDS + 10).tolist()
        np.testing.assert_array_equal(batch.next_obs[2, :-1], first.obs(2)[:-1])
        assert not lost_step(pool, 2, seeds=SEEDS + 20).lost.any()


def test_an_episode_that_is_lost_between_two_of_its_steps_says_so_in_the_next(tmp_path):
    """Env 1 is not waited for when the worker breaks in a step of env 0."""
    path = str(tmp_path / "built")
    with pool_of(factory_of(lambda: Forgetful(path))) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        first = lost_step(pool, 0, ALL[:1])
        assert first.lost.tolist() == [True]
        others = lost_step(pool, 0, ALL[1:])
        assert others.lost.tolist() == [True, False, False]
        assert not lost_step(pool, 1, ALL[2:]).lost.any()


@pytest.mark.parametrize(
    ("fault", "restarts"), [("sigkill", 5), ("raise", 3), ("obs_nan", 3)]
)  # the first failure, repetitions, and a start without the step that fails
def test_a_step_that_fails_whenever_it_is_taken(fault, restarts):
    lost = []
    with pool_of(faulty(fault, at_step=2, seed=58), lost=lost) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        assert not lost_step(pool, 0).lost.any()
        assert lost_step(pool, 1).lost.tolist() == [False, True, False, False]
        assert not lost_step(pool, 2, ALL[[0, 2, 3]]).lost.any()
        assert pool.restarts <= restarts
    (one,) = lost
    assert known(one.episode) == (1, 58, 2, [3, 4])
    assert ("ValueError: boom" in one.traceback) == (fault == "raise")


def test_an_episode_beyond_the_limit_is_lost_and_memory_is_bounded():
    lost, steps = [], 200
    factory = factory_of(lambda: ProbeEnv(shortest=1000, longest=1000))
    with pool_of(factory, lost=lost, replay_limit=100) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        for t in range(steps):
            lost_step(pool, t)
        assert len(pool._record._steps) <= 64
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        assert lost_step(pool, steps).lost.tolist() == [True, True, False, False]
    assert [(one.episode.env, one.episode.actions) for one in lost] == [(0, None), (1, None)]
    assert "replay_limit" in lost[0].reason


# --- what is not tried for ever -----------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "kind"), [("raise", WorkerEnvFailed), ("sigkill", WorkerDied)])
def test_a_reset_that_fails_whenever_it_is_called_ends_the_run(fault, kind):
    with pool_of(faulty(fault, stage="reset", seed=58)) as pool:
        pool.reset(ALL, SEEDS)
        with pytest.raises(kind, match=r"env 1.*boom" if fault == "raise" else "SIGKILL") as caught:
            pool.recv()
        assert known(caught.value.episode) == (1, 58, 0, None)


def test_a_reset_that_fails_after_a_step_is_to_blame_and_not_the_episode_before_it():
    lost, seeds = [], SEEDS.copy()
    with pool_of(faulty("raise", stage="reset", seed=1234), lost=lost) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        seeds[3] = 1234
        lost_step(pool, 0, seeds=seeds)
        lost_step(pool, 1, seeds=seeds)
        with pytest.raises(WorkerEnvFailed, match="boom") as caught:
            lost_step(pool, 2, seeds=seeds)
    assert known(caught.value.episode) == (3, 1234, 0, None)
    assert [known(one.episode) for one in lost] == [(3, 1234, 0, None)]


def test_an_env_that_fails_in_every_episode_ends_the_run():
    def play_on(pool):
        for episode in range(10):
            pool.reset(ALL[:1], SEEDS[:1] + episode)
            pool.recv()
            for t in range(2):
                lost_step(pool, t, ALL[:1])

    with pool_of(faulty("raise", at_step=2)) as pool:
        with pytest.raises(WorkerEnvFailed, match=r"step 2.*boom") as caught:
            play_on(pool)
        assert "boom" in caught.value.traceback
        assert known(caught.value.episode) == (0, 60, 2, [0, 1])


def test_a_constructor_that_fails_at_the_second_start(tmp_path):
    def build():
        with open(path, "a+", encoding="ascii") as file:
            file.write("built\n")
            file.seek(0)
            if len(file.readlines()) > N:
                raise ValueError("only once")
        return ProbeEnv()

    path = str(tmp_path / "built")
    with pool_of(factory_of(build)) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        with pytest.raises(WorkerEnvFailed, match="only once"):
            lost_step(pool, 0)
        assert pool.restarts == 3


def test_processes_that_are_killed_while_they_start(tmp_path):
    """Four in a row: whoever kills at random may hit a start again and again."""

    def build():
        with open(path, "a+", encoding="ascii") as file:
            file.write("built\n")
            file.seek(0)
            built = len(file.readlines())
        if N < built <= N + 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return ProbeEnv()

    path = str(tmp_path / "built")
    with pool_of(factory_of(build)) as pool:
        play(pool, before_step=lambda t: t == 1 and os.kill(pool.worker_pids[0], signal.SIGKILL))
        assert pool.restarts == 5


def test_the_budget():
    with pool_of(env_factory(ProbeEnv), max_restarts=2) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        for t in range(2):
            os.kill(pool.worker_pids[0], signal.SIGKILL)
            lost_step(pool, t)
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"SIGKILL.*2 times within ten minutes.*max_restarts"):
            lost_step(pool, 2)


def test_restarts_are_told():
    with pool_of(env_factory(ProbeEnv)) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        with pytest.warns(UserWarning, match=r"worker 0 \(envs 0..1\) died with signal SIGKILL.*again"):
            lost_step(pool, 0)


def test_restarts_leave_nothing():
    with pool_of(env_factory(ProbeEnv)) as pool:
        pool.reset(ALL, SEEDS)
        pool.recv()
        processes, descriptors = len(children(os.getpid())), len(os.listdir("/proc/self/fd"))
        for t in range(2):
            os.kill(pool.worker_pids[1], signal.SIGKILL)
            lost_step(pool, t)
        assert len(children(os.getpid())) == processes
        assert len(os.listdir("/proc/self/fd")) == descriptors


# --- episodes from elsewhere --------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_envs_are_brought_into_the_middle_of_episodes(transport):
    expected = Expected(N)
    expected.seeds = SEEDS.tolist()
    expected.actions = [[1, 2], [3, 4, 0], [], [1]]
    episodes = [
        (env, int(SEEDS[env]), np.array(expected.actions[env], np.int64), expected.obs(env), NO_CALLS)
        for env in range(N)
    ]
    with pool_of(env_factory(ProbeEnv), transport) as pool:
        assert pool.restore(episodes).tolist() == []
        for t in range(2):
            if t:
                os.kill(pool.worker_pids[0], signal.SIGKILL)
            batch = lost_step(pool, t, ALL[:3])
            expected.check_step(batch, [0, 1, 2], actions_for(ALL[:3], t).tolist())


def test_an_episode_that_leads_elsewhere_is_lost():
    expected = Expected(N)
    episodes = [
        (0, 57, np.array([1, 2]), expected.obs(0), NO_CALLS),  # shows something else
        (3, 50, np.array([1, 2, 3, 4]), expected.obs(0), NO_CALLS),  # ends after three steps
    ]
    with pool_of(env_factory(ProbeEnv)) as pool:
        assert pool.restore(episodes).tolist() == [0, 3]
        play(pool)


# --- the start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["sigkill", "os_exit"])
def test_a_worker_that_dies_before_its_envs_are_built_is_started_again(fault, tmp_path):
    factory = faulty(fault, stage="init", once=str(tmp_path / "once"))
    with ProcessPool(factory, N, 2, step_timeout=20.0, spare_starts=1) as pool:
        pool.reset(ALL, SEEDS)
        Expected(N).check_reset(pool.recv(), ALL.tolist(), SEEDS.tolist())


def test_a_worker_that_dies_at_every_start_ends_the_pool():
    with pytest.raises(WorkerDied, match="during 'start'"):
        ProcessPool(faulty("sigkill", stage="init"), N, 2, spare_starts=2)
