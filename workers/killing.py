"""Wrappers for whole runs under faults: processes that die at every stage of the protocol, and masks.

They are named in a config as `workers.killing:Dying(stage=step, folder=...)`, so any env can wear them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import gymnasium as gym
import numpy as np

from workers.channel import Channel
from workers.frames import Frame

Stage: TypeAlias = Literal["reset", "step", "stepped", "torn", "answered", "restart", "again", "stop"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Where a worker breaks: before `reset`; before `step`; after `step`, before the answer; when half of the
answer is written; when all of it is; in a step, and once more in the constructor of the new process; in a
step, and once more when that is repeated; stopped (SIGSTOP) in a step, until somebody kills it."""


class Dying(gym.Wrapper[Any, Any, Any, Any]):
    """Its worker breaks in some episodes, in each of them once. Harmless outside of workers.

    Which episodes these are, and at which of their steps they break, follows from their seeds, whoever plays
    them.

    Args:
        env: any env.
        stage: see `STAGES`.
        folder: in which a file is made for each fault, so that it happens once.
        one_in: so many episodes one has the fault.
        within: so many of its first steps.
    """

    def __init__(
        self, env: gym.Env[Any, Any], stage: Stage, folder: str, one_in: int = 25, within: int = 8
    ) -> None:
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage}")
        super().__init__(env)
        self._stage, self._folder, self._one_in = stage, Path(folder), one_in
        self._within = within
        self._is_worker = multiprocessing.current_process().name.startswith("prl-worker")
        self._seed = self._step = self._breaks_at = 0
        if self._is_worker and stage == "restart" and self._takes_turn():
            _kill()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        digest = zlib.crc32(str(seed).encode())
        self._seed, self._step = seed or 0, 0
        has_fault = self._is_worker and seed is not None and digest % self._one_in == 0
        self._breaks_at = 1 + digest // self._one_in % self._within if has_fault else 0
        if has_fault and self._stage == "reset" and self._happens():
            _kill()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        self._step += 1
        if self._step != self._breaks_at or self._stage == "reset":
            return self.env.step(action)
        if self._stage in ("step", "restart", "again", "stop"):
            self._break_before()
            return self.env.step(action)
        outcome = self.env.step(action)
        if self._happens():
            _kill() if self._stage == "stepped" else _kill_with_next_frame(half=self._stage == "torn")
        return outcome

    def _break_before(self) -> None:
        if self._happens():
            if self._stage == "restart":
                (self._folder / "turn").touch()
            os.kill(os.getpid(), signal.SIGSTOP if self._stage == "stop" else signal.SIGKILL)
        elif self._stage == "again" and self._happens("again"):
            _kill()

    def _happens(self, suffix: str = "") -> bool:
        """Whether this fault has not happened yet; from now on it has."""
        try:
            (self._folder / f"{self._seed}{suffix}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _takes_turn(self) -> bool:
        """Whether a constructor is to die, and no other has done so."""
        try:
            (self._folder / "turn").unlink()
        except FileNotFoundError:
            return False
        return True


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_with_next_frame(half: bool) -> None:
    """This process dies when the next frame is written, or the first half of it."""
    send = Channel.send

    def last_send(channel: Channel, frame: Frame, *args: Any, **kwargs: Any) -> None:
        if half:
            encoded = frame.encode()
            os.write(channel.fileno(), encoded[: len(encoded) // 2])
        else:
            send(channel, frame, *args, **kwargs)
        _kill()

    Channel.send = last_send  # type: ignore[method-assign, assignment]


class Masked(gym.ObservationWrapper[dict[str, Any], Any, Any]):
    """A Dict of the observation and a mask: the action that follows from its first number is not allowed.

    Args:
        env: with a Box of floats as observations and a Discrete of at least two actions.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, gym.spaces.Discrete), "masks are of choices"
        self._choices = int(env.action_space.n)
        self.observation_space = gym.spaces.Dict(
            obs=env.observation_space, action_mask=gym.spaces.MultiBinary(self._choices)
        )

    def observation(self, observation: Any) -> dict[str, Any]:
        """A tenth of the observations rule an action out."""
        mask = np.ones(self._choices, np.int8)
        digest = zlib.crc32(np.asarray(observation).tobytes())
        if digest % 10 == 0:
            mask[digest // 10 % self._choices] = 0
        return {"obs": observation, "action_mask": mask}
