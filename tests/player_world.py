"""A small world of players in workers, and their rounds; with torch: not for worker processes."""

import dataclasses

import torch
from helpers import same_fields

from learner.policy import ActorCritic
from prl.training.rounds import EpisodeTracker, FixedSteps, WholeEpisodes, split_groups
from prl.training.worker_players import WorkerPlayers, invitation, player_kit
from workers.envs import env_factory
from workers.guest import Invitation
from workers.process_pool import ProcessPool
from workers.seeding import Stream, episode_seed
from workers.testing import ProbeEnv

SEED = 11
GROUPS = split_groups(4, 2)  # of two envs and a worker each
FIRST = [episode_seed(SEED, env, 0) for env in range(4)]


class World:
    """Four envs in two workers, in which players of an untrained policy play.

    Args:
        factory: of the envs; `ProbeEnv`s by default.
        guest: takes the place of the players.
        normalizes: whether observations are normalised.
        wrap: makes another pool of it.
        news_every: see `PlayerKit`.
        options: of the pool.
    """

    def __init__(
        self, factory=None, *, guest=None, normalizes=False, wrap=lambda pool: pool, news_every=0.0, **options
    ):
        factory = env_factory(ProbeEnv) if factory is None else factory
        spaces = factory.observation_space, factory.action_space
        self.policy = ActorCritic(*spaces, (8,), 2, normalize_obs=normalizes)
        with torch.no_grad():  # actions should depend on what is seen
            self.policy.actor[-1].weight.mul_(100.0)
        kit = dataclasses.replace(player_kit(self.policy), news_every=news_every)
        invited = invitation(kit) if guest is None else Invitation(guest, invitation(kit).shared_bytes)
        self.pool = wrap(ProcessPool(factory, 4, 2, invitation=invited, **{"step_timeout": 20.0} | options))
        self.players = WorkerPlayers(self.pool, kit)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.pool.close()

    def play(self, num_steps=None, groups=(0, 1)):
        """One more round of these groups, with the present weights; an iterator."""
        rounds = kind_of(num_steps, self.policy)
        return self.players.play(self.players.publish(self.policy), tasks_of(rounds, 0, groups))


def kind_of(num_steps, policy, num_envs=4, seed=SEED):
    """Rounds of whole episodes, or of so many steps."""
    tracker = EpisodeTracker(num_envs, seed)
    return WholeEpisodes(tracker) if num_steps is None else FixedSteps(tracker, num_steps, policy.head.to_env)


def tasks_of(rounds, number, groups=(0, 1)):
    """Of a round, one task per group."""
    return [rounds.task(group, GROUPS[group], (Stream.NOISE, number)) for group in groups]


def same_parts(left, right):
    """Field by field, nested ones included; groups may come in any order."""
    for one, other in zip(*(sorted(parts, key=lambda p: p.group) for parts in (left, right)), strict=True):
        same_fields(one, other)
