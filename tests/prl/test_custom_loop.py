"""What a custom loop passes in is checked before it reaches envs, buffers or networks."""

import os
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from changing_envs import Levels
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from prl import PPO, EnvVectorizer, VecMemory, utils
from prl.training.checks import ActionCheck
from workers.data_pickle import NotData
from workers.errors import EnvCallError, WorkerEnvFailed

ENVS = np.array([2, 5, 7])  # the envs that are still playing
TWO = Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))


class Evens(Discrete):
    """A space that allows less than its bounds."""

    def contains(self, x):
        return super().contains(x) and int(x) % 2 == 0


class Angles(gym.Space):
    """A space of another kind."""

    def __init__(self):
        super().__init__((2,), np.float32)

    def contains(self, x):
        return bool(np.abs(x).max() < 3.0)


def rows(space, actions):
    return ActionCheck(space).rows(actions, ENVS)


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (Discrete(3), [0, 1, 2], [0, 1, 2]),
        (Discrete(3, start=-1), np.array([-1, 0, 1], np.int8), [-1, 0, 1]),
        (Discrete(3), [0.0, 1.0, 2.0], [0, 1, 2]),
        (Discrete(3), torch.tensor([2, 1, 0]), [2, 1, 0]),
        (TWO, np.array([[-1, 0], [0, 5], [1, 1]]), [[-1, 0], [0, 5], [1, 1]]),
        (TWO, np.full((3, 2), 0.1), np.full((3, 2), 0.1, np.float32)),
        (TWO, torch.full((3, 2), 0.5, requires_grad=True), np.full((3, 2), 0.5)),
        (TWO, torch.full((3, 2), 0.5, dtype=torch.bfloat16), np.full((3, 2), 0.5)),
        (Box(-np.inf, np.inf, (1,)), np.full((3, 1), 1e9), np.full((3, 1), 1e9)),
        (Box(0, 255, (1,), np.uint8), [[0], [7], [255]], [[0], [7], [255]]),
        (Box(-0.1, 0.1, ()), np.full(3, 0.1), np.full(3, 0.1, np.float32)),
        (MultiDiscrete([3, 2], start=[0, 4]), [[2, 5], [0, 4], [1, 5]], [[2, 5], [0, 4], [1, 5]]),
        (MultiBinary(2), np.array([[True, False]] * 3), [[1, 0]] * 3),
        (Evens(5), [0, 2, 4], [0, 2, 4]),
        (Angles(), np.ones((3, 2)), np.ones((3, 2))),
    ],
)
def test_elements_of_the_space_pass_in_its_dtype(space, actions, expected):
    passed = rows(space, actions)
    assert passed.dtype == space.dtype
    np.testing.assert_array_equal(passed, expected)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (
            Discrete(3),
            [0, 3, 1],
            r"action of env 5 \(row 1\) is 3, but Discrete\(3\) allows only integers from 0 to 2$",
        ),
        (Discrete(3), [0, 1, -1], r"action of env 7 \(row 2\) is -1, but .* from 0 to 2$"),
        (Discrete(3, start=-1), [2, 0, 0], r"action of env 2 .* is 2, but .* from -1 to 1$"),
        (Discrete(3), [0, 1.9, 1], r"env 5 \(row 1\) is 1\.9, but"),
        (Discrete(3), [0, 1, np.nan], r"env 7 \(row 2\) is nan, but"),
        (Discrete(3), [0, np.inf, 1], "is inf, but"),
        (Discrete(3), np.array([0, 2**63, 1], np.uint64), "is 9223372036854775808, but"),
        (Discrete(3), [True, False, True], r"must be of dtype int64 for Discrete\(3\), got bool"),
        (Discrete(3), np.zeros((3, 1), int), r"must have shape \(3,\), .* got shape \(3, 1\)"),
        (Discrete(3), 1, r"must have shape \(3,\), .* got shape \(\)"),
        (Discrete(3), [0, 1], "step got 2 actions, but 3 envs are still playing"),
        (Discrete(3), np.array([0, 1, 2], object), "actions must hold numbers, got ndarray of dtype object"),
        (Discrete(3), ["0", "1", "2"], "actions must hold numbers, got list of dtype <U1"),
        (Discrete(3), [0, 1j, 2], "actions must hold numbers, got list of dtype complex128"),
        (Discrete(3), [None] * 3, "actions must hold numbers"),
        (Discrete(3), np.ma.array([0, 1, 2], mask=[0, 1, 0]), "actions must not have masked elements"),
        (Discrete(3), [[0], [1, 2], [0]], "actions must be an array"),
        (Discrete(3), torch.zeros(3, device="meta"), "actions must be an array: .* meta"),
        (Discrete(3), [torch.zeros((), requires_grad=True)] * 3, "actions must be an array: .* grad"),
        (
            TWO,
            [[0, 0], [0, 0], [0, 5.5]],
            r"action\[1\] of env 7 \(row 2\) is 5\.5, .* from 0\.0 to 5\.0; .* clip",
        ),
        (TWO, np.full((3, 2), np.nan), r"action\[0\] of env 2 \(row 0\) is nan, .* from -1\.0 to 1\.0$"),
        (TWO, np.ones((3, 1)), r"must have shape \(3, 2\)"),
        (TWO, np.ones(3), r"must have shape \(3, 2\)"),
        (TWO, np.ones((3, 2), bool), "must be of dtype float32 for Box"),
        (Box(-np.inf, np.inf, (1,)), [[0], [np.inf], [0]], "is inf, but"),
        (Box(-np.inf, np.inf, (1,)), [[0], [1e300], [0]], r"is 1e\+300, but"),
        (Box(0, 255, (1,), np.uint8), [[0], [300], [0]], "is 300, but .* from 0 to 255"),
        (Box(0, 255, (1,), np.uint8), [[0], [0.5], [0]], r"is 0\.5, but"),
        (MultiDiscrete([3, 2]), [[0, 0], [0, 2], [0, 0]], r"action\[1\] of env 5 .* is 2, .* from 0 to 1$"),
        (MultiBinary(2), [[0, 0], [0, 2], [0, 0]], r"action\[1\] of env 5 .* is 2"),
        (Evens(5), [0, 1, 2], r"action of env 5 \(row 1\) is not in Discrete\(5\): 1"),
        (Angles(), [[0, 1], [2, 9], [0, 0]], r"action of env 5 \(row 1\) is not in .*: \[2\. 9\.\]"),
    ],
)
def test_other_actions_are_refused_with_the_env_and_what_is_allowed(space, actions, message):
    with pytest.raises(ValueError, match=message) as raised:
        rows(space, actions)
    assert "\n" not in str(raised.value)


class Recorder(gym.Env):
    """Shows its last action as its observation; an episode ends when it is the number of the step."""

    observation_space = Box(-np.inf, np.inf, (1,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        self._step = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), "an action that is not in the space has reached the env"
        self._step += 1
        return np.array([action], np.float32), 1.0, bool(action == self._step), False, {}


@pytest.fixture
def env():
    with EnvVectorizer(lambda: Recorder(Discrete(4)), 3, num_workers=0, max_episode_steps=9) as env:
        yield env


def test_a_refused_step_changes_nothing(env):
    env.reset()
    for bad in ([0, 0, 4], [0, 0], [0.5, 0, 0]):
        with pytest.raises(ValueError, match=r"env 2|2 actions|env 0"):
            env.step(bad)
    np.testing.assert_array_equal(env.step([0, 2, 3])[0], [[0], [2], [3]])


def test_rows_belong_to_the_envs_that_still_play(env):
    env.reset()
    _, _, terminated, truncated, _ = env.step([0, 1, 0])
    assert terminated.tolist() == [False, True, False]
    env.envs_active = utils.update_active_environments_list(env.envs_active, terminated | truncated)
    with pytest.raises(ValueError, match=r"action of env 2 \(row 1\) is 9"):
        env.step([0, 9])
    np.testing.assert_array_equal(env.step([0, 3])[0], [[0], [3]])


def test_steps_and_resets_out_of_order(env):
    with pytest.raises(ValueError, match=r"step before the first reset: call reset\(\)"):
        env.step([0, 0, 0])
    env.reset()
    env.step([0, 1, 0])
    with pytest.raises(
        ValueError, match=r"episodes of envs \[1\] are over, .*\.update_active_environments_list"
    ):
        env.step([0, 0, 0])
    env.envs_active = [True] * 3
    with pytest.raises(ValueError, match=r"every env has finished its episode: call reset\(\)"):
        env.step([])
    env.reset()  # all envs play again, whatever the mask was
    assert env.step([0, 0, 0])[0].shape == (3, 1)


def test_an_env_may_be_dropped_before_its_end(env):
    env.reset()
    env.envs_active = torch.tensor([False, True, False])
    assert env.step([2, 3])[0].tolist() == [[2], [3]]


def test_the_mask_can_be_changed_in_place(env):
    env.reset()
    env.envs_active[1] = True
    assert env.step([2, 3])[0].tolist() == [[2], [3]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True, False], r"envs_active must be flags in shape \(3,\), got shape \(2,\)"),
        ([[True], [False], [True]], r"got shape \(3, 1\)"),
        ([0, 1, 2], "envs_active must be true or false, got 2"),
        ([0.0, np.nan, 1.0], "envs_active must be true or false, got nan"),
        (["a", "b", "c"], "envs_active must hold numbers"),
        (None, "envs_active must hold numbers, got NoneType"),
    ],
)
def test_a_mask_that_is_none_is_refused(env, mask, message):
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.envs_active = mask
    assert env.envs_active.tolist() == [False] * 3


class Interrupted(Recorder):
    def step(self, action):
        raise KeyboardInterrupt


def test_after_an_interrupt_no_old_answer_is_taken_for_a_new_one():
    with EnvVectorizer(lambda: Interrupted(Discrete(4)), 2, num_workers=0, max_episode_steps=9) as env:
        env.reset()
        with pytest.raises(KeyboardInterrupt):
            env.step([0, 0])
        with pytest.raises(RuntimeError, match="the pool is closed"):
            env.reset()


class Failing(Recorder):
    def step(self, action):
        raise ValueError("out of order")


def test_errors_of_the_env_and_of_the_loop_differ():
    with EnvVectorizer(lambda: Failing(Discrete(4)), 2, num_workers=0, max_episode_steps=9) as env:
        env.reset()
        with pytest.raises(ValueError, match="is 4, but"):
            env.step([0, 4])
        with pytest.raises(WorkerEnvFailed, match="out of order"):
            env.step([0, 0])


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (
            np.zeros(4),
            r"states must have shape \(G, 4\), got \(4,\); a single state needs .* states\[None\]$",
        ),
        (np.zeros((2, 3)), r"states must have shape \(G, 4\), got \(2, 3\)$"),
        (np.zeros((2, 4, 1)), r"got \(2, 4, 1\)$"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), r"states of row 1 must be finite, got \[ 0\. nan"),
        (np.full((1, 4), 1e300), "states of row 0 must be finite"),
        (torch.full((1, 4), torch.inf), "states of row 0 must be finite"),
        ([["a"] * 4], "states must hold numbers"),
    ],
)
def test_states_that_the_policy_cannot_take(states, message):
    with pytest.raises(ValueError, match=message):
        PPO(False, 2, 4).get_action(states)


def append(buffer, **changes):
    """A step of envs 0 and 2 of 3."""
    row = np.zeros(2, np.float32)
    arguments = {
        "states": np.zeros((2, 4), np.float32),
        "actions": np.array([0, 1]),
        "rewards": row,
        "dones": row.astype(bool),
        "state_values": row,
        "log_probs": row,
        "is_env_terminal": np.array([False, True, False]),
        "num_envs": 3,
    }
    utils.buffer_append(buffer, **(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": np.zeros((1, 4))}, "states has 1 rows, but 2 envs were playing"),
        ({"states": np.zeros((2, 1))}, r"states have rows of shape \(1,\), but the buffer holds \(4,\)"),
        (
            {"next_states": np.zeros((2, 1))},
            r"next_states have rows of shape \(1,\), but the buffer holds \(4,\)",
        ),
        ({"states": np.full((2, 4), np.nan)}, "states of env 0 must be finite"),
        ({"actions": np.array([[0], [1]])}, r"actions have rows of shape \(1,\), but the buffer holds \(\)"),
        (
            {"actions": np.array([0.0, 1.9])},
            "actions of dtype float64 do not fit the buffer, which holds int64",
        ),
        ({"rewards": np.zeros((2, 2))}, r"rewards must have shape \(2,\), got \(2, 2\)"),
        ({"rewards": 0.0}, "rewards must have 2 rows, one for each env that is playing, got one number"),
        ({"rewards": [0.0, np.nan]}, "rewards of env 2 must be finite, got nan"),
        ({"state_values": [np.inf, 0.0]}, "state_values of env 0 must be finite, got inf"),
        ({"log_probs": np.zeros(3)}, "log_probs has 3 rows, but 2 envs were playing"),
        ({"dones": np.zeros(3, bool)}, r"dones must be flags in shape \(2,\), got shape \(3,\)"),
        ({"dones": [0.0, 0.5]}, "dones must be true or false, got 0.5"),
        ({"truncates": [False]}, r"truncates must be flags in shape \(2,\)"),
        (
            {"is_env_terminal": [False, False]},
            r"is_env_terminal must be flags in shape \(3,\), got shape \(2,\)",
        ),
        ({"num_envs": 4}, "num_envs is 4, but the buffer was made for 3"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_appended(changes, message):
    buffer = VecMemory(3)
    append(buffer)
    with pytest.raises(ValueError, match=message):
        append(buffer, **changes)
    assert len(buffer) == 2
    append(buffer, states=torch.zeros(2, 4, dtype=torch.float64), state_values=torch.zeros(2, 1))
    assert len(buffer.take()) == 4


def test_the_first_rows_decide_the_shape_only_if_they_are_taken():
    buffer = VecMemory(3)
    with pytest.raises(ValueError, match="next_states have rows of shape"):
        append(buffer, states=np.zeros((2, 5)), next_states=np.zeros((2, 4)))
    append(buffer)
    assert buffer.take().obs.shape == (2, 4)


@pytest.mark.parametrize(
    ("ppo", "changes", "message"),
    [
        (PPO(False, 2, 3), {}, r"memory holds states of shape \(4,\), but this PPO has \(3,\)"),
        (PPO(True, 1, 4), {}, r"memory holds actions of shape \(\), but this PPO has \(1,\)"),
        (
            PPO(False, 2, 4),
            {"actions": [0, 2]},
            "actions from 0 to 2, but those of this PPO are integers from 0 to 1",
        ),
        (PPO(False, 2, 4), {"actions": [-1, 0]}, "memory holds actions from -1 to 0"),
        (PPO(False, 2, 4), {"actions": [0.0, 0.5]}, r"memory holds actions from 0\.0 to 0\.5"),
    ],
)
def test_steps_of_another_ppo_are_not_learnt_from(ppo, changes, message):
    buffer = VecMemory(3)
    append(buffer, **changes)
    utils.buffer_to_target_buffer_transfer(buffer, ppo.memory)
    with pytest.raises(ValueError, match=message):
        ppo.learn()


@pytest.mark.parametrize(
    ("states", "finished", "message"),
    [
        (np.zeros((2, 4)), [True], "2 states do not fit 1 flags of finished envs"),
        (0.0, [True, False], "1 states do not fit 2 flags of finished envs"),
        (np.zeros((2, 4)), [[True], [False]], r"finished must be flags in one dimension, got shape \(2, 1\)"),
        (np.zeros((2, 4)), [0, 3], "finished must be true or false, got 3"),
    ],
)
def test_states_and_flags_that_do_not_fit(states, finished, message):
    with pytest.raises(ValueError, match=message):
        utils.inactive_states_dropout(states, finished)


def test_a_mask_of_numbers_is_taken():
    after = utils.update_active_environments_list([0, 1, 0], torch.tensor([1.0, 0.0]))
    assert after.dtype == np.bool_
    assert after.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="envs_active must be true or false, got 2"):
        utils.update_active_environments_list([0, 2, 0], [True, False])


# ---- calls and infos


def played(num_workers, kill=False, **settings):
    """Two episodes in which envs are called; all that came back."""
    found = []
    with EnvVectorizer(Levels, 3, num_workers=num_workers, seed=1, max_episode_steps=9, **settings) as env:
        env.set_attr("level", [0, 1, 2])
        for _ in range(2):
            found.append(env.reset())
            for t in range(9):
                if kill and t in (2, 5):
                    os.kill(env._pool.worker_pids[t % 2], signal.SIGKILL)
                found.append(env.step(np.zeros(3, int)))
                if t == 3:
                    found.append(env.call("add", 2))
                if t == 6:
                    found.append(env.get_attr("level"))
    return found


@pytest.mark.filterwarnings("ignore:worker .* it is started again")
def test_calls_and_infos_do_not_depend_on_workers_nor_on_their_lives():
    inline = played(0, infos=True)
    assert repr(played(2, infos=True)) == repr(inline)
    assert repr(played(2, kill=True, infos=True)) == repr(inline)
    assert inline[5] == (2.0, 3.0, 4.0)
    assert inline[9] == (2.0, 3.0, 4.0)


def test_infos_are_those_of_the_envs_that_have_played():
    with EnvVectorizer(Levels, 3, num_workers=0, max_episode_steps=9, infos=True) as env:
        env.set_attr("level", 4)
        _, info = env.reset()
        assert {key: value.tolist() for key, value in info.items()} == {
            "start": [4] * 3,
            "_start": [True] * 3,
        }
        env.envs_active = np.array([False, True, False])
        info = env.step(np.zeros(2, int))[-1]
        assert {key: value.tolist() for key, value in info.items()} == {
            "t": [1, 1],
            "_t": [True] * 2,
            "name": ["step 1"] * 2,
            "_name": [True] * 2,
        }
        env.envs_active = np.array([True, True, False])
        env.step(np.zeros(1, int))
        assert env.step(np.zeros(1, int))[-1] == {}  # its third step has none


def test_infos_are_empty_unless_they_are_asked_for():
    inline = played(0)
    assert inline[0][1] == inline[1][-1] == {}
    for with_infos, without in zip(played(0, infos=True), inline, strict=True):
        assert repr(with_infos[:-1]) == repr(without[:-1])


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda env: env.call("break_down"), EnvCallError, r"^env 0: break_down\(\) raised KeyError"),
        (lambda env: env.call("nothing"), EnvCallError, "^env 0: looking up nothing raised Attribute"),
        (lambda env: env.get_attr("nothing"), EnvCallError, "^env 0: reading nothing raised AttributeError"),
        (lambda env: env.set_attr("nothing", 1), EnvCallError, "^env 0: looking up nothing raised Attrib"),
        (lambda env: env.set_attr("level", [1]), ValueError, "one for each of the 3 envs, got 1"),
        (lambda env: env.call("returns_itself"), ValueError, "changing_envs.Levels"),
    ],
)
def test_calls_that_fail_say_so(ask, error, message):
    with EnvVectorizer(Levels, 3, num_workers=0, max_episode_steps=9) as env:
        with pytest.raises(error, match=message) as raised:
            ask(env)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "ask",
    [
        lambda env: env.get_attr("levle"),
        lambda env: env.get_attr("unwrapped"),  # it is there, but is no data
        lambda env: env.set_attr("levle", 5),
        lambda env: env.call("ad", 5),
    ],
)
def test_workers_live_on_after_what_has_changed_no_env(ask, num_workers):
    with EnvVectorizer(Levels, 3, num_workers=num_workers, max_episode_steps=9) as env:
        env.set_attr("level", 4)
        with pytest.raises((EnvCallError, NotData)):
            ask(env)
        env.call("add", 1)
        assert env.get_attr("level") == (5, 5, 5)
        env.reset()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_a_call_that_may_have_changed_something_the_pool_is_closed(num_workers):
    with EnvVectorizer(Levels, 3, num_workers=num_workers, max_episode_steps=9) as env:
        with pytest.raises(EnvCallError, match="KeyError"):
            env.call("break_down")
        for ask in (lambda: env.get_attr("level"), lambda: env.call("add", 1), env.reset):
            with pytest.raises(RuntimeError, match=r"^the pool is closed"):
                ask()


def test_a_call_of_an_attribute_reads_it():
    with EnvVectorizer(Levels, 3, num_workers=0, max_episode_steps=9, env_index_kwarg="copy") as env:
        assert env.call("copy") == env.get_attr("copy") == (0, 1, 2)
