"""Going on with a run from its newest whole checkpoint."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.adam import as_flat
from learner.policy import ActorCritic
from learner.settings import ConfigError
from prl.config.train_config import TrainConfig, described
from prl.run.build import pick_device
from prl.run.checkpoint_check import check_fits
from prl.run.checkpoint_files import Checkpoint, CheckpointError, read_checkpoint
from prl.run.checkpointing import SafePoint
from prl.run.checkpoints import Checkpoints
from prl.run.periodic_evaluation import NOTHING_SO_FAR, EvaluationsSoFar
from prl.run.run_folder import here_and_now
from prl.training.trainer import Trainer
from workers.errors import WorkerError

MAY_CHANGE = (
    *(
        "total_timesteps",
        "num_workers",
        "acting",
        "transport",
        "pin_workers",
        "step_timeout",
        "start_timeout",
        "close_timeout",
    ),
    *(
        "on_worker_failure",
        "max_restarts",
        "replay_limit",
        "checkpoint_every",
        "keep_checkpoints",
        "device",
        "log_info",
        "track",
        "track_project",
    ),
)
"""Settings that may be given anew when a run goes on: they change no bit of what was to come, except
for a raised total, which stretches annealed schedules from there on, and another kind of device."""

_OF_NO_EFFECT = ("run_folder", "preset")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in the text of a space of another class
_STATE = {"trainer", "evaluations", "seconds", "torch_rng"}


@dataclass(frozen=True)
class Begun:
    """How far a run has come that begins or goes on.

    Attributes:
        timesteps, updates, episodes, lost_episodes: so far.
        mean_return: over the last 100 episodes; NaN before the first has ended.
        evaluations: so far.
        seconds: that it has taken before.
        point: where it goes on; None at the beginning.
    """

    timesteps: int = 0
    updates: int = 0
    episodes: int = 0
    lost_episodes: int = 0
    mean_return: float = math.nan
    evaluations: EvaluationsSoFar = NOTHING_SO_FAR
    seconds: float = 0.0
    point: SafePoint | None = None


AT_THE_BEGINNING = Begun()


def run_state(trainer: Mapping[str, Any], evaluations: EvaluationsSoFar, seconds: float) -> dict[str, Any]:
    """The state of a run.

    Args:
        trainer: its state.
        evaluations: so far.
        seconds: that the run has taken.
    """
    return {
        "trainer": trainer,
        "evaluations": evaluations.as_numbers(),
        "seconds": seconds,
        "torch_rng": torch.get_rng_state(),  # custom encoders may draw from it; prl does not
    }


def about_run(config: TrainConfig, policy: ActorCritic) -> dict[str, Any]:
    """What the manifest of a run's checkpoints says.

    Args:
        config: of the run.
        policy: of the run, on its device.
    """
    spaces = (policy.observation_space, policy.action_space)
    return {
        "made_by": here_and_now(),
        "device": policy.device.type,
        "spaces": [_ADDRESS.sub("", str(space)) for space in spaces],
        "config": described(config),
    }


class Resumption:
    """The checkpoints of a run, tried from the newest on until one can be loaded.

    A damaged one is named in a warning and renamed, so that it is not tried again.

    Args:
        run: the folder, for messages.
        checkpoints: of the run.

    Raises:
        ConfigError: none of them can be read.
    """

    def __init__(self, run: Path, checkpoints: Checkpoints) -> None:
        self._run = run
        self._checkpoints = checkpoints
        self._left = checkpoints.newest_first()
        self._refused: list[tuple[Path, str]] = []
        self._found = self._next()

    def _next(self) -> Checkpoint:
        while self._left:
            try:
                return read_checkpoint(self._left[0])
            except CheckpointError as error:
                self._refuse(error)
        if not self._refused:
            raise ConfigError(
                f"{self._run} has no checkpoint to go on from; "
                f"--config {self._run / 'config.yaml'} begins such a run again in another folder"
            )
        path, reason = self._refused[0]
        raise ConfigError(f"{self._run} cannot go on: checkpoint {path.name}: {reason}")

    def _refuse(self, error: CheckpointError) -> None:
        self._refused.append((self._left.pop(0), str(error)))

    def device(self, name: str) -> torch.device:
        """The device to go on with: "auto" is that of the run, or the CPU if it is not there.

        Args:
            name: of the setting.

        Raises:
            ConfigError: there is no such device at all.
        """
        if name == "auto":
            name = "cuda" if self._found.about.get("device") == "cuda" else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            _warn(f"device {name} is not there; the run goes on on the CPU")
            name = "cpu"
        return pick_device(name)

    def check(self, here: Mapping[str, Any]) -> None:
        """Compare what the newest checkpoint was made with, and by, with what is there now.

        Args:
            here: see `about_run`.

        Raises:
            ConfigError: the env's spaces are others.
        """
        about = self._found.about
        if about.get("spaces") != here["spaces"]:
            raise ConfigError(
                f"{self._run} cannot go on with other spaces: its env had {_short(about.get('spaces'))}, "
                f"and has {_short(here['spaces'])} now"
            )
        self._compare_settings(_text(about, "config"), here["config"])
        self._compare_machines(about, here)

    def _compare_settings(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        others = [
            f"{name} {now[name]} (was {then[name]})"
            for name in now
            if name in then and then[name] != now[name] and name not in MAY_CHANGE + _OF_NO_EFFECT
        ]
        if others:
            _warn(f"{self._run} goes on with other settings than it began with: {', '.join(others)}")

    def _compare_machines(self, about: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        made, makes = _text(about, "made_by"), here["made_by"]
        changed = [
            f"{name} {makes[name]} (was {made.get(name)})"
            for name in makes
            if made.get(name) != makes[name] and name != "platform"
        ]
        if about.get("device") != here["device"]:
            changed.append(f"device {here['device']} (was {about.get('device')})")
        if changed:
            _warn(f"last bits of weights will differ from here on: {', '.join(changed)}")

    def load(self, trainer: Trainer) -> Begun:
        """Bring a trainer to where the run was.

        Raises:
            ConfigError: no checkpoint fits.
            WorkerError: a worker died, hung or reported a failed env.
            WriteError: a damaged checkpoint cannot be renamed.
        """
        template = trainer.state_dict()
        while True:
            try:
                begun = _loaded(trainer, self._found, template)
                break
            except CheckpointError as error:
                self._refuse(error)
                self._found = self._next()
        for path, reason in self._refused:
            _warn(
                f"checkpoint {path} is not used: {reason}. The run goes back to the one before, of "
                f"{begun.timesteps:,} steps"
            )
            self._checkpoints.set_aside(path)
        return begun


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def _short(spaces: object) -> str:
    text = " and ".join(map(str, spaces)) if isinstance(spaces, list) else str(spaces)
    return " ".join(text.split())[:200]


def _text(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = about.get(name)
    return found if isinstance(found, dict) else {}


def _loaded(trainer: Trainer, checkpoint: Checkpoint, template: dict[str, Any]) -> Begun:
    """Load a checkpoint into a trainer, which another can overwrite if that fails halfway.

    Raises:
        CheckpointError: it does not fit.
    """
    state = checkpoint.state
    if state.keys() != _STATE:
        raise CheckpointError(f"its state has {', '.join(sorted(map(str, state)))}")
    found = _for_steps_by_hand(state["trainer"], template)
    check_fits(found, template)
    progress = found["progress"]
    if progress["timesteps"] != checkpoint.timesteps:
        raise CheckpointError(f"its state is of {progress['timesteps']} steps, not {checkpoint.timesteps}")
    try:
        lost = trainer.load_state_dict(found)
        torch.set_rng_state(state["torch_rng"])
        evaluations = EvaluationsSoFar.of_numbers(state["evaluations"])
        seconds = float(state["seconds"])
    except WorkerError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(" ".join(str(error).split()) or type(error).__name__) from error
    if lost:
        _warn(f"{lost} running episodes cannot be brought back and are lost; others begin in their place")
    best = None if evaluations.best is None else evaluations.best.timesteps
    returns = progress["recent_returns"]
    return Begun(
        timesteps=checkpoint.timesteps,
        updates=progress["iteration"],
        episodes=progress["episodes"],
        lost_episodes=progress["lost_episodes"] + lost,
        mean_return=float(np.mean(returns)) if returns else math.nan,
        evaluations=evaluations,
        seconds=seconds,
        point=SafePoint(checkpoint.timesteps, progress["iteration"], state, best),
    )


def _for_steps_by_hand(state: Any, template: dict[str, Any]) -> Any:
    """A trainer's state with optimisers as its template has them: a GPU's, for a CPU that steps by hand.

    Raises:
        CheckpointError: they cannot be converted.
    """
    if not isinstance(state, dict) or not isinstance(state.get("learner"), dict):
        raise CheckpointError("its state is that of something else")
    learner, wanted = dict(state["learner"]), template["learner"]
    try:
        if (learner["step"], wanted["step"]) == ("AutogradStep", "FusedStep"):
            learner |= {"step": "FusedStep", "optimizer": as_flat(learner["optimizer"])}
        bonus = learner["exploration"]
        if (bonus.get("step"), wanted["exploration"].get("step")) == ("AutogradRNDStep", "FusedRNDStep"):
            flat = {"step": "FusedRNDStep", "optimizer": as_flat(bonus["optimizer"])}
            learner["exploration"] = bonus | flat
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"its optimiser cannot go on here: {error}") from error
    return {**state, "learner": learner}
