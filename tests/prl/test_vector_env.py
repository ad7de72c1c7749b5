"""prl's workers behind Gymnasium's interface for vector envs."""

import functools
import multiprocessing
import os
import signal
import time
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from adapter_envs import Breaks, Composite, Custom, CustomError, Talker, assert_same
from adapter_equality import KINDS, POOLS, N, check_equal
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import prl
from workers.data_pickle import NotData
from workers.errors import EnvError, WorkerDied, WorkerEnvFailed
from workers.remote_envs import EnvCallError
from workers.testing import ProbeEnv

# A busy machine must not make warnings out of workers that take their time to end.
VectorEnv = functools.partial(prl.VectorEnv, close_timeout=60.0)
pytestmark = pytest.mark.usefixtures("carried_by_value", "leaves_nothing")
TALKERS = KINDS["talker"]


@pytest.mark.parametrize("pool", POOLS)
def test_it_equals_sync_vector_env_on_any_pool(pool):
    check_equal("talker", [pool], 100)


@pytest.mark.parametrize("kind", ["statistics", "dict", "tuple", "cartpole", "cheetah"])
def test_it_equals_sync_vector_env_for_any_env(kind):
    if kind == "cheetah":
        pytest.importorskip("mujoco")
    check_equal(kind, ["local", "pipe-2", "shared-2"], 100)


@pytest.fixture
def env():
    with_env = VectorEnv(TALKERS, num_workers=2)
    yield with_env
    with_env.close()


@pytest.fixture
def local():
    """Without processes, where those do not matter."""
    with_env = VectorEnv(TALKERS, num_workers=0)
    yield with_env
    with_env.close()


def test_attributes_are_those_of_sync_vector_env(local):
    sync = SyncVectorEnv(TALKERS)
    for name in ("num_envs", "observation_space", "action_space", "single_observation_space"):
        assert getattr(local, name) == getattr(sync, name), name
    assert local.single_action_space == sync.single_action_space
    assert local.metadata == sync.metadata
    assert "autoreset_mode" not in Talker.metadata
    assert local.autoreset_mode is AutoresetMode.NEXT_STEP
    assert (local.spec, local.render_mode, local.closed) == (None, None, False)
    assert local.unwrapped is local
    assert gym.vector.VectorEnv in prl.VectorEnv.__bases__  # skrl looks at the direct bases


def test_a_partial_reset_leaves_the_other_envs_and_the_options_as_they_are(env):
    obs, _ = env.reset(seed=1)
    mask = np.array([False, True, False, False, True])
    options = {"reset_mask": mask, "level": 3}
    partial, infos = env.reset(options=options)
    assert options.keys() == {"reset_mask", "level"}
    np.testing.assert_array_equal(partial[~mask], obs[~mask])
    assert (partial[mask] != obs[mask]).all()
    np.testing.assert_array_equal(infos["_start"], mask)
    env.reset(options={"reset_mask": mask})
    env.reset(seed=[None, 3, None, None, 4], options={"reset_mask": mask})
    seen = env.get_attr("seen_options")
    assert seen[0] == [None]
    assert seen[1] == [None, {"level": 3}, {}, {}]
    assert env.np_random_seed[1] == 3
    assert env.np_random_seed[0] == 1


def test_a_partial_reset_after_a_reset_in_the_same_step_shows_what_was_shown():
    env = VectorEnv(TALKERS, num_workers=2, shared_memory=False, autoreset_mode="SameStep")
    obs, _ = env.reset(seed=1)
    while True:
        obs, _, terminated, truncated, _ = env.step([0] * N)
        if (ended := np.flatnonzero(terminated | truncated)).size:
            break
    other = (ended[0] + 1) % N
    again, _ = env.reset(options={"reset_mask": np.arange(N) == other})
    np.testing.assert_array_equal(again[np.arange(N) != other], obs[np.arange(N) != other])
    env.close()


def test_wrappers_see_a_partial_reset_as_one(local):
    """A wrapper that finds no mask in the options would forget the sums of all envs."""
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(local)
    wrapped.reset(seed=1)
    wrapped.step([1] * N)
    wrapped.reset(options={"reset_mask": np.arange(N) == 2})
    assert wrapped.episode_lengths.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": [1, 2]}, ValueError, "one seed per env is needed: num_envs=5, got 2"),
        ({"seed": -4}, ValueError, "seeds are at least 0"),
        ({"seed": 1.5}, TypeError, "seed must be None, an integer, or one of these per env, got 1.5"),
        ({"seed": [1, 2, 3.5, 4, 5]}, TypeError, "seed must be None, an integer, or one of these per env"),
        ({"options": 3}, TypeError, "options must be a dict or None, got 3"),
        ({"options": {"reset_mask": [True] * N}}, TypeError, "must be a numpy array, got <class 'list'>"),
        ({"options": {"reset_mask": np.ones(N)}}, TypeError, "must have `dtype=np.bool_`, got float64"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, ValueError, r"must have shape `\(5,\)`, got \(2,\)"),
        ({"options": {"reset_mask": np.zeros(N, bool)}}, ValueError, "at least one True value"),
    ],
)
def test_wrong_seeds_and_masks_are_refused(local, arguments, error, message):
    with pytest.raises(error, match=message):
        local.reset(**arguments)
    local.reset(seed=0)


def test_actions_may_be_lists_and_other_integers(local):
    first = [local.reset(seed=1), local.step(np.array([0, 1, 2, 3, 0]))]
    assert_same(first, [local.reset(seed=1), local.step([0, 1, 2, 3, 0])])
    assert_same(first, [local.reset(seed=1), local.step(np.array([0, 1, 2, 3, 0], np.uint8))])


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        ([0, 1], ValueError, "one action per env is needed: 5, got 2"),
        ([0] * 6, ValueError, "one action per env is needed: 5, got 6"),
        (1, TypeError, "one action per env is needed, got 1"),
        (
            [0, 0.5, 1, 2, 3],
            ValueError,
            r"env 1: the action .*0.5.* does not fit the action space Discrete\(4\)",
        ),
        ([0, 1, 2, 4, 0], ValueError, r"^env 3: the action 4 is not in the action space Discrete\(4\)$"),
        (["a"] * N, TypeError, "one action per env is needed, got"),
        ([[0, 1]] * N, ValueError, r"actions of shape \(5, 2\), expected \(5,\)"),
    ],
)
def test_wrong_actions_are_refused_and_nothing_is_sent(local, actions, error, message):
    local.reset(seed=1)
    with pytest.raises(error, match=message):
        local.step(actions)
    local.step([0] * N)


def test_after_a_refused_action_the_envs_go_on_as_if_it_had_not_been(env):
    sync = SyncVectorEnv(TALKERS)
    assert_same(sync.reset(seed=2), env.reset(seed=2))
    ended = np.zeros(N, bool)
    resets = 0
    for _ in range(30):
        with pytest.raises(ValueError, match=r"env \d: the action 9 is not in"):
            env.step([9] * N)
        # The action of an env that is reset instead is nobody's business.
        actions = np.where(ended, 9, 1)
        resets += ended.any()
        returned = sync.step(actions)
        assert_same(returned, env.step(actions))
        ended = returned[2] | returned[3]
    assert resets
    sync.close()


def test_without_autoreset_an_ended_env_cannot_step():
    env = VectorEnv([functools.partial(Talker, 1)] * 2, num_workers=0, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step([0, 0])
    with pytest.raises(RuntimeError, match=r"envs \[0, 1\] have ended: reset them with a reset_mask first"):
        env.step([0, 0])
    env.reset(options={"reset_mask": np.array([True, True])})
    env.step([0, 0])
    env.close()


def test_results_belong_to_the_caller(local):
    obs, _ = local.reset(seed=1)
    kept = local.step([0] * N)
    copies = [np.array(array) for array in kept[:4]]
    obs += 1
    local.step([1] * N)
    for array, copied in zip(kept[:4], copies, strict=True):
        np.testing.assert_array_equal(array, copied)
        array[...] = 0
    local.reset()


def test_calls_and_attributes(env):
    assert env.call("add", 10, two=5) == (18, 19, 20, 21, 22)
    assert env.call("length") == env.get_attr("length") == (3, 4, 5, 6, 7)
    env.set_attr("length", [1, 2, 3, 4, 5])
    assert env.get_attr("length") == (1, 2, 3, 4, 5)
    env.set_attr("length", 9)
    assert env.get_attr("length") == (9,) * N
    with pytest.raises(ValueError, match="one value per env is needed: 5, got 2"):
        env.set_attr("length", [1, 2])
    frames = env.render()
    assert len(frames) == N
    assert frames[0].tolist() == np.full((2, 2, 3), 9).tolist()
    with pytest.raises(ValueError, match="reset is not called in each env by itself"):
        env.call("reset")


def test_what_an_env_raises_in_a_call_comes_back_and_the_workers_live_on(env):
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    with pytest.raises(ValueError, match=r"^it was asked to$") as raised:
        env.call("fail")
    assert "in fail" in str(raised.value.__cause__)  # the traceback of the worker
    with pytest.raises(EnvCallError, match=r"^CustomError: it was asked to$"):
        env.call("fail", CustomError)
    with pytest.raises(NotData, match=r"adapter_envs.Custom, which is not plain data: any_objects=True"):
        env.call("make_object")
    with pytest.raises((TypeError, AttributeError, EnvCallError)):
        env.get_attr("_unpicklable.nothing")
    env.reset(seed=0)


def test_any_objects_come_back_if_they_are_asked_for():
    env = VectorEnv(TALKERS, num_workers=1, any_objects=True)
    assert [type(value) for value in env.call("make_object")] == [Custom] * N
    env.close()


def test_without_infos_there_are_none():
    env = VectorEnv(TALKERS, num_workers=0, infos=False)
    assert env.reset(seed=0)[1] == {}
    assert env.step([0] * N)[4] == {}
    env.close()


def test_the_asynchronous_verbs(env):
    env.reset_async(seed=3)
    with pytest.raises(AlreadyPendingCallError, match=r"Calling `step_async` while waiting for a .* `reset`"):
        env.step_async([0] * N)
    with pytest.raises(NoAsyncCallError, match="Calling `call_wait` without any prior call to `call_async`"):
        env.call_wait()
    first = env.reset_wait(timeout=60)
    assert_same(first, env.reset(seed=3))
    env.step_async([0] * N)
    with pytest.raises(AlreadyPendingCallError):
        env.reset()
    env.step_wait()
    with pytest.raises(NoAsyncCallError, match="Calling `step_wait` without any prior call"):
        env.step_wait()
    env.call_async("length")
    assert env.call_wait(timeout=60) == (3, 4, 5, 6, 7)


class Waits(Talker):
    """Sleeps in `step` until a byte lies in a pipe that a test writes."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def step(self, action):
        with open(self.path, "rb") as pipe:  # waits for a writer
            pipe.read(1)
        return super().step(action)


def test_a_wait_that_timed_out_can_be_repeated(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    env = VectorEnv([functools.partial(Waits, str(path))], num_workers=1)
    env.reset(seed=0)
    env.step_async([0])
    with pytest.raises(multiprocessing.TimeoutError, match=r"step_wait has timed out after 0.01 s"):
        env.step_wait(timeout=0.01)
    path.write_bytes(b"x")
    assert env.step_wait(timeout=60)[0].shape == (1, 3)
    env.close()


def test_close_ends_a_step_that_hangs(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    env = VectorEnv([functools.partial(Waits, str(path))] * 2, num_workers=2, close_timeout=0.5)
    env.reset(seed=0)
    env.step_async([0, 0])
    start = time.monotonic()
    with pytest.warns(UserWarning, match="Calling `close` while waiting for a pending call to `step`"):
        env.close()
    assert time.monotonic() - start < 20
    env.close()
    assert env.closed
    for method in (env.reset, env.render, functools.partial(env.step, [0, 0]), env.step_wait):
        with pytest.raises(ClosedEnvironmentError):
            method()


def test_an_env_that_breaks_is_named_and_ends_all_workers():
    env = VectorEnv([Talker, Talker, Breaks], num_workers=2)
    env.reset(seed=0)
    with pytest.raises(WorkerEnvFailed, match=r"env 2, seed 2, step 1: step\(3\) raised RuntimeError: it"):
        env.step([3, 3, 3])
    assert env.closed


VERBS = {
    "step": lambda env: env.step([0] * N),
    "reset": lambda env: env.reset(),
    "partial reset": lambda env: env.reset(options={"reset_mask": np.arange(N) == 4}),
    "call": lambda env: env.call("add", 1),
    "set_attr": lambda env: env.set_attr("length", 5),
}


def killed(env, worker):
    os.kill(env._envs.pool.worker_pids[worker], signal.SIGKILL)
    return time.monotonic()


@pytest.mark.parametrize(("verb", "shared"), [*((verb, True) for verb in VERBS), ("step", False)])
def test_a_killed_worker_is_an_error_at_once(verb, shared):
    env = VectorEnv(TALKERS, num_workers=2, shared_memory=shared)
    env.reset(seed=0)
    start = killed(env, worker=1)
    with pytest.raises(WorkerDied, match=r"worker 1 \(envs 2..4\) died with signal SIGKILL"):
        VERBS[verb](env)
    env.close()
    assert time.monotonic() - start < 5
    assert env.closed
    with pytest.raises(ClosedEnvironmentError, match="an env or worker that fails closes it, too"):
        VERBS[verb](env)


def step_again(env):
    env.step_wait()
    env.step([0] * N)


def test_a_worker_that_is_killed_while_it_answers_is_an_error_at_once():
    env = VectorEnv(TALKERS, num_workers=2)
    env.reset(seed=0)
    env.step_async([0] * N)
    start = killed(env, worker=0)
    with pytest.raises(WorkerDied, match=r"worker 0 \(envs 0..1\) died with signal SIGKILL"):
        step_again(env)  # the answer may have been there before
    assert time.monotonic() - start < 5
    assert env.closed


def test_a_function_that_cannot_be_sent_is_named(tmp_path):
    with open(tmp_path / "file", "w") as file, pytest.raises(EnvError, match=r"^env_fns\[1\] cannot be sent"):
        VectorEnv([Talker, functools.partial(Talker, handle=file)], num_workers=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"env_fns": []}, ValueError, "the list of functions is empty"),
        ({"env_fns": [3]}, EnvError, "a list of functions is needed .* one is a int"),
        ({"env_fns": [Talker, Composite]}, WorkerEnvFailed, "env 1: its observation_space is Dict"),
        ({"worker": print}, ValueError, "worker must be None"),
        ({"max_concurrency": 0}, ValueError, "`max_concurrency` must be a positive"),
        ({"env_fns": Talker}, EnvError, "a list of functions is needed that return an env each, not <class"),
        ({"env_fns": "CartPole-v1"}, EnvError, "a list of functions is needed .*, not 'CartPole-v1'"),
        ({"num_workers": -1}, ValueError, "num_workers must be None or an integer of at least 0, got -1"),
        ({"num_workers": 1.5}, ValueError, "num_workers must be None or an integer of at least 0, got 1.5"),
        ({"step_timeout": -1}, ValueError, "step_timeout must be a number of seconds above 0, got -1"),
        ({"close_timeout": "2"}, ValueError, "close_timeout must be a number of seconds above 0, got '2'"),
        ({"autoreset_mode": "Never"}, ValueError, "Never"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VectorEnv(**{"env_fns": [Talker], "num_workers": 0, **arguments})


def test_a_step_before_the_first_reset_costs_nothing():
    with closing(VectorEnv([ProbeEnv, ProbeEnv], num_workers=1)) as envs:
        with pytest.raises(ResetNeeded, match=r"envs \[0, 1\]: call reset"):
            envs.step(np.zeros(2, np.int64))
        envs.reset(seed=1, options={"reset_mask": np.array([True, False])})
        with pytest.raises(ResetNeeded, match=r"envs \[1\]: call reset"):
            envs.step(np.zeros(2, np.int64))
        envs.reset(seed=1)
        envs.step(np.zeros(2, np.int64))
