"""The mistakes of `mutation_check.py`: where, what is right, what is wrong, and which tests are asked."""

from __future__ import annotations

from mutation import Mutation
from mutations_checkpoints import CHECKPOINTS
from mutations_learner import LEARNER
from mutations_players import PLAYERS
from mutations_recovery import RECOVERY
from mutations_runs import RUNS
from mutations_showing import SHOWING

__all__ = ["MUTATIONS", "Mutation"]

MUTATIONS = (*LEARNER, *PLAYERS, *RECOVERY, *RUNS, *CHECKPOINTS, *SHOWING)
