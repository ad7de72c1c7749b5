"""What programs pass to prl's classes and functions is checked first, in one line each."""

import functools

import gymnasium as gym
import pytest

import prl
from prl import (
    PPO,
    ActorCritic,
    AsyncPPO,
    PPOConfig,
    PPOLearner,
    TrainConfig,
    Trainer,
    env_factory,
    make_pool,
)
from prl.training.arguments import check_spaces, require_callable
from workers.inline_pool import InlinePool

FACTORY = env_factory("CartPole-v1")
OBSERVATIONS, ACTIONS = FACTORY.observation_space, FACTORY.action_space


def fails(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "^batch_size must be an integer, at least 1, got 0$"),
        ({"batch_size": 1.5}, r"^batch_size must be an integer, at least 1, got 1\.5$"),
        ({"total_timesteps": -1}, "^total_timesteps must be an integer, at least 1, got -1$"),
        ({"seed": None}, "^seed must be an integer, 0 or more, got None$"),
        ({"replay_limit": -1}, "^replay_limit must be an integer, 0 or more, got -1$"),
        ({"num_steps": 0}, "^num_steps must be an integer, at least 1, got 0$"),
        ({"num_groups": 3}, r"^num_groups must lie in 1\.\.2 \(num_envs\), got 3$"),
        ({"num_groups": 1.0}, r"^num_groups must lie in 1\.\.2 \(num_envs\), got 1\.0$"),
    ],
)
def test_settings_of_a_trainer(settings, message):
    learner = PPOLearner(ActorCritic(OBSERVATIONS, ACTIONS, (8,)), PPOConfig())
    with InlinePool(FACTORY, 2) as pool:
        fails(
            lambda: Trainer(pool, learner, **{"batch_size": 8, "total_timesteps": 8, "seed": 0} | settings),
            message,
        )


def test_a_policy_for_other_spaces_than_those_of_the_pool():
    other = ActorCritic(gym.spaces.Box(-1.0, 1.0, (3,)), ACTIONS, (8,))
    with InlinePool(FACTORY, 2) as pool:
        learner = PPOLearner(other, PPOConfig())
        fails(
            lambda: Trainer(pool, learner, batch_size=8, total_timesteps=8, seed=0),
            r"^the policy was made for the observation space Box\(-1\.0, 1\.0, \(3,\), float32\), "
            r"but that of CartPole-v1 is Box\(",
        )


@pytest.mark.parametrize(
    ("actions", "fits"),
    [
        (gym.spaces.Discrete(2), True),
        (gym.spaces.Discrete(3), False),
        (gym.spaces.Discrete(2, start=1), False),
        (gym.spaces.Box(-1.0, 1.0, (2,)), False),
    ],
)
def test_which_actions_fit(actions, fits):
    policy = ActorCritic(gym.spaces.Box(-1.0, 1.0, (4,)), actions, (8,))  # other bounds do no harm
    if fits:
        check_spaces(policy, FACTORY)
    else:
        fails(lambda: check_spaces(policy, FACTORY), "^the policy was made for the action space .* Discrete")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_pool("CartPole-v1", 2, 0), "^factory must be what .* returns, got one str$"),
        (lambda: make_pool(FACTORY, 0, 0), "^num_envs must be an integer, at least 1, got 0$"),
        (lambda: make_pool(FACTORY, 2, "2"), "^num_workers must be an integer, 0 or more, or None, got '2'$"),
        (lambda: make_pool(FACTORY, 2, 0, "mail"), "^transport must be shared or pipe, got 'mail'$"),
        (lambda: PPOLearner(None, PPOConfig()), "^policy must be an ActorCritic, got None$"),
        (lambda: PPOLearner(ActorCritic, PPOConfig()), "^policy must be .*, got the class ActorCritic$"),
        (
            lambda: PPOLearner(ActorCritic(OBSERVATIONS, ACTIONS, (8,)), {}),
            "^config must be a PPOConfig, got one dict$",
        ),
        (lambda: AsyncPPO("CartPole-v1", None), r"^ppo must be a prl\.PPO, got None$"),
        (lambda: AsyncPPO("CartPole-v1", PPO), r"^ppo must be a prl\.PPO, got the class PPO$"),
        (lambda: prl.train({"env_id": "CartPole-v1"}), r"^config must be a prl\.TrainConfig, got one dict$"),
    ],
)
def test_objects_of_another_kind(call, message):
    fails(call, message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_update": 3}, "^on_update must be a function of trainer and report, got 3$"),
        ({"on_update": lambda trainer: None}, "^on_update must be .*: too many positional arguments$"),
        ({"stop": lambda report: True}, "^stop must be a function of no arguments: missing a required arg"),
        ({"stop": True}, "^stop must be a function of no arguments, got True$"),
        ({"log": None}, "^log must be a function of line, got None$"),
    ],
)
def test_functions_are_looked_at_before_a_run_begins(settings, message, tmp_path):
    config = TrainConfig(env_id="CartPole-v1", num_workers=0, run_folder=tmp_path / "run")
    fails(lambda: prl.train(config, **settings), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "function", [lambda *given: None, lambda trainer, report, more=1: None, functools.partial(max, 0), max]
)
def test_functions_that_take_two_arguments_or_do_not_tell(function):
    require_callable(function, "on_update", "trainer", "report")
