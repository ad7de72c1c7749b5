"""The store: rows arrive interleaved, and come out env after env with their own final observations."""

import tracemalloc

import gymnasium as gym
import numpy as np
import pytest

from learner.store import Store

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION = gym.spaces.Discrete(1000)


def obs_of(env, episode, step):
    return np.array([env, episode, step], np.float32)


def reward_of(env, episode, step):
    return 100.0 * env + 10.0 * episode + step


class Player:
    """Plays numbered episodes into a store: observation (env, episode, step), action = step."""

    def __init__(self, store, lengths):
        """`lengths[env]` are the lengths of the env's episodes; every second episode is terminated."""
        self.store, self.lengths = store, lengths
        self.at = dict.fromkeys(range(len(lengths)), (0, 0))

    def busy(self):
        return [env for env, (episode, _) in self.at.items() if episode < len(self.lengths[env])]

    def step(self, envs):
        """One step of each env, in one message."""
        where = [(env, *self.at[env]) for env in envs]
        ids = np.array(envs)
        obs = np.stack([obs_of(*w) for w in where])
        actions = np.array([step for _, _, step in where])
        self.store.add_actions(ids, obs, actions)
        ended = np.array([step + 1 == self.lengths[env][episode] for env, episode, step in where])
        terminated = ended & np.array([episode % 2 == 1 for _, episode, _ in where])
        following = np.stack([obs_of(env, episode, step + 1) for env, episode, step in where])
        rewards = np.array([reward_of(*w) for w in where], np.float32)
        self.store.add_outcomes(ids, following, rewards, terminated, ended)
        for (env, episode, step), end in zip(where, ended, strict=True):
            self.at[env] = (episode + 1, 0) if end else (episode, step + 1)
        for array in (ids, obs, actions, ended, terminated, following, rewards):
            array.fill(0)  # what was given must have been copied


def check(rollout, lengths, cut_after=()):
    """Every row is where the lengths say; `cut_after` are (env, episode) whose last obs is its own."""
    rows = [(e, k, t) for e, own in enumerate(lengths) for k, n in enumerate(own) for t in range(n)]
    episodes = [(e, k, n) for e, own in enumerate(lengths) for k, n in enumerate(own)]
    np.testing.assert_array_equal(rollout.env_ids, [e for e, _, _ in rows])
    np.testing.assert_array_equal(rollout.obs, [obs_of(*row) for row in rows])
    np.testing.assert_array_equal(rollout.actions, [t for _, _, t in rows])
    np.testing.assert_array_equal(rollout.rewards, [reward_of(*row) for row in rows])
    np.testing.assert_array_equal(rollout.ends, [t == lengths[e][k] - 1 for e, k, t in rows])
    final = [obs_of(e, k, n - 1 if (e, k) in cut_after else n) for e, k, n in episodes]
    np.testing.assert_array_equal(rollout.final_obs, final)
    terminated = [k % 2 == 1 and (e, k) not in cut_after for e, k, _ in episodes]
    np.testing.assert_array_equal(rollout.terminated, terminated)
    np.testing.assert_array_equal(rollout.continues, [False] * len(episodes))  # none of them goes on
    np.testing.assert_array_equal(rollout.episode_ends, rollout.ends)
    assert len(rollout) == len(rows)


LENGTHS = [[3, 1, 4], [1, 1, 5], [9], [2, 6]]


@pytest.mark.parametrize("seed", range(20))
def test_interleaved_steps_of_several_episodes_come_out_in_order(seed):
    rng = np.random.default_rng(seed)
    store = Store(OBS, ACTION, 4)
    player = Player(store, LENGTHS)
    while busy := player.busy():
        player.step(sorted(rng.choice(busy, rng.integers(1, len(busy) + 1), replace=False).tolist()))
    assert len(store) == 32
    check(store.rollout(), LENGTHS)


def test_groups_may_have_steps_open_at_the_same_time():
    store = Store(OBS, ACTION, 2)
    yes, no = np.array([True]), np.array([False])
    for env in (0, 1):
        store.add_actions(np.array([env]), obs_of(env, 0, 0)[None], np.array([0]))
    for env in (1, 0):  # closed in another order than opened
        store.add_outcomes(
            np.array([env]), obs_of(env, 0, 1)[None], np.array([reward_of(env, 0, 0)], np.float32), no, yes
        )
    check(store.rollout(), [[1], [1]])


def test_final_observations_are_paired_by_env_not_by_time():
    store = Store(OBS, ACTION, 3)
    player = Player(store, [[3], [1], [2]])
    while busy := player.busy():
        player.step(busy)  # env 1 ends first, then 2, then 0
    rollout = store.rollout()
    np.testing.assert_array_equal(rollout.final_obs, [[0, 0, 3], [1, 0, 1], [2, 0, 2]])


def test_an_env_that_never_played_is_simply_not_there():
    store = Store(OBS, ACTION, 3)
    Player(store, [[], [2]]).step([1])
    store.truncate_open_episodes()
    np.testing.assert_array_equal(store.rollout().env_ids, [1])


@pytest.mark.parametrize("steps", [1, 1023, 1024, 1025, 5000])
def test_growing_keeps_what_was_stored(steps):
    store = Store(OBS, ACTION, 2)
    player = Player(store, [[steps], [2]])
    player.step([0, 1])
    while busy := player.busy():
        player.step(busy)
    check(store.rollout(), [[steps], [2]])


def test_cleared_memory_shows_nothing_of_the_batch_before():
    store = Store(OBS, ACTION, 2)
    for lengths in ([[1] * 8, [1] * 8], [[4, 3], [5]], [[2], [7, 1]]):
        store.clear()
        assert len(store) == 0
        player = Player(store, lengths)
        while busy := player.busy():
            player.step(busy)
        check(store.rollout(), lengths)


def test_a_rollout_keeps_its_numbers_when_the_store_is_used_again():
    store = Store(OBS, ACTION, 1)
    player = Player(store, [[3], []])
    while player.busy():
        player.step([0])
    rollout = store.rollout()
    store.clear()
    store.add_actions(np.array([0]), np.full((1, 3), 99.0, np.float32), np.array([99]))
    check(rollout, [[3]])


def test_columns_have_the_dtypes_and_shapes_of_the_spaces():
    store = Store(gym.spaces.Box(0, 255, (2, 2), np.uint8), gym.spaces.Box(-1, 1, (3,), np.float32), 1)
    store.add_actions(np.array([0]), np.full((1, 2, 2), 200, np.uint8), np.full((1, 3), 0.5, np.float32))
    store.add_outcomes(
        np.array([0]), np.full((1, 2, 2), 201, np.uint8), np.ones(1), np.array([True]), np.array([True])
    )
    rollout = store.rollout()
    assert (rollout.obs.dtype, rollout.obs.shape) == (np.uint8, (1, 2, 2))
    assert (rollout.actions.dtype, rollout.actions.shape) == (np.float32, (1, 3))
    assert (rollout.final_obs.dtype, rollout.final_obs.shape) == (np.uint8, (1, 2, 2))
    assert rollout.rewards.dtype == np.float32
    assert rollout.final_obs[0, 0, 0] == 201


def test_extra_columns_follow_their_rows():
    store = Store(OBS, ACTION, 2, extra=("values", "log_probs"))
    for step, envs in enumerate([[0, 1], [1], [0, 1]]):
        ids = np.array(envs)
        store.add_actions(ids, np.zeros((len(ids), 3)), ids, values=10.0 * ids + step, log_probs=-1.0 * ids)
        last = np.full(len(ids), step == 2)
        store.add_outcomes(ids, np.zeros((len(ids), 3)), np.zeros(len(ids)), last, last)
    extra = store.rollout().extra
    assert set(extra) == {"values", "log_probs"}
    np.testing.assert_array_equal(extra["values"], [0.0, 2.0, 10.0, 11.0, 12.0])
    np.testing.assert_array_equal(extra["log_probs"], [0.0, 0.0, -1.0, -1.0, -1.0])


# ---- memory


def test_memory_is_of_the_order_of_the_steps_even_if_one_env_plays_far_longer():
    num_envs, long = 256, 20_000
    space = gym.spaces.Box(-1, 1, (64,), np.float32)
    obs = np.zeros((num_envs, 64), np.float32)
    everyone, one, no = np.arange(num_envs), np.array([0]), np.array([False])
    tracemalloc.start()
    store = Store(space, ACTION, num_envs)
    ended = everyone > 0
    store.add_actions(everyone, obs, everyone)
    store.add_outcomes(everyone, obs, np.zeros(num_envs), ended, ended)
    for _ in range(long):
        store.add_actions(one, obs[:1], one)
        store.add_outcomes(one, obs[:1], np.zeros(1), no, no)
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bytes_per_step = 8 + 64 * 4 + 8 + 4 + 1 + 1 + 1
    steps = num_envs + long
    assert len(store) == steps
    assert used < 2.0 * steps * bytes_per_step + 1e6
    assert peak < 4.0 * steps * bytes_per_step + 1e6  # while it grows, old and new lie side by side
    # N times the longest would be 256 times as much


# ---- cut


def test_cut_ends_what_is_not_over_as_truncated():
    store = Store(OBS, ACTION, 4)
    player = Player(store, [[2, 9], [9, 9], [1], []])
    for _ in range(3):
        player.step([env for env in player.busy() if env != 3])
    store.truncate_open_episodes()
    check(store.rollout(), [[2, 1], [3], [1]], cut_after={(0, 1), (1, 0)})


def test_cut_leaves_finished_episodes_alone():
    store = Store(OBS, ACTION, 4)
    player = Player(store, LENGTHS)
    while busy := player.busy():
        player.step(busy)
    store.truncate_open_episodes()
    store.truncate_open_episodes()
    check(store.rollout(), LENGTHS)


def test_cut_of_an_open_step_knows_nothing_of_its_reward():
    store = Store(OBS, ACTION, 1)
    env, yes = np.array([0]), np.array([True])
    store.add_actions(env, obs_of(0, 0, 0)[None], np.array([0]))
    store.add_outcomes(env, obs_of(0, 0, 1)[None], np.array([77.0]), yes, yes)
    store.clear()
    store.add_actions(env, obs_of(0, 1, 0)[None], np.array([0]))
    store.truncate_open_episodes()
    rollout = store.rollout()
    np.testing.assert_array_equal(rollout.rewards, [0.0])
    np.testing.assert_array_equal(rollout.final_obs, [obs_of(0, 1, 0)])
    with pytest.raises(ValueError, match="no open step"):  # it was cut
        store.add_outcomes(env, obs_of(0, 1, 1)[None], np.array([1.0]), yes, yes)


def test_cut_of_an_empty_store_is_nothing():
    store = Store(OBS, ACTION, 2)
    store.truncate_open_episodes()
    with pytest.raises(ValueError, match="empty"):
        store.rollout()


# ---- misuse


def one_step(store, env):
    store.add_actions(np.array([env]), np.zeros((1, 3)), np.zeros(1))


def answer(store, env, ended=True):
    flag = np.array([ended])
    store.add_outcomes(np.array([env]), np.zeros((1, 3)), np.zeros(1), flag, flag)


def test_two_decisions_without_an_answer():
    store = Store(OBS, ACTION, 3)
    one_step(store, 1)
    with pytest.raises(ValueError, match=r"envs \[1\] are still open"):
        store.add_actions(np.array([0, 1]), np.zeros((2, 3)), np.zeros(2))
    assert len(store) == 1


def test_an_answer_without_a_decision():
    store = Store(OBS, ACTION, 3)
    one_step(store, 1)
    with pytest.raises(ValueError, match=r"envs \[2\] have no open step"):
        store.add_outcomes(
            np.array([1, 2]), np.zeros((2, 3)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)
        )
    answer(store, 1)
    with pytest.raises(ValueError, match="no open step"):
        answer(store, 1)


@pytest.mark.parametrize("env", [-1, 3, 1000])
def test_env_ids_out_of_bounds(env):
    store = Store(OBS, ACTION, 3)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        one_step(store, env)
    for inside in range(3):
        one_step(store, inside)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        answer(store, env)


def test_an_empty_store_has_no_rollout():
    with pytest.raises(ValueError, match="empty"):
        Store(OBS, ACTION, 3).rollout()


def test_an_unfinished_episode_has_no_rollout():
    store = Store(OBS, ACTION, 3)
    for env, ended in ((0, True), (1, False), (2, True)):
        one_step(store, env)
        answer(store, env, ended)
    with pytest.raises(ValueError, match=r"envs \[1\] are not over"):
        store.rollout()


def test_spaces_without_a_fixed_shape_are_refused():
    with pytest.raises(ValueError, match="not numeric arrays"):
        Store(OBS, gym.spaces.Sequence(gym.spaces.Discrete(2)), 1)


# ---- the last step of an env in a rollout, though its episode may go on


def test_an_episode_that_goes_on_is_cut_with_what_followed():
    """Three steps of each env: env 0 is in the middle, env 1 ends just there, env 2 ended one step before."""
    store = Store(OBS, ACTION, 3)
    lengths = [[5], [3], [2, 4]]
    at = [(0, 0), (0, 0), (0, 0)]
    for count in range(3):
        where = [(env, *at[env]) for env in range(3)]
        ended = np.array([step + 1 == lengths[env][episode] for env, episode, step in where])
        store.add_actions(
            np.arange(3), np.stack([obs_of(*w) for w in where]), np.array([s for _, _, s in where])
        )
        following = np.stack([obs_of(env, episode, step + 1) for env, episode, step in where])
        rewards = np.array([reward_of(*w) for w in where], np.float32)
        last = np.full(3, count == 2)
        store.add_outcomes(np.arange(3), following, rewards, ended & (np.arange(3) == 1), ended, last)
        at = [
            (episode + 1, 0) if end else (episode, step + 1)
            for (_, episode, step), end in zip(where, ended, strict=True)
        ]
    rollout = store.rollout()
    rows = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 0), (1, 0, 1), (1, 0, 2), (2, 0, 0), (2, 0, 1), (2, 1, 0)]
    np.testing.assert_array_equal(rollout.obs, [obs_of(*row) for row in rows])
    np.testing.assert_array_equal(rollout.rewards, [reward_of(*row) for row in rows])
    np.testing.assert_array_equal(rollout.ends, [0, 0, 1, 0, 0, 1, 0, 1, 1])
    np.testing.assert_array_equal(rollout.episode_ends, [0, 0, 0, 0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(rollout.last_of_env, [0, 0, 1, 0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(rollout.continues, [True, False, False, True])
    np.testing.assert_array_equal(rollout.terminated, [False, True, False, False])
    final = [obs_of(0, 0, 3), obs_of(1, 0, 3), obs_of(2, 0, 2), obs_of(2, 1, 1)]
    np.testing.assert_array_equal(rollout.final_obs, final)
    np.testing.assert_array_equal(rollout.next_obs(), [obs_of(e, k, t + 1) for e, k, t in rows])


def test_without_last_nothing_is_cut():
    store = Store(OBS, ACTION, 1)
    one_step(store, 0)
    store.add_outcomes(
        np.array([0]), np.zeros((1, 3)), np.zeros(1), np.array([False]), np.array([True]), None
    )
    assert store.rollout().continues.tolist() == [False]


def test_an_env_that_was_cut_can_go_on_in_the_same_store():
    store = Store(OBS, ACTION, 1)
    env, no, yes = np.array([0]), np.array([False]), np.array([True])
    for step in range(4):
        store.add_actions(env, obs_of(0, 0, step)[None], np.array([step]))
        last = np.array([step % 2 == 1])
        store.add_outcomes(env, obs_of(0, 0, step + 1)[None], np.zeros(1), no, no, last)
    rollout = store.rollout()
    assert rollout.ends.tolist() == [False, True, False, True]
    assert rollout.continues.tolist() == [True, True]
    np.testing.assert_array_equal(rollout.final_obs, [obs_of(0, 0, 2), obs_of(0, 0, 4)])
    np.testing.assert_array_equal(rollout.last_of_env, [False, False, False, True])
    one_step(store, 0)
    with pytest.raises(ValueError, match="not over"):
        store.rollout()
    store.add_outcomes(env, np.zeros((1, 3)), np.zeros(1), yes, yes)
    assert store.rollout().continues.tolist() == [True, True, False]


def test_flags_of_a_row_are_not_those_of_the_batch_before():
    store = Store(OBS, ACTION, 1)
    env, no, yes = np.array([0]), np.array([False]), np.array([True])
    one_step(store, 0)
    store.add_outcomes(env, np.zeros((1, 3)), np.zeros(1), no, no, yes)
    assert store.rollout().continues.tolist() == [True]
    store.clear()
    one_step(store, 0)
    store.truncate_open_episodes()
    assert store.rollout().continues.tolist() == [False]


def test_composite_observations_are_rows_of_bytes():
    space = gym.spaces.Dict(a=gym.spaces.Box(0, 9, (2,), np.float64), b=gym.spaces.Discrete(3))
    action = gym.spaces.MultiDiscrete([3, 4])
    store = Store(space, action, 2)
    obs = np.arange(48, dtype=np.uint8).reshape(2, 24)
    yes = np.array([True, True])
    store.add_actions(np.arange(2), obs, np.array([[0, 1], [2, 3]]))
    store.add_outcomes(np.arange(2), obs + 100, np.zeros(2), yes, yes)
    rollout = store.rollout()
    assert (rollout.obs.dtype, rollout.final_obs.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(rollout.obs, obs)
    np.testing.assert_array_equal(rollout.final_obs, obs + 100)
    np.testing.assert_array_equal(rollout.actions, [[0, 1], [2, 3]])
