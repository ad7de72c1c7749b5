"""How far a run has come, and how long its parts take."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Any

from prl.training.episode_infos import EpisodeInfos
from prl.training.rounds import Round

_RECENT_EPISODES = 100


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        iteration: updates so far.
        round: rounds so far.
        episodes: finished so far.
        timesteps: env steps so far.
        lost_episodes: so far.
        recent_returns, recent_lengths: of the last 100 episodes.
        infos: what episodes have said.
    """

    iteration: int = 0
    round: int = 0
    episodes: int = 0
    timesteps: int = 0
    lost_episodes: int = 0
    recent_returns: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_EPISODES))
    recent_lengths: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT_EPISODES))
    infos: EpisodeInfos = field(default_factory=lambda: EpisodeInfos(()))

    def count(self, played: Round) -> None:
        """One more round."""
        self.round += 1
        self.episodes += len(played.returns)
        self.timesteps += played.steps
        self.lost_episodes += played.lost
        self.recent_returns.extend(played.returns.tolist())
        self.recent_lengths.extend(played.lengths.tolist())
        self.infos.add(played.infos)

    def state_dict(self) -> dict[str, Any]:
        """All fields, as numbers and lists of numbers; `infos` as its own state."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "infos"}
        state = {name: list(v) if isinstance(v, deque) else v for name, v in values.items()}
        return {**state, "infos": self.infos.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`. States of earlier versions of prl have no infos."""
        self.infos.load_state_dict(state.get("infos", {}))
        for item in fields(self):
            if item.name == "infos":
                continue
            value = state[item.name]
            setattr(self, item.name, deque(value, _RECENT_EPISODES) if isinstance(value, list) else value)


class Stopwatch:
    """The time of training itself, without what the caller does between two reports.

    Args:
        timesteps: env steps at its start.
    """

    def __init__(self, timesteps: int) -> None:
        self._start = self._lap = time.perf_counter()
        self._paused_at = self._start
        self._start_steps = timesteps

    def pause(self) -> None:
        """The caller does something."""
        self._paused_at = time.perf_counter()

    def resume(self) -> None:
        """Training goes on."""
        paused = time.perf_counter() - self._paused_at
        self._start += paused
        self._lap += paused

    def lap(self) -> float:
        """Seconds since the last lap, or the start."""
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        return seconds

    def steps_per_second(self, timesteps: int) -> float:
        """Since the start."""
        return (timesteps - self._start_steps) / (time.perf_counter() - self._start)
