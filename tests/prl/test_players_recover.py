"""Workers that act and break: their part of a round is played again, or the learner plays it."""

import os
import signal

import numpy as np
import pytest
from helpers import Forgetful, Lives, factory_of, faulty
from player_world import FIRST, GROUPS, SEED, World, kind_of, same_parts, tasks_of

from prl.training.players import LearnerPlayers
from workers.envs import env_factory
from workers.errors import WorkerDied
from workers.inline_pool import InlinePool
from workers.recovering_pool import RecoveringPool
from workers.seeding import Stream, episode_seed
from workers.testing import ProbeEnv

pytestmark = [
    pytest.mark.usefixtures("leaves_nothing"),
    pytest.mark.filterwarnings("ignore:worker .* it is started again"),
]


class Recovering(World):
    """A world whose pool recovers."""

    def __init__(self, factory=None, **options):
        super().__init__(factory, wrap=RecoveringPool, **options)

    def rounds_of(self, num_steps):
        """A kind of round that the players remember."""
        rounds = kind_of(num_steps, self.policy)
        self.players.remember(rounds.running_actions)
        return rounds

    def kill(self, worker):
        pid = self.pool.worker_pids[worker]
        with Lives([pid]) as process:
            os.kill(pid, signal.SIGKILL)
            assert not process.alive_after(5.0)


def play(players, policy, rounds, number, groups=(0, 1)):
    """One round of these groups; what came of each."""
    parts = list(players.play(players.publish(policy), tasks_of(rounds, number, groups)))
    for part in parts:
        rounds.take(GROUPS[part.group], part)
    return parts


@pytest.mark.parametrize(
    ("num_steps", "fault", "transport"),
    [(None, "sigkill", "pipe"), (None, "raise", "shared"), (5, "sigkill", "shared"), (5, "obs_nan", "pipe")],
)
def test_what_breaks_once_changes_nothing(num_steps, fault, transport, tmp_path):
    """In pairs: either kind of round over either transport; a death and an exception over either."""
    once = faulty(fault, at_step=2, seed=FIRST[0], once=str(tmp_path / "once"))
    with Recovering(once, transport=transport) as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        own, rounds = LearnerPlayers(inline), [world.rounds_of(num_steps), kind_of(num_steps, world.policy)]
        for number in range(2):
            found = play(world.players, world.policy, rounds[0], number)
            same_parts(found, play(own, world.policy, rounds[1], number))
        assert world.pool.restarts == 1
        assert not world.players.active.mask.any()


@pytest.mark.parametrize("transport", ["shared", "pipe"])
def test_envs_of_workers_that_die_between_rounds_go_on_where_they_were(transport):
    with Recovering(transport=transport) as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        own, rounds = LearnerPlayers(inline), [world.rounds_of(4), kind_of(4, world.policy)]
        for number in range(4):
            found = play(world.players, world.policy, rounds[0], number)
            same_parts(found, play(own, world.policy, rounds[1], number))
            world.kill(number % 2)
        assert world.pool.restarts == 3


def test_a_worker_that_dies_twice_while_it_is_idle_is_not_played_for_while_it_plays():
    """Group 1 alone plays, and the worker of group 0 is found dead, twice: no failure of a task."""
    with Recovering() as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        own, rounds = LearnerPlayers(inline), [world.rounds_of(4), kind_of(4, world.policy)]
        for number, groups in enumerate([(0, 1), (1,), (1,), (0, 1), (0, 1)]):
            if len(groups) == 1:
                world.kill(0)
            found = play(world.players, world.policy, rounds[0], number, groups)
            same_parts(found, play(own, world.policy, rounds[1], number, groups))
            assert [state.failures for state in world.players._workers] == [0, 0]
        assert world.pool.restarts == 2


def test_a_worker_that_has_failed_too_often_is_not_called():
    """The learner plays its next task, with its envs."""
    with Recovering() as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        own, rounds = LearnerPlayers(inline), [world.rounds_of(4), kind_of(4, world.policy)]
        for number in range(3):
            world.players._workers[0].failures = 2 if number == 1 else 0
            found = play(world.players, world.policy, rounds[0], number)
            same_parts(found, play(own, world.policy, rounds[1], number))
        assert world.pool.restarts == 0


def test_what_the_pool_gives_up_while_the_learner_plays_ends_the_run(monkeypatch):
    def gives_up():
        raise WorkerDied("died", worker=0, env_ids=(0, 1), exitcode=-9, last_command="start", traceback="")

    def recovers(error):
        raise AssertionError("recovered once more")

    with Recovering() as world:
        world.players._workers[0].failures = 2
        monkeypatch.setattr(world.pool, "recv", gives_up)
        monkeypatch.setattr(world.pool, "recover", recovers)
        with pytest.raises(WorkerDied):
            play(world.players, world.policy, world.rounds_of(None), 0, [0])


def test_several_groups_of_one_worker():
    """Group 1 is idle when their worker dies for group 0, and plays in the round after that."""
    groups = (0, 1, 2, 3)
    with (
        Recovering(blocks=[range(4)]) as world,
        InlinePool(env_factory(ProbeEnv), 4) as inline,
    ):
        own, rounds = LearnerPlayers(inline), [world.rounds_of(4), kind_of(4, world.policy)]

        def same(number, of):
            tasks = [
                [r.task(group, np.array([group]), (Stream.NOISE, number)) for group in of] for r in rounds
            ]
            parts = [
                list(p.play(p.publish(world.policy), t))
                for p, t in zip((world.players, own), tasks, strict=True)
            ]
            for kind, of_kind in zip(rounds, parts, strict=True):
                for part in of_kind:
                    kind.take(np.array([part.group]), part)
            same_parts(*parts)

        same(0, groups)
        world.kill(0)
        same(1, groups[:1])
        same(2, groups[1:])
        world.kill(0)
        same(3, groups)
        assert world.pool.restarts == 2


def test_two_versions_are_played_when_the_worker_dies(tmp_path):
    """Group 0 has begun the next round with newer weights; its first part has been handed over."""
    second = episode_seed(SEED, 0, 1)  # of its steps, two are in the first round
    once = faulty("sigkill", at_step=3, seed=second, once=str(tmp_path / "once"))
    with Recovering(once) as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        own, rounds = LearnerPlayers(inline), [world.rounds_of(6), kind_of(6, world.policy)]
        parts = []
        for players, kind in zip((world.players, own), rounds, strict=True):
            older, found = players.publish(world.policy), []
            for part in players.play(older, tasks_of(kind, 0)):
                kind.take(GROUPS[part.group], part)
                found.append(part)
            newer = players.publish(world.policy)
            players.play(newer, tasks_of(kind, 1, [0]))
            found += players.play(newer, tasks_of(kind, 1, [1]))
            parts.append(sorted(found, key=lambda part: (part.longest, part.group)))
        for one, other in zip(*parts, strict=True):
            same_parts([one], [other])
        assert world.pool.restarts == 1


@pytest.mark.parametrize("num_steps", [None, 30])
@pytest.mark.parametrize(("fault", "transport"), [("sigkill", "pipe"), ("raise", "shared")])
def test_an_episode_that_breaks_again_and_again_is_given_up_by_the_learner(fault, transport, num_steps):
    factory = faulty(fault, at_step=3, seed=FIRST[1])
    with Recovering(factory, transport=transport) as world, InlinePool(env_factory(ProbeEnv), 4) as inline:
        rounds, others = world.rounds_of(num_steps), kind_of(num_steps, world.policy)
        parts = play(world.players, world.policy, rounds, 0)
        broken, whole = sorted(parts, key=lambda part: part.group)
        assert (broken.lost, whole.lost) == (1, 0)
        env_ids = broken.rollout.env_ids
        first_end = np.flatnonzero(broken.rollout.ends[env_ids == 1])[0]
        assert first_end == 2  # the third step ends it
        assert broken.rollout.rewards[env_ids == 1][2] == 0.0
        own = LearnerPlayers(inline)
        reference = [p for p in play(own, world.policy, others, 0) if p.group == 1]
        same_parts([whole], reference)
        assert len(play(world.players, world.policy, rounds, 1)) == 2


def test_an_env_that_is_no_function_of_its_seed_begins_another_episode(tmp_path):
    """In its second round it is in mid-episode; nobody can bring it back there."""
    path = str(tmp_path / "built")
    with Recovering(factory_of(lambda: Forgetful(path))) as world:
        rounds = world.rounds_of(2)
        play(world.players, world.policy, rounds, 0)
        started = rounds.tracker.started.copy()
        world.kill(1)
        parts = play(world.players, world.policy, rounds, 1)
        assert {part.group: part.lost for part in parts} == {0: 0, 1: 2}
        assert (rounds.tracker.started - started)[2:].tolist() == [1, 1]
        assert rounds.tracker.lengths[2:].tolist() == [2, 2]
        assert [len(actions) for actions in rounds.running_actions()][2:] == [2, 2]
        assert sum(part.lost for part in play(world.players, world.policy, rounds, 2)) == 0


def test_a_worker_that_hangs_is_not_waited_for_twice():
    """It would hang again: the learner plays, and gives the episode up after its own timeout."""
    with Recovering(faulty("hang", at_step=2, seed=FIRST[3]), step_timeout=1.0) as world:
        parts = play(world.players, world.policy, world.rounds_of(None), 0)
        assert sum(part.lost for part in parts) == 1
        assert world.pool.restarts <= 4
