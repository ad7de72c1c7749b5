"""Invariant 1: the same seed gives the same weights, wherever and however the envs are stepped."""

import contextlib
import dataclasses
import itertools
from unittest import mock

import pytest
import torch

from learner.policy import ActorCritic
from learner.ppo import PPOLearner
from learner.ppo_config import PPOConfig
from prl.config.command_line import parse
from prl.config.train_config import TrainConfig
from prl.pools import make_pool
from prl.run.build import reproducible
from prl.run.train import train
from prl.run.weights import weights_sha256
from prl.training.rounds import split_groups
from prl.training.trainer import Trainer
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.envs import env_factory
from workers.inline_pool import InlinePool
from workers.process_pool import ProcessPool
from workers.testing import CompositeProbe

ENVS = {
    "CartPole-v1": {"total_timesteps": 3000, "batch_size": 512},
    "Pendulum-v1": {"total_timesteps": 1200, "batch_size": 512, "max_episode_steps": 50},
}


def weights(folder, env_id="CartPole-v1", **settings):
    config = TrainConfig(
        env_id=env_id, run_folder=folder, **({"num_envs": 10, "num_epochs": 2, **ENVS[env_id]} | settings)
    )
    summary = train(config)
    assert summary["iterations"] >= 2  # the second rollout is played with learnt weights
    return summary["weights_sha256"]


@pytest.fixture(scope="module", params=ENVS)
def reference(request, tmp_path_factory):
    """The env, and the weights that the pool without processes comes to."""
    folder = tmp_path_factory.mktemp("inline")
    return request.param, weights(folder / "run", request.param, num_workers=0, seed=3)


@pytest.mark.parametrize(
    ("num_workers", "transport"), [(1, "shared"), (2, "pipe"), (2, "shared"), (4, "pipe")]
)
def test_workers_and_transport_change_no_bit(reference, num_workers, transport, tmp_path):
    """Every number of workers, and two of them over either transport."""
    env_id, expected = reference
    found = weights(tmp_path / "run", env_id, num_workers=num_workers, transport=transport, seed=3)
    assert found == expected


def test_the_same_run_twice_gives_the_same_bits(reference, tmp_path):
    env_id, expected = reference
    assert weights(tmp_path / "run", env_id, num_workers=0, seed=3) == expected


def test_another_seed_gives_other_weights(reference, tmp_path):
    env_id, expected = reference
    assert weights(tmp_path / "run", env_id, num_workers=0, seed=4) != expected


def test_two_groups_change_no_bit_over_workers(tmp_path):
    inline = weights(tmp_path / "a", num_workers=0, num_groups=2)
    assert weights(tmp_path / "b", num_workers=3, num_groups=2) == inline
    assert weights(tmp_path / "c", num_workers=0, num_groups=1) != inline  # another order of noise


def test_a_saved_config_does_the_run_again(tmp_path):
    first = weights(
        tmp_path / "a", num_workers=0, seed=5, hidden_sizes=(16,), env_kwargs={"sutton_barto_reward": True}
    )
    again = parse(TrainConfig, ["--config", str(tmp_path / "a/config.yaml")], prog="train.py")
    assert again.run_folder is None
    assert train(dataclasses.replace(again, run_folder=tmp_path / "b"))["weights_sha256"] == first


# ---- rounds of a fixed number of steps: episodes go on from round to round

NORMALIZED = {"normalize_obs": True, "normalize_reward": True}
MODES = {
    "steps": {"num_steps": 40},
    "steps in two groups": {"num_steps": 40, "num_groups": 2},
    "steps in two groups, normalised": {"num_steps": 40, "num_groups": 2, **NORMALIZED},
    "episodes, normalised": NORMALIZED,
    "episodes in three groups": {"num_groups": 3},
    "steps in two groups, overlapped": {"num_steps": 40, "num_groups": 2, "overlap": True},
    "episodes in three groups, normalised, overlapped": {"num_groups": 3, "overlap": True, **NORMALIZED},
}
CARTPOLE = ("CartPole-v1", {"max_episode_steps": 30})  # untrained, half of its episodes fall and half do not
COMPOSITE = (CompositeProbe, {"max_episode_steps": 100})


def outcome(
    pool,
    factory,
    *,
    normalize_obs=False,
    normalize_reward=False,
    num_groups=1,
    num_steps=None,
    overlap=False,
    acting_workers=None,
):
    """Weights, and what was played, after three updates."""
    policy = ActorCritic(
        factory.observation_space, factory.action_space, (16,), 3, normalize_obs=normalize_obs
    )
    config = PPOConfig(num_epochs=2, normalize_reward=normalize_reward, actor_lr=1e-2)
    with contextlib.ExitStack() as stack:
        players = None
        if acting_workers is not None:
            num_workers, transport = acting_workers
            kit = player_kit(policy)
            pool = make_pool(
                factory,
                10,
                num_workers,
                transport,
                groups=split_groups(10, num_groups),
                guest=invitation(kit),
            )
            players = WorkerPlayers(stack.enter_context(pool), kit)
        trainer = Trainer(
            pool,
            PPOLearner(policy, config),
            batch_size=400,
            total_timesteps=1200,
            seed=3,
            num_groups=num_groups,
            num_steps=num_steps,
            overlap=overlap,
            players=players,
        )
        reports = list(itertools.islice(trainer.iterations(), 3))
    returns = [report.returns.tolist() for report in reports]
    return weights_sha256(policy), returns, reports[-1].timesteps, reports[-1].episodes


@contextlib.contextmanager
def as_in_a_run():
    with (
        reproducible(1, torch.device("cpu")),
        mock.patch("prl.training.trainer._WARM_UP_STEPS", 200),  # it is as much a part of the run as it was
    ):
        yield


def outcomes(pool_of, env, modes):
    """Of all modes, one after the other on one pool: nothing is left of a run when the next one begins."""
    factory = env_factory(env[0], **env[1])
    with pool_of(factory, 10) as pool, as_in_a_run():
        return {name: outcome(pool, factory, **MODES[name]) for name in modes}


@pytest.fixture(scope="module")
def inline():
    return outcomes(InlinePool, CARTPOLE, MODES)


@pytest.mark.parametrize(
    ("num_workers", "transport"),
    [(1, "pipe"), (2, "shared"), (2, "pipe"), (3, "shared")],
)
def test_workers_and_transport_change_no_bit_of_fixed_rounds(inline, num_workers, transport):
    """Every number of workers, and two of them over either transport."""

    def processes(factory, num_envs):
        return ProcessPool(factory, num_envs, num_workers, transport=transport)

    assert outcomes(processes, CARTPOLE, MODES) == inline


def played_by_workers(env, mode, acting_workers):
    """As `outcomes` of one mode, with players in so many workers over a transport."""
    with as_in_a_run():
        return outcome(None, env_factory(env[0], **env[1]), acting_workers=acting_workers, **MODES[mode])


@pytest.mark.parametrize(
    ("mode", "acting_workers"),
    [
        *((mode, (2, "pipe")) for mode in MODES),
        *((mode, (3, "shared")) for mode in list(MODES)[::2]),
        *((mode, (1, "shared")) for mode in list(MODES)[1::2]),
    ],
)
def test_acting_workers_change_no_bit(inline, mode, acting_workers):
    """Every mode in several workers, and over either transport."""
    assert played_by_workers(CARTPOLE, mode, acting_workers) == inline[mode]


@pytest.mark.parametrize("acting_workers", [(2, "shared"), (2, "pipe")])
def test_nested_spaces_are_acted_on_in_workers_just_so(acting_workers):
    mode = "steps in two groups"
    assert played_by_workers(COMPOSITE, mode, acting_workers) == outcomes(InlinePool, COMPOSITE, [mode])[mode]


def test_every_mode_is_a_run_of_its_own(inline):
    assert len({sha for sha, *_ in inline.values()}) == len(MODES)
    assert outcomes(InlinePool, CARTPOLE, reversed(MODES)) == inline  # whatever was played before
    for name, (_, _, timesteps, episodes) in inline.items():
        assert timesteps == (1320 if "normalised" in name else 1200) or "episodes" in name
        assert episodes > 30


@pytest.mark.parametrize(("num_workers", "transport"), [(2, "pipe"), (3, "shared")])
def test_nested_spaces_change_nothing_about_it(num_workers, transport):
    def processes(factory, num_envs):
        return ProcessPool(factory, num_envs, num_workers, transport=transport)

    modes = ["steps in two groups"]
    assert outcomes(processes, COMPOSITE, modes) == outcomes(InlinePool, COMPOSITE, modes)


def test_fixed_rounds_through_the_config(tmp_path):
    settings = {"rollout": "steps", "num_steps": 50, "total_timesteps": 4000, "seed": 3, **NORMALIZED}
    first = weights(tmp_path / "a", num_workers=0, **settings)
    assert weights(tmp_path / "b", num_workers=2, num_groups=1, **settings) == first
    assert weights(tmp_path / "c", num_workers=0, **(settings | {"num_steps": 51})) != first
    again = parse(TrainConfig, ["--config", str(tmp_path / "a/config.yaml")], prog="train.py")
    assert train(dataclasses.replace(again, run_folder=tmp_path / "d"))["weights_sha256"] == first
