"""A study in a folder: which trials there are, and what comes next. Several processes may work on one."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learner.settings import ConfigError
from prl.run.files import WriteError
from prl.run.lock import FolderLock
from prl.tuning.locks import JournalLock, WaitingLock
from prl.tuning.space import Space
from workers.errors import one_line
from workers.seeding import Stream, seed_sequence

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

JOURNAL = "journal.log"
_LOCK = "study.lock"
_PROCESSES = "processes"
_OURS = {JOURNAL, f"{JOURNAL}.lock", _LOCK, _PROCESSES}
_NAME = "prl"

# Attributes of trials. Optuna keeps what it knows nothing about as JSON.
_PROCESS = "process"  # which one runs it
_AGAIN = "again"  # the number of the killed trial that it repeats
RETURNS = "returns"  # f64[seeds so far], the means of the last evaluations
TIMESTEPS = "timesteps"  # of all its runs together
REASON = "reason"  # why it has no result


def require_optuna() -> None:
    """Check that the extra is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f'tune needs the extra "tune": pip install "prl[tune]" ({one_line(error)})'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # prl says itself how trials end


class Study:
    """A study, opened by this process. As a context manager it is closed when the block ends.

    A trial belongs to the process that runs it, which holds the lock of a file for as long as it lives. A
    trial that is said to run although its process has ended is over, and another one with the same settings
    takes its place.

    Args:
        folder: made if need be.
        about: what all trials have in common, and what is searched; as JSON can hold it.
        space: what is searched.
        start: params of the first trial; what is missing is drawn.
        seed: of what is drawn.
        startup_trials: drawn at random, before results are learnt from.

    Raises:
        ConfigError: the folder holds something else or another study, or cannot be written; or Optuna is not
            installed.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        space: Space,
        start: Mapping[str, Any],
        seed: int,
        startup_trials: int = 10,
    ) -> None:
        require_optuna()
        self.folder = folder.absolute()
        self._seed = seed
        self._startup_trials = startup_trials
        self._distributions = space.distributions()
        _check_folder(self.folder)
        try:
            (self.folder / _PROCESSES).mkdir(parents=True, exist_ok=True)
            self.locked = WaitingLock(self.folder / _LOCK)
            with self.locked:
                self._study = _open_journal(self.folder / JOURNAL)
                self._check(about)
                if not self._study.get_trials(deepcopy=False):
                    self._study.enqueue_trial(dict(start))
                self._claim = self._claim_name()
        except OSError as error:
            raise ConfigError(f"cannot write study {folder}: {error.strerror or error}") from error

    def _check(self, about: Mapping[str, Any]) -> None:
        """Compare with the study that is there.

        Raises:
            ConfigError: it is another one.
        """
        there = self._study.user_attrs.get("about")
        if there is None:
            self._study.set_user_attr("about", dict(about))
            return
        for name in {**there, **about}:
            if there.get(name) != about.get(name):
                raise ConfigError(
                    f"study {self.folder} was begun with {name} {there.get(name)}, not {about.get(name)}; "
                    "give what it was begun with, or another --study"
                )

    def _claim_name(self) -> str:
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        file = self.folder / _PROCESSES / name
        file.touch()
        self._life = FolderLock(file)
        return name

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._life.release()
        with contextlib.suppress(OSError):
            (self.folder / _PROCESSES / self._claim).unlink()

    def ask(self, trials: int) -> Trial | None:
        """The next trial, which from now on is this process's.

        Args:
            trials: of the whole study, of all processes.

        Returns:
            The trial; None if as many have begun.

        Raises:
            WriteError: the study cannot be written.
        """
        with self.locked, _written(self.folder):
            self._bury_the_dead()
            number = len(self.trials())
            if number >= trials:
                return None
            # Anew for each trial: what is drawn depends on the seed and on the results so far alone.
            self._study.sampler = _sampler(self._seed, number, self._startup_trials)
            trial = self._study.ask(self._distributions)
            trial.set_user_attr(_PROCESS, self._claim)
            return trial

    def _bury_the_dead(self) -> None:
        from optuna.trial import TrialState

        everything = self._study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(_AGAIN) for trial in everything}
        for trial in everything:
            if trial.state is not TrialState.RUNNING or self._lives(trial.user_attrs.get(_PROCESS)):
                continue
            if trial.number not in repeated:  # nor by somebody who was killed in the middle of this
                params = trial.system_attrs.get("fixed_params", {}) | trial.params
                self._study.enqueue_trial(params, user_attrs={_AGAIN: trial.number})
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _lives(self, process: str | None) -> bool:
        """Whether a process lives. Without a name it was killed while it got its trial: we hold the lock."""
        if process is None:
            return False
        file = self.folder / _PROCESSES / process
        try:
            FolderLock(file).release()
        except ConfigError:
            return True
        except OSError:
            return False
        with contextlib.suppress(OSError):
            file.unlink()
        return False

    def trials(self) -> list[FrozenTrial]:
        """The trials that have begun, without those whose process was killed (FAIL), in their order."""
        from optuna.trial import TrialState

        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state not in (TrialState.WAITING, TrialState.FAIL)
        ]

    def values_at(self, step: int) -> list[float]:
        """What trials that have ended had at a step.

        Args:
            step: see `Steps.step`.
        """
        return [
            trial.intermediate_values[step]
            for trial in self.trials()
            if trial.state.is_finished() and step in trial.intermediate_values
        ]

    def report(self, trial: Trial, step: int, value: float) -> None:
        """Keep the value of a trial at a step.

        Raises:
            WriteError: the study cannot be written.
        """
        with _written(self.folder):
            trial.report(value, step)

    def end(self, trial: Trial, returns: Sequence[float], timesteps: int, reason: str | None = None) -> None:
        """Keep how a trial has ended.

        Args:
            trial: of this process.
            returns: of the seeds that have been run to their end.
            timesteps: of all its runs.
            reason: why there is no result; None takes the mean of the returns.

        Raises:
            WriteError: the study cannot be written.
        """
        from optuna.trial import TrialState

        with _written(self.folder):
            trial.set_user_attr(RETURNS, list(returns))
            trial.set_user_attr(TIMESTEPS, timesteps)
            if reason is None:
                self._study.tell(trial, sum(returns) / len(returns))
                return
            trial.set_user_attr(REASON, reason)
            self._study.tell(trial, state=TrialState.PRUNED)


def _check_folder(folder: Path) -> None:
    """Check that nothing else is in the folder of a study.

    Raises:
        ConfigError: there is.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"study {folder} is not a folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - _OURS and JOURNAL not in names:
        raise ConfigError(
            f"study {folder} holds something else ({min(names - _OURS)}); choose another --study"
        )


def _open_journal(file: Path) -> OptunaStudy:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lock: Any = JournalLock(file)
    try:
        with lock:  # a torn line is cut off before anybody reads it
            pass
        storage = JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
        return optuna.create_study(
            storage=storage, study_name=_NAME, direction="maximize", load_if_exists=True
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise ConfigError(f"{file} is damaged: {one_line(error)}") from error


def _sampler(seed: int, trial: int, startup_trials: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    numbers = seed_sequence(seed, Stream.TUNING, trial).generate_state(1)
    return TPESampler(seed=int(numbers[0]), n_startup_trials=startup_trials)


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna: nothing that a user could do about
            yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write study {folder}: {error.strerror or error}") from error
