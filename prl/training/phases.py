"""Where the time of an iteration went."""

from __future__ import annotations

from typing import Protocol

from prl.training.group_round import PlayingTime
from prl.training.players import LearnerPlayers, Players


class _Collected(Protocol):
    @property
    def seconds(self) -> float: ...

    @property
    def playing(self) -> PlayingTime: ...


def phase_shares(
    collected: _Collected, update_seconds: float, seconds: float, players: Players
) -> dict[str, float]:
    """Shares of an iteration's wall-clock time, which add up to 1.

    * `env`: stepping envs; `act`: choosing actions; `store`: keeping steps. If several processes play at the
      same time, the mean over them, as far as the learner has waited for it.
    * `wait`: waiting for envs or for players, beyond that.
    * `update`: learning; `other`: the rest.

    Args:
        collected: how long the learner was collecting, and what players spent.
        update_seconds: of learning.
        seconds: of the iteration.
        players: have played.
    """
    playing, processes = collected.playing, players.num_processes
    env, act, store = (part / processes for part in (playing.pool, playing.act, playing.store))
    waits_for_envs = isinstance(players, LearnerPlayers) and players.pool.num_workers > 0
    shown = min(1.0, collected.seconds / max(env + act + store, 1e-9))
    phases = {
        "env": 0.0 if waits_for_envs else env * shown,
        "act": act * shown,
        "store": store * shown,
        "wait": env * shown if waits_for_envs else 0.0,
        "update": update_seconds,
    }
    phases["wait"] += max(0.0, collected.seconds - (env + act + store) * shown)
    phases["other"] = max(0.0, seconds - collected.seconds - update_seconds)
    return {f"time/{name}_share": value / seconds for name, value in phases.items()}
