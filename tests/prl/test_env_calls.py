"""Calls that change envs in the course of a run: when they hold, and that runs stay what they are."""

import contextlib
import os
import signal

import numpy as np
import pytest
import torch
from changing_envs import Levels

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.config.train_config import TrainConfig
from prl.pools import make_pool
from prl.run.build import reproducible
from prl.run.train import train
from prl.run.weights import weights_sha256
from prl.training.env_calls import CallMarks, RunCalls, attribute_call, method_call
from prl.training.rounds import split_groups
from prl.training.trainer import Trainer
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.env_call import EnvCall
from workers.envs import env_factory
from workers.episode_record import EpisodeCalls
from workers.errors import EnvCallError
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.recovering_pool import RecoveringPool, Recovery

N, UPDATES = 4, 6
ALL = np.arange(N)
FACTORY = env_factory(Levels, max_episode_steps=9)
KILLED_AFTER = (1, 2, 3, 5)
MODES = {
    "episodes": (None, False),
    "episodes, overlapped": (None, True),
    "steps": (3, False),  # an episode of nine steps takes three rounds
    "steps, overlapped": (3, True),
}
kills_workers = pytest.mark.filterwarnings("ignore:worker .* it is started again")


@contextlib.contextmanager
def trainer_of(mode, workers=0, acting=False):
    """A trainer in so many workers, which act themselves or not."""
    num_steps, overlap = MODES[mode]
    policy = ActorCritic(FACTORY.observation_space, FACTORY.action_space, (16,), 3)
    with contextlib.ExitStack() as stack:
        stack.enter_context(reproducible(1, torch.device("cpu")))
        kit = player_kit(policy) if acting else None
        places = {"groups": split_groups(N, 2), "guest": invitation(kit)} if acting else {}
        pool = make_pool(FACTORY, N, workers, recovery=Recovery(), close_timeout=20.0, **places)
        stack.enter_context(pool)
        yield Trainer(
            pool,
            PPOLearner(policy, PPOConfig(num_epochs=2, actor_lr=1e-2)),
            batch_size=N * 9 if num_steps is None else N * num_steps,
            total_timesteps=10_000,
            seed=3,
            num_groups=2,
            num_steps=num_steps,
            overlap=overlap,
            players=WorkerPlayers(pool, kit) if acting else None,
        )


def change(trainer, iteration):
    """A curriculum."""
    if iteration == 0:
        trainer.set_env_attr("level", 1)
    elif iteration == 2:
        trainer.call_envs("add", 2)
    elif iteration == 3:
        trainer.set_env_attr("level", [0.5, 1.5, 2.5, 3.5])
        trainer.call_envs("add", amount=3)
    elif iteration == 4:
        trainer.call_envs("add", 1)


def outcome(trainer, updates=UPDATES, after=lambda iteration: None):
    """The returns of so many updates, and the weights. `after` is called after each."""
    if trainer.state_dict()["progress"]["iteration"] == 0:
        change(trainer, 0)
    returns = []
    for report in trainer.iterations():
        returns.append(report.returns.tolist())
        change(trainer, report.iteration)
        after(report.iteration)
        if report.iteration == updates:
            break
    assert report.lost_episodes == 0
    return returns, weights_sha256(trainer.learner.policy)


@pytest.fixture(scope="module")
def undisturbed():
    """The outcome of each mode, without workers."""
    found = {}
    for mode in MODES:
        with trainer_of(mode) as trainer:
            found[mode] = outcome(trainer)
    assert len({sha for _, sha in found.values()}) == len(MODES)
    return found


@kills_workers
@pytest.mark.parametrize(
    ("mode", "acting"),
    [
        ("episodes", False),
        ("episodes, overlapped", True),
        ("steps", True),
        ("steps, overlapped", False),
        ("steps, overlapped", True),
    ],
)
def test_killed_workers_change_nothing(undisturbed, mode, acting):
    """Every mode; with workers that act and without in either kind of round, overlapped or not."""
    with trainer_of(mode, 2, acting) as trainer:

        def kill(iteration):
            if iteration in KILLED_AFTER:
                os.kill(trainer.pool.worker_pids[iteration % 2], signal.SIGKILL)

        assert outcome(trainer, after=kill) == undisturbed[mode]
        assert trainer.pool.restarts >= 2  # with overlap, one that had done its part may not be missed


@pytest.mark.parametrize("at", [2, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_goes_on_makes_the_calls_again(undisturbed, mode, at):
    with trainer_of(mode) as trainer:
        before, _ = outcome(trainer, updates=at)
        state = trainer.state_dict()
    with trainer_of(mode) as trainer:
        assert trainer.load_state_dict(state) == 0
        after, sha = outcome(trainer)
    assert ([*before, *after], sha) == undisturbed[mode]


def test_acting_workers_that_go_on(undisturbed):
    mode = "steps, overlapped"
    with trainer_of(mode) as trainer:
        outcome(trainer, updates=3)
        state = trainer.state_dict()
    with trainer_of(mode, 2, acting=True) as trainer:
        trainer.load_state_dict(state)
        assert outcome(trainer)[1] == undisturbed[mode][1]


@pytest.mark.parametrize(("mode", "first"), [("episodes", 3), ("episodes, overlapped", 4)])
def test_the_batch_from_which_on_a_call_holds(mode, first):
    """Every episode of nine steps has a return of at least 99 on level 1, and of at most 9 on level 0."""
    with trainer_of(mode) as trainer:
        for report in trainer.iterations():
            assert (report.returns >= 99).all() == (report.iteration >= first)
            assert (report.returns <= 9).all() == (report.iteration < first)
            if report.iteration == 2:
                trainer.set_env_attr("level", 1)
            if report.iteration == 5:
                break


def test_a_call_in_the_middle_of_an_episode_comes_between_two_steps():
    with trainer_of("steps") as trainer:
        found = []
        for report in trainer.iterations():
            found.append(trainer.state_dict()["rounds"]["called"])
            if report.iteration == 1:
                trainer.set_env_attr("level", 1)
                trainer.call_envs("add", 1)
            if report.iteration == 3:
                trainer.call_envs("add", 1)
            if report.iteration == 4:
                assert report.returns.tolist() == []
            if report.iteration == 6:
                break
        # The calls come before the next round. Episodes end with updates 3 and 6.
        assert found == [[at] * N for at in ([], [3, 3], [], [0], [0], [])]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros(2), TypeError, r"the value of level is or holds a ndarray; array\.tolist\(\) makes a list"),
        ({1: 2}, TypeError, "a dict with keys that are no text"),
        ({"a": [(1, 2)]}, TypeError, "is or holds a tuple; calls of envs take None, bool, int"),
        (float("nan"), ValueError, "the value of level is nan; calls of envs take finite numbers alone"),
        (lambda: 0, TypeError, "is or holds a function"),
        ([1, 2], ValueError, r"one for each of the 4 envs, got 2; .* \[value\] \* 4"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused(value, error, message):
    with pytest.raises(error, match=message) as raised:
        attribute_call("level", value, N)
    assert "\n" not in str(raised.value)


def test_arguments_are_copies_and_plain():
    mine = {"a": [1, {"b": np.float64(0.5)}]}
    call = method_call("add", [mine, np.int64(3), None, True], {"name": "x"})
    mine["a"].append(2)
    assert call == EnvCall("method", "add", [{"a": [1, {"b": 0.5}]}, 3, None, True], {"name": "x"})
    assert [type(value) for value in (call.args[1], call.args[0]["a"][1]["b"])] == [int, float]
    nested = []
    for _ in range(50):
        nested = [nested]
    with pytest.raises(ValueError, match="nested too deeply"):
        method_call("add", [nested], {})
    with pytest.raises(TypeError, match="the name of a method or attribute is text, got 3"):
        method_call(3, [], {})


def test_a_wrong_call_says_so_at_once():
    with trainer_of("episodes") as trainer:
        message = "^env 0: setting levl raised AttributeError: neither the env nor a wrapper has an attribute"
        with pytest.raises(EnvCallError, match=message):
            trainer.set_env_attr("levl", 1)
    with trainer_of("episodes") as trainer:
        with pytest.raises(
            EnvCallError, match=r"^env 0: break_down\(\) raised KeyError: 'out of order'$"
        ) as it:
            trainer.call_envs("break_down")
        assert 'raise KeyError("out of order")' in it.value.traceback
    with trainer_of("episodes") as trainer, pytest.raises(EnvCallError, match="not callable"):
        trainer.call_envs("level")
    with trainer_of("episodes") as trainer, pytest.raises(ValueError, match="one value of level for all"):
        trainer.set_env_attr("level", [1] * N, evaluation=True)


def test_what_a_method_returns_is_dropped_even_if_it_cannot_be_sent():
    with trainer_of("episodes") as trainer:
        trainer.call_envs("returns_itself")
        next(trainer.iterations())


def test_envs_that_were_changed_otherwise_do_not_take_a_state():
    with trainer_of("episodes") as trainer:
        reports = trainer.iterations()
        next(reports)
        state = trainer.state_dict()
        trainer.load_state_dict(state)  # nothing was called yet
        trainer.set_env_attr("level", 1)
        with pytest.raises(ValueError, match="were changed by calls that are not part of this run"):
            trainer.load_state_dict(state)


@pytest.mark.parametrize(
    "damage",
    [
        {"batch": 1.5},
        {"verb": "call"},
        {"verb": "__import__"},
        {"name": 3},
        {"args": "x"},
        {"args": []},
        {"kwargs": {"a": 1}},
        {"per_env": True},
        {"evaluation": None},
        {"more": 1},
    ],
)
def test_calls_of_a_damaged_state_are_refused(damage):
    calls = RunCalls()
    calls.add(attribute_call("level", 1, N), 1, evaluation=False)
    (entry,) = calls.state_dict()
    assert RunCalls.of_state([entry], N).state_dict() == [entry]
    with pytest.raises(ValueError, match="call 0 of the envs is none"):
        RunCalls.of_state([entry | damage], N)
    with pytest.raises(ValueError, match="call 1 of the envs is none"):
        RunCalls.of_state([entry | {"batch": 2}, entry], N)


@pytest.mark.parametrize("state", [[[], []], [[2, 1], []], [[4], []], [["1"], []], [[-1], []], "x", [[1]]])
def test_marks_of_a_damaged_state_are_refused(state):
    marks = CallMarks(2)
    marks.load_state_dict([[1, 3], []], 2, np.array([3, 3]))
    assert marks.of_episodes() == [EpisodeCalls(0, (1, 3)), EpisodeCalls(2, ())]
    if state == [[], []]:
        marks.load_state_dict(state, 2, np.array([3, 3]))
        assert marks.of_episodes() == [EpisodeCalls(2, ())] * 2
        return
    with pytest.raises(ValueError, match="calls within episodes make no sense"):
        marks.load_state_dict(state, 2, np.array([3, 3]))


# ---- through the config


def run_of(folder, **settings):
    """A run without workers whose level rises, evaluations included."""
    config = TrainConfig(
        env_id="changing_envs:Levels-v0",
        max_episode_steps=9,
        num_envs=N,
        num_workers=0,
        num_epochs=1,
        batch_size=40,
        total_timesteps=300,
        checkpoint_every=1,
        run_folder=folder,
        eval_freq=70,
        eval_episodes=2,
    )
    return train(config, on_update=raise_level, **settings)


def raise_level(trainer, report):
    """Another level after each update."""
    trainer.set_env_attr("level", report.iteration, evaluation=True)


def test_callbacks_of_a_run_that_goes_on(tmp_path):
    whole = run_of(tmp_path / "whole")
    rounds = iter([False, False, True])
    assert run_of(tmp_path / "cut", stop=lambda: next(rounds))["status"] == "stopped"
    resumed = train(resume=tmp_path / "cut", on_update=raise_level)
    for name in ("weights_sha256", "mean_return", "timesteps", "eval_mean_return"):
        assert resumed[name] == whole[name]
    assert whole["eval_mean_return"] >= 99 * (whole["iterations"] - 1)  # the last callback came before it


def test_a_callback_that_raises_ends_the_run(tmp_path):
    def fails(trainer, report):
        raise ZeroDivisionError

    config = TrainConfig(env_id="CartPole-v1", num_workers=0, num_envs=2, batch_size=20, run_folder=tmp_path)
    with pytest.raises(ZeroDivisionError):
        train(config, on_update=fails)
    assert '"status": "failed"' in (tmp_path / "summary.json").read_text()


# ---- pools


@pytest.mark.parametrize("pool_of", [InlinePool, lambda *args: ProcessPool(*args, 2, transport="pipe")])
def test_envs_get_each_call_once(pool_of):
    calls = [EnvCall("call", "add", (2,)), EnvCall("set", "level", ([1, 2, 3, 4],)[0], per_env=True)]
    with pool_of(FACTORY, N) as pool:
        assert pool.env_calls.carry_out(ALL, calls[:1], results=True) == [2.0] * N
        assert pool.env_calls.carry_out(ALL, calls[:1], results=True) == [None] * N
        pool.env_calls.carry_out(ALL[1:3], calls)
        assert pool.env_calls.get(ALL, "level") == [2.0, 2, 3, 2.0]
        assert pool.env_calls.behind(ALL, 2)
        assert not pool.env_calls.behind(ALL[1:3], 2)
        more = [*calls, EnvCall("call", "add")]
        assert pool.env_calls.carry_out(ALL, more, results=True) == [2, 3, 4, 5]
        with pytest.raises(ValueError, match="make a new pool"):
            pool.env_calls.carry_out(ALL, calls)


@kills_workers
def test_envs_that_are_brought_back_get_calls_within_their_episodes():
    """What players in workers ask of a pool, also if the envs have had all calls already."""
    calls = [EnvCall("call", "add", (1,)), EnvCall("call", "add", (2,))]
    actions = [[np.int64(t % 2) for t in range(4)] for _ in ALL]
    with InlinePool(FACTORY, N) as inline, RecoveringPool(ProcessPool(FACTORY, N, 2)) as pool:
        inline.env_calls.carry_out(ALL, calls[:1])
        inline.reset(ALL, ALL)
        inline.recv()
        for t in range(4):
            if t == 2:
                inline.env_calls.carry_out(ALL, calls)
            inline.send(ALL, np.array([env[t] for env in actions]))
            obs = inline.recv().obs
        pool.env_calls.carry_out(ALL, calls)
        episodes = [(env, env, actions[env], obs[env], EpisodeCalls(1, (2,))) for env in ALL.tolist()]
        assert pool.restore(episodes).tolist() == []
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        for one in (inline, pool):
            one.send(ALL, np.zeros(N, np.int64))
        assert pool.recv().reward.tolist() == inline.recv().reward.tolist() == [31.0] * N
        assert pool.restarts == 1
