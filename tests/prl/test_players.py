"""Players in workers: what comes of their tasks, who still plays, and typed errors in bounded time."""

import dataclasses
import itertools
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import AT_ONCE, Fifo, Lives, children, factory_of, faulty, script_environment
from player_helpers import Liar, Slow, Stuck
from player_world import FIRST, GROUPS, World, kind_of, same_parts, tasks_of
from threadpoolctl import threadpool_info, threadpool_limits

from learner.errors import NoLegalAction, NonFiniteError
from learner.policy import ActorCritic
from prl.training.players import LearnerPlayers
from workers.envs import env_factory
from workers.errors import WorkerDied, WorkerEnvFailed, WorkerTimeout
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.testing import ProbeEnv, probe_length

pytestmark = pytest.mark.usefixtures("leaves_nothing")

TRANSPORTS = ("shared", "pipe")


# ---- what comes of tasks


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("num_steps", [None, 5])
def test_workers_play_what_the_learner_would_play(num_steps, transport):
    """Three rounds, each with other weights; in rounds of fixed steps episodes go on."""
    with World(transport=transport) as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        policy, own = world.policy, LearnerPlayers(inline)
        rounds = [kind_of(num_steps, policy) for _ in range(2)]
        for number in range(3):
            played = []
            for players, kind in zip((world.players, own), rounds, strict=True):
                parts = list(players.play(players.publish(policy), tasks_of(kind, number)))
                for part in parts:
                    kind.take(GROUPS[part.group], part)
                played.append(parts)
                assert not players.active.mask.any()
            same_parts(*played)
            with torch.no_grad():
                policy.actor[-1].bias.add_(torch.linspace(-1.0, 1.0, 5))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_two_versions_of_the_weights_are_played_at_the_same_time(transport):
    """Group 0 plays its next round with the newer weights while group 1 is still given the older ones."""
    sure = []
    with World(transport=transport) as world:
        players, policy = world.players, world.policy
        rounds = kind_of(5, policy)
        for action in (1, 3):
            with torch.no_grad():
                policy.actor[-1].weight.zero_()
                policy.actor[-1].bias.zero_()
                policy.actor[-1].bias[action] = 100.0
            sure.append(players.publish(policy))
        players.play(sure[0], tasks_of(rounds, 0, [0]))
        new = players.play(sure[1], tasks_of(rounds, 1, [0, 1]))
        old = players.play(sure[0], tasks_of(rounds, 0, [1]))
        actions = [sorted((p.group, *np.unique(p.rollout.actions)) for p in parts) for parts in (new, old)]
    assert actions == [[(0, 3), (1, 3)], [(0, 1), (1, 1)]]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_statistics_of_observations_go_out_with_the_weights(transport):
    with World(transport=transport, normalizes=True) as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        own = LearnerPlayers(inline)
        for scale in (100.0, 3.0):
            world.policy.update_statistics(
                np.full((50, 8), scale, np.float32) * np.arange(8, dtype=np.float32)
            )
            tasks = tasks_of(kind_of(None, world.policy), 0)
            parts = [list(p.play(p.publish(world.policy), tasks)) for p in (world.players, own)]
            same_parts(*parts)


def test_the_learner_acts_with_one_thread_as_workers_do():
    """Sums of another number of threads have other last bits."""
    policy = ActorCritic(gym.spaces.Box(0, 255, (8,), np.float32), gym.spaces.Discrete(5), (8,))
    with InlinePool(env_factory(ProbeEnv), 4) as pool, threadpool_limits(2, user_api="blas"):
        players = LearnerPlayers(pool)
        parts = players.play(players.publish(policy), tasks_of(kind_of(None, policy), 0))
        next(parts)
        counts = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
        parts.close()
    assert counts == {1}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_weights_go_out_once_per_version(transport, monkeypatch):
    sent, call = [], ProcessPool.call

    def spy(pool, worker, request):
        sent.append(pickle.loads(request).weights)
        call(pool, worker, request)

    monkeypatch.setattr(ProcessPool, "call", spy)
    with World(transport=transport) as world:
        players, rounds = world.players, kind_of(1, world.policy)
        for _ in range(2):
            weights = players.publish(world.policy)
            for number in range(2):
                list(players.play(weights, tasks_of(rounds, number)))
    size = sum(parameter.numel() for parameter in world.policy.actor.parameters()) * 4
    once = [size, size, 0, 0] * 2
    assert [len(weights or b"") for weights in sent] == ([0] * 8 if transport == "shared" else once)


def test_players_tell_what_they_spent():
    with World() as world:
        assert world.players.num_processes == 2
        list(world.play())
        first = dataclasses.asdict(world.players.seconds)
        assert all(seconds > 0.0 for seconds in first.values())
        list(world.play())
        assert all(dataclasses.asdict(world.players.seconds)[name] > first[name] for name in first)


# ---- who still plays


class Leaving:
    """Sees who leaves the active mask, in which order."""

    def __init__(self, active):
        self._leave, self.left = active.leave, []
        self._active = active
        active.leave = self

    def __call__(self, env_ids, ago=0.0):
        self.left.append([int(env) for env in env_ids if self._active.mask[env]])
        self._leave(env_ids, ago)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_envs_leave_the_mask_with_their_episode_shortest_first(transport):
    with World(transport=transport) as world:
        watch = Leaving(world.players.active)
        parts = world.play()
        assert world.players.active.mask.all()  # all have begun, whoever waits for them
        list(parts)
        assert not world.players.active.mask.any()
    for group in GROUPS:
        lengths = {int(env): probe_length(FIRST[env]) for env in group}
        left = [env for envs in watch.left for env in envs if env in lengths]
        assert sorted(left) == group.tolist()
        assert [lengths[env] for env in left] == sorted(lengths.values())
        news = [envs for envs in watch.left if set(envs) & set(lengths)]
        assert len(news) == len(set(lengths.values()))  # each time that episodes have ended


def test_news_are_told_together_and_say_how_old_they_are():
    """In short rounds all of them at the end, when some have waited for the longest episode of the group."""
    with World(news_every=60.0) as world:
        news = []
        world.players.active.leave = lambda env_ids, ago=0.0: news.append((env_ids.tolist(), ago))
        list(world.play(groups=[0]))
    (ids, ago), (rest, _) = news
    assert (sorted(ids), sorted(rest)) == ([0, 1], [0, 1])  # and again, with the answer
    first, last = (probe_length(FIRST[env]) for env in ids)
    assert first < last
    assert ago[0] > ago[1] >= 0.0


def test_in_rounds_of_fixed_steps_all_stay_to_the_end():
    with World() as world:
        watch = Leaving(world.players.active)
        parts = list(world.play(num_steps=30))
        assert all(len(part.episodes.lengths) >= 4 for part in parts)
    assert sorted(envs for envs in watch.left if envs) == [[0, 1], [2, 3]]


def test_only_those_that_are_given_a_task_are_active():
    with World() as world:
        parts = world.play(groups=[1])
        assert world.players.active.mask.tolist() == [False, False, True, True]
        assert [part.group for part in parts] == [1]
        assert not world.players.active.mask.any()


# ---- tasks that nobody wants any more


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_abandoned_tasks_are_forgotten_and_the_pool_is_free(transport):
    with World(transport=transport) as world:
        players = world.players
        parts = world.play(num_steps=40)
        next(parts)
        world.play(num_steps=3, groups=[])
        players.abandon()
        assert not players.active.mask.any()
        assert list(world.play(groups=[])) == []
        world.pool.reset(np.arange(4), FIRST)  # the envs are the learner's own
        assert len(world.pool.recv().obs) == 4
        assert sorted(part.group for part in world.play()) == [0, 1]


def test_it_does_not_matter_how_abandoned_tasks_would_have_ended():
    with World(env_factory(lambda: ProbeEnv(box_action=True))) as world:
        good = world.policy.actor[-1].bias.detach().clone()
        with torch.no_grad():
            world.policy.actor[-1].bias.fill_(torch.nan)
        world.play()
        world.players.abandon()
        with torch.no_grad():
            world.policy.actor[-1].bias.copy_(good)
        assert sorted(part.group for part in world.play()) == [0, 1]


def test_the_learners_own_open_tasks_have_not_begun():
    with InlinePool(env_factory(ProbeEnv), 4) as pool:
        policy = ActorCritic(gym.spaces.Box(0, 255, (8,), np.float32), gym.spaces.Discrete(5), (8,))
        players = LearnerPlayers(pool)
        players.play(players.publish(policy), tasks_of(kind_of(None, policy), 0))
        players.abandon()
        assert not players.active.mask.any()
        assert list(players.play(players.publish(policy), [])) == []


# ---- what goes wrong with the policy


@pytest.mark.parametrize(("group", "env", "transport"), [(0, 1, "shared"), (1, 2, "pipe")])
def test_a_mask_that_allows_nothing_names_the_env_of_the_whole_pool(group, env, transport):
    factory = env_factory(lambda: Stuck(FIRST[1:3]), max_episode_steps=9)
    with World(factory, transport=transport) as world:
        with pytest.raises(NoLegalAction, match=f"^envs {env}: the action mask allows no action") as caught:
            list(world.play(groups=[group]))
        assert caught.value.rows.tolist() == [env]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_weights_that_are_not_finite_are_the_policys_fault(transport):
    with World(env_factory(lambda: ProbeEnv(box_action=True)), transport=transport) as world:
        with torch.no_grad():
            world.policy.head.log_std[0] = torch.nan
        with pytest.raises(NonFiniteError, match="the policy's actions are not finite"):
            list(world.play())


# ---- what goes wrong with workers and their envs


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_env_that_raises_is_named_with_seed_step_and_traceback(transport):
    with World(faulty("raise", at_step=2, seed=FIRST[2]), transport=transport) as world:
        message = rf"env 2, seed {FIRST[2]}, step 2: .*ValueError: boom"
        with pytest.raises(WorkerEnvFailed, match=message) as caught:
            list(world.play())
    assert (caught.value.worker, caught.value.env_ids) == (1, (2, 3))
    assert "ValueError: boom" in caught.value.traceback
    assert caught.value.last_command == "play"


@pytest.mark.parametrize(("fault", "transport"), [("sigkill", "shared"), ("os_exit", "pipe")])
def test_a_worker_that_dies_while_it_plays_is_noticed_at_once(fault, transport):
    with World(faulty(fault, at_step=2, seed=FIRST[0]), transport=transport) as world:
        start = time.monotonic()
        with pytest.raises(WorkerDied, match="during 'play'") as caught:
            list(world.play())
        assert time.monotonic() - start < AT_ONCE
    assert caught.value.worker == 0
    assert caught.value.exitcode == (-signal.SIGKILL if fault == "sigkill" else 7)


def test_a_worker_that_hangs_is_killed_although_the_others_play_on():
    """A round of the other takes far longer than `step_timeout`, but its steps do not."""
    with World(factory_of(lambda: Slow(FIRST[3])), step_timeout=0.6) as world:
        start = time.monotonic()
        with pytest.raises(WorkerTimeout, match=r"did not answer 'play' within 0.6 s") as caught:
            list(world.play(num_steps=200))
        assert 0.6 <= time.monotonic() - start < AT_ONCE
    assert caught.value.worker == 1


def test_a_round_that_lasts_is_no_hang():
    with World(factory_of(Slow), step_timeout=0.5) as world:
        start = time.monotonic()
        parts = list(world.play(num_steps=50))
        assert time.monotonic() - start > 1.0  # two envs in turn
    assert [len(part.rollout) for part in parts] == [100, 100]


def news_of(env_ids, ago):
    return np.array(env_ids, np.int64).tobytes() + np.array(ago).tobytes()


@pytest.mark.parametrize(
    ("answer", "news", "what"),
    [
        (b"", None, "not an answer: kind b''"),
        (b"?\0\0\0", None, "not an answer: kind b'?'"),
        (b"R", None, "not a rollout"),
        (b"R" + bytes(88), None, r"not a rollout|not an answer"),
        (b"R" + b"\xff" * 500, None, "not a rollout"),
        (b"L", None, "not env ids: 0 bytes"),
        (b"L123", None, "not env ids: 3 bytes"),
        (b"R", b"123", "not news: 3 bytes"),
        (b"R", news_of([0, 9], [0.0, 0.0]), r"not news: of envs \[0, 9\], which do not play"),
        (b"R", news_of([-1], [0.0]), r"not news: of envs \[-1\], which do not play"),
        (b"R", news_of([2], [-1.0]), r"not news: \[-1.0\] seconds ago"),
        (b"R", news_of([2], [np.nan]), r"not news: \[nan\] seconds ago"),
    ],
)
def test_what_makes_no_sense_is_the_fault_of_the_worker_that_said_it(answer, news, what):
    with World(guest=lambda memory: Liar(answer, news)) as world:
        with pytest.raises(WorkerDied, match=rf"worker 1 .*sent bytes that make no sense: ({what})"):
            list(world.play(groups=[1]))


def test_a_rollout_of_another_group_is_refused():
    with World() as world:
        calls = []
        world.pool.take_answer, take = (
            lambda on_news: calls.append(take(on_news)) or calls[-1],
            (world.pool.take_answer),
        )
        list(world.play(groups=[0]))
        answer = calls[0][1]
    with World(guest=lambda memory: Liar(answer)) as world:
        list(world.play(groups=[0]))  # it was not a lie for this one
        with pytest.raises(WorkerDied, match="of group 0 instead of 1"):
            list(world.play(groups=[1]))


# ---- the end


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_pool_is_closed_while_its_players_play(transport):
    world = World(factory_of(Slow), transport=transport, close_timeout=20.0)
    with Lives(world.pool.worker_pids) as workers:
        world.play(num_steps=10**6)
        start = time.monotonic()
        world.pool.close()
        assert time.monotonic() - start < AT_ONCE  # those that do not end are killed later
        assert not workers.alive_after(0.0)


LEARNER = """
    import sys
    from helpers import faulty
    from player_world import World

    fault, fifo = sys.argv[1:]
    world = World(faulty(fault, announce=fifo))
    while True:
        list(world.play())
"""


@pytest.mark.parametrize("fault", ["slow", "hang_gil"])
def test_no_player_outlives_a_killed_learner(tmp_path, fault):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(LEARNER))
    command = [sys.executable, str(script), fault]
    with (
        Fifo(tmp_path) as fifo,
        subprocess.Popen([*command, fifo.path], env=script_environment()) as process,
    ):
        try:
            workers = set(itertools.islice(fifo.pids(2, seconds=30.0), 2))
            with Lives(children(process.pid)) as descendants:
                assert workers & descendants.alive_after(0.0)
                process.kill()
                assert not descendants.alive_after(2.0)
        finally:
            process.kill()
