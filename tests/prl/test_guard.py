"""What the hot paths cost, in counts that no machine's mood changes: frames, bytes, calls, optimiser steps.

A figure that has become smaller is good news, and is lowered here; one that has grown slows every run down.
"""

import itertools
import sys

import gymnasium as gym
import numpy as np
import pytest

from learner.actor import Actor
from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.training.group_round import play_groups
from prl.training.players import LearnerPlayers
from prl.training.rounds import EpisodeTracker, FixedSteps, WholeEpisodes, split_groups
from prl.training.trainer import Trainer
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.channel import Channel
from workers.envs import env_factory
from workers.frames import HEADER, Kind
from workers.inline_pool import InlinePool
from workers.pool import StepBatch
from workers.process_pool import ProcessPool
from workers.seeding import Stream
from workers.testing import ProbeEnv
from workers.worker_handle import WorkerHandle

NUM_ENVS, GROUPS = 4, split_groups(4, 2)
OBS, ACTION = 32, 8  # bytes of a row: f32[8], i64


@pytest.fixture
def wire(monkeypatch):
    """(kind, bytes) of frames, sent and received by the learner; signs of life are a matter of time."""
    sent, received = [], []
    send, accept = Channel.send, WorkerHandle._accept

    def counted_send(channel, frame, *args, **kwargs):
        sent.append((frame.kind, HEADER.size + len(frame.payload)))
        send(channel, frame, *args, **kwargs)

    def counted_accept(handle, frame):
        if frame.kind is not Kind.NEWS or frame.payload:
            received.append((frame.kind, HEADER.size + len(frame.payload)))
        accept(handle, frame)

    monkeypatch.setattr(Channel, "send", counted_send)
    monkeypatch.setattr(WorkerHandle, "_accept", counted_accept)
    return sent, received


def policy_of(factory, hidden_sizes=(8,), **options):
    return ActorCritic(factory.observation_space, factory.action_space, hidden_sizes, 0, **options)


def play_rounds(players, policy, num_steps, wire, groups=GROUPS):
    """What comes of the second round, in which episodes go on, and the frames of it alone."""
    tracker = EpisodeTracker(NUM_ENVS, 11)
    kind = FixedSteps(tracker, num_steps, policy.head.to_env) if num_steps else WholeEpisodes(tracker)
    for number in range(2):
        for frames in wire:
            frames.clear()
        weights = players.publish(policy)
        tasks = [kind.task(group, ids, (Stream.NOISE, number)) for group, ids in enumerate(groups)]
        parts = sorted(players.play(weights, tasks), key=lambda part: part.group)
        for part in parts:
            kind.take(groups[part.group], part)
    return parts


# ---- frames and bytes


def bytes_of(part):
    """Of the answer to a task: a byte of kind, a header of 88 bytes, and the rows."""
    steps, ends = len(part.rollout), len(part.rollout.terminated)
    episodes, envs = len(part.episodes.lengths), len(part.started)
    shown = 0 if part.obs is None else OBS
    rows = steps * (8 + OBS + ACTION + 4 + 1) + ends * (1 + 1 + OBS) + episodes * 24 + envs * (24 + shown)
    return HEADER.size + 1 + 88 + rows


@pytest.mark.parametrize(("transport", "weights"), [("shared", 0), ("pipe", 468)])
@pytest.mark.parametrize("num_steps", [None, 5, 40])
def test_acting_workers_are_asked_once_and_answer_once_per_group_and_round(
    wire, num_steps, transport, weights
):
    factory = env_factory(ProbeEnv)
    policy = policy_of(factory)
    kit = player_kit(policy)
    with ProcessPool(factory, NUM_ENVS, 2, transport=transport, invitation=invitation(kit)) as pool:
        parts = play_rounds(WorkerPlayers(pool, kit), policy, num_steps, wire)
        sent, received = (list(frames) for frames in wire)
    assert [kind for kind, _ in sent] == [Kind.CALL] * 2
    assert all(weights < size < weights + 1100 for _, size in sent)  # however many steps there are
    answers = sorted(size for kind, size in received if kind is Kind.RESULT)
    assert answers == sorted(map(bytes_of, parts))
    news = [size for kind, size in received if kind is Kind.NEWS]
    # A number and an age of each env that has done its part before others.
    done = 0 if num_steps else NUM_ENVS
    assert sum(size - HEADER.size for size in news) == 16 * done
    assert len(news) <= done
    assert len(received) == len(news) + 2


@pytest.mark.parametrize(("transport", "of_row"), [("shared", (0, 0)), ("pipe", (ACTION, 4 + OBS))])
def test_the_acting_learner_exchanges_two_frames_per_worker_and_step(wire, transport, of_row):
    factory = env_factory(lambda: ProbeEnv(shortest=100, longest=100))
    policy = policy_of(factory)
    with ProcessPool(factory, NUM_ENVS, 2, transport=transport) as pool:
        play_rounds(LearnerPlayers(pool), policy, 20, wire, groups=[np.arange(NUM_ENVS)])
        sent, received = (list(frames) for frames in wire)
    # Two envs per worker. A row is a number and the seed of the next episode; an answer begins with a flag.
    assert sent == [(Kind.STEP_AUTORESET, HEADER.size + 2 * (4 + 8 + of_row[0]))] * (2 * 20)
    assert received == [(Kind.ROWS, HEADER.size + 2 * (1 + of_row[1]))] * (2 * 20)


@pytest.mark.parametrize(("options", "nbytes"), [({}, 18496), ({"normalize_obs": True}, 18560)])
def test_a_slot_of_weights_holds_what_acts_and_nothing_else(options, nbytes):
    """f32 of 4 x 64, 64, 64 x 64, 64, 2 x 64 and 2, with f64 mean and variance; in whole cache lines."""
    policy = policy_of(env_factory("CartPole-v1"), (64, 64), **options)
    kit = player_kit(policy)
    assert kit.layout.nbytes == nbytes
    assert invitation(kit).shared_bytes == 2 * nbytes


# ---- updates


@pytest.mark.parametrize(("epochs", "size", "steps"), [(3, 16, 3 * 4), (2, 60, 2), (1, 7, 9), (2, 59, 4)])
def test_optimiser_steps_of_an_update(epochs, size, steps):
    """60 rows: every epoch sees each once, in minibatches of which only the last may be short."""
    factory = env_factory(ProbeEnv)
    with InlinePool(factory, 5) as pool:
        learner = PPOLearner(policy_of(factory), PPOConfig(num_epochs=epochs, minibatch_size=size))
        trainer = Trainer(pool, learner, batch_size=60, total_timesteps=10**4, seed=1, num_steps=12)
        applied, rows = [], []
        gradient, apply = learner._step.gradient, learner._step.apply
        learner._step.gradient = lambda batch, *args: rows.append(len(batch)) or gradient(batch, *args)
        learner._step.apply = lambda *args: applied.append(args) or apply(*args)
        list(itertools.islice(trainer.iterations(), 2))
    assert len(applied) == len(rows) == 2 * steps
    assert sum(rows) == 2 * epochs * 60


# ---- calls of Python functions


class Calls:
    """Counts calls of Python functions and of C functions."""

    def __enter__(self):
        self.python = self.c = 0
        sys.setprofile(self._count)
        return self

    def _count(self, frame, event, arg):
        if event == "call":
            self.python += 1
        elif event == "c_call":
            self.c += 1

    def __exit__(self, *exc_info):
        sys.setprofile(None)


class Still:
    """A pool that answers at once, always the same: what is left is the cost of playing."""

    def __init__(self, num_envs):
        ids, no = np.arange(num_envs), np.zeros(num_envs, np.bool_)
        obs = np.zeros((num_envs, 4), np.float32)
        self._batch = StepBatch(ids, obs, np.zeros(num_envs, np.float32), no, no, no, obs)

    def reset(self, env_ids, seeds):
        pass

    def send(self, env_ids, actions, next_seeds=None):
        pass

    def recv(self, timeout=None):
        return self._batch


def calls_per_step(play):
    """Of `play(steps)`, Python's and C's, without what comes once."""
    play(50)  # the first steps of envs are watched
    found = []
    for steps in (50, 150):
        with Calls() as calls:
            play(steps)
        found.append((calls.python, calls.c))
    return tuple(round((long - short) / 100) for short, long in zip(*found, strict=True))


ACTIONS = {
    "discrete": gym.spaces.Discrete(2),
    "several": gym.spaces.MultiDiscrete([2, 2]),
    "continuous": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
}


@pytest.mark.parametrize(
    ("actions", "python", "c"), [("discrete", 22, 28), ("several", 23, 33), ("continuous", 24, 31)]
)
def test_calls_per_step_of_a_group(actions, python, c):
    """However many envs there are: what is done for each of them is a matter for NumPy."""
    space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    policy = ActorCritic(space, ACTIONS[actions], (64, 64))
    found = []
    for num_envs in (3, 64):
        tracker = EpisodeTracker(num_envs, 1)

        def play(steps, tracker=tracker, num_envs=num_envs):
            task = FixedSteps(tracker, steps, policy.head.to_env).task(
                0, np.arange(num_envs), (Stream.NOISE, 0)
            )
            list(play_groups(Still(num_envs), Actor(policy).now(), [task]))

        found.append(calls_per_step(play))
    assert found[0] == found[1]
    assert found[0][0] <= python
    assert found[0][1] <= c


class Bare(gym.Env):
    """Costs one call per step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)
    _obs = np.zeros(4, np.float32)

    def reset(self, *, seed=None, options=None):
        return self._obs, {}

    def step(self, action):
        return self._obs, 1.0, False, False, {}


def test_calls_per_step_of_an_env_in_a_block():
    found = []
    for num_envs in (2, 12):
        ids, actions = np.arange(num_envs), np.zeros(num_envs, np.int64)
        with InlinePool(env_factory(Bare), num_envs) as pool:
            pool.reset(ids, ids)
            pool.recv()

            def play(steps, pool=pool, ids=ids, actions=actions):
                for _ in range(steps):
                    pool.send(ids, actions)
                    pool.recv()

            found.append(calls_per_step(play))
    few, many = found
    assert (many[0] - few[0]) / 10 <= 1.0  # the env's own
    assert (many[1] - few[1]) / 10 <= 2.0
    assert few[0] <= 22
    assert few[1] <= 22
