"""The checks of an examination: does an env do what training, repeating and recovering rely on?"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from workers.env_copies import close_quietly
from workers.envs import EnvFactory
from workers.errors import USER_ERRORS, describe
from workers.exam_needs import Before, needs
from workers.exam_play import Player, Take, digest
from workers.exam_wrappers import Disturbed, Timed, Watched, inside, seed_globals
from workers.findings import Finding, note, ok, warning
from workers.global_random import WATCHED_STEPS
from workers.pool import TRUNCATED

CHECKER = "checker"
NEEDS = "needs"

# Remarks of the checker on what prl does not mind.
_NEEDLESS = ("is -infinity", "is infinity", "symmetric and normalized space")

_TAKES = 20  # episodes that are repeated, at most
_TAKE_STEPS = 600  # of all of them
_TAKE_SECONDS = 1.5
_FRESH_SECONDS = 4.0  # after which no further env is built to be compared
_OTHER_SEED = 977_000_000


class Patient:
    """The env that is examined, and what is known about it so far.

    Args:
        factory: builds it.
        beat: called before every call of an env.
        before: of this process, when nothing of the env's had been imported.
        lengths: of the episodes that are repeated, so that they are those of another process; None lets the
            time decide.
        seconds: to play random episodes for.

    Attributes:
        data: for the checks of other processes, and for whoever watches.
    """

    def __init__(
        self,
        factory: EnvFactory,
        beat: Callable[[], None],
        before: Before,
        lengths: Sequence[int] | None = None,
        seconds: float = 1.5,
    ) -> None:
        self.factory, self.beat, self.before, self.seconds = factory, beat, before, seconds
        self.data: dict[str, Any] = {}
        self.is_repeatable = True
        self._lengths = lengths
        self._first: tuple[Player, list[Take]] | None = None

    def player(self, factory: EnvFactory | None = None) -> Player:
        """A new env."""
        return Player(self.factory if factory is None else factory, self.beat)

    def takes(self) -> tuple[Player, list[Take]]:
        """Some episodes, one after the other, and the env that has played them."""
        if self._first is None:
            player = self.player()
            self._first = player, list(self._played(player))
        return self._first

    def _played(self, player: Player) -> Iterator[Take]:
        if self._lengths is not None:
            yield from (player.play(number, steps, math.inf) for number, steps in enumerate(self._lengths))
            return
        until, left = time.monotonic() + _TAKE_SECONDS, _TAKE_STEPS
        for number in range(_TAKES):
            # Half of what is left: an env whose episodes are long shows more than one of them.
            take = player.play(number, -(-left // 2), until)
            left -= len(take.actions)
            yield take
            if left <= 0 or time.monotonic() > until:
                return


def check_with_gymnasium(patient: Patient) -> Iterator[Finding]:
    """Gymnasium's own checker, without rendering."""
    from gymnasium.utils.env_checker import check_env  # only here: workers do without

    env = patient.factory.build().unwrapped
    patient.beat()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=True, skip_close_check=True)
        except (*USER_ERRORS, AssertionError) as problem:
            yield warning(CHECKER, f"Gymnasium's env checker says: {describe(problem)}")
            return
        finally:
            close_quietly(env)
    remarks = list(dict.fromkeys(_remark(each.message) for each in caught))
    remarks = [text for text in remarks if not any(words in text for words in _NEEDLESS)]
    if not remarks:
        yield ok(CHECKER, "passes Gymnasium's env checker")
        return
    more = f" (and {len(remarks) - 1} more)" if len(remarks) > 1 else ""
    yield note(CHECKER, f"passes Gymnasium's env checker, which remarks: {remarks[0]}{more}", remarks=remarks)


def _remark(message: Warning | str) -> str:
    text = re.sub(r"\x1b\[\d+m", "", str(message))
    return " ".join(text.removeprefix("WARN: ").split())


def check_playing(patient: Patient) -> Iterator[Finding]:
    """Random legal actions; what the env returns is looked at as in a worker."""
    resets: list[float] = []
    steps: list[float] = []
    player = patient.player(inside(patient.factory, lambda env: Timed(env, resets, steps)))
    takes: list[Take] = []
    until = time.monotonic() + patient.seconds
    while time.monotonic() < until:
        takes.append(player.play(len(takes), 1 << 20, until))
    player.close()
    lengths = [len(take.actions) for take in takes if take.moments[-1].flags]
    returns = [sum(moment.reward for moment in take.moments) for take in takes if take.moments[-1].flags]
    truncated = sum(bool(take.moments[-1].flags & TRUNCATED) for take in takes)
    patient.data |= {
        "lengths": lengths,
        "truncated": truncated,
        "largest": player.largest,
        "longest_call": max(*resets, *steps, 0.0),
    }
    text = f"{counted(len(steps), 'random step')}; all that it returned is valid"
    if lengths:
        least, most = f"{min(lengths):,}", f"{max(lengths):,}"
        span = most if least == most else f"{least} to {most}"
        text += f". {counted(len(lengths), 'episode')} ended, after {span} steps; mean return "
        text += f"{np.mean(returns):,.5g}"
    yield ok("plays", text, steps=len(steps), episodes=len(lengths))
    if patient.factory.has_time_limit:
        text = f"all episodes end, {truncated or 'none'} of these by truncation"
        yield ok("time limit", text, truncated=truncated)
    yield _costs(resets, steps)


def _costs(resets: list[float], steps: list[float]) -> Finding:
    numbers: dict[str, float] = {}
    parts = []
    for name, seconds in (("step", steps), ("reset", resets)):
        if seconds:
            mean, p99 = float(np.mean(seconds)), float(np.quantile(seconds, 0.99))
            numbers |= {f"{name}_mean": mean, f"{name}_p99": p99}
            if mean <= p99:
                parts.append(f"a {name} takes {duration(mean)} (99 %: within {duration(p99)})")
            else:
                parts.append(
                    f"99 % of the {name}s take {duration(p99)} at most, but a few take up to "
                    f"{duration(max(seconds))}, which makes {duration(mean)} on average"
                )
    return ok("cost", "; ".join(parts), **numbers)


def check_seed(patient: Patient) -> Iterator[Finding]:
    """Two envs, the same seeds and actions."""
    _, takes = patient.takes()
    patient.data |= {"digest": digest(takes), "take_lengths": [len(take.actions) for take in takes]}
    other = patient.player()
    place = _first_difference(other, takes)
    other.close()
    if place is None:
        yield ok("seed", f"a function of its seed and actions ({_count(takes)} repeated by a second env)")
        return
    patient.is_repeatable = False
    draws = _draws(patient)
    yield warning(
        "seed",
        f"not a function of its seed and actions: {place}, a second env shows something else"
        f"{_blame(draws)}. Two runs with one seed will differ, and the episodes of a worker that dies are "
        "lost, not replayed",
        draws=draws,
    )


def check_globals(patient: Patient) -> Iterator[Finding]:
    """The same with other seeds of the global generators, which prl seeds for each episode."""
    if not patient.is_repeatable:
        return
    _, takes = patient.takes()
    disturbed = inside(
        patient.factory, lambda env: Disturbed(env, _OTHER_SEED), lambda: seed_globals(_OTHER_SEED)
    )
    other = patient.player(disturbed)
    place = _first_difference(other, takes)
    other.close()
    if place is None:
        yield ok("generators", "draws from its own generator (other seeds of the global ones change nothing)")
        return
    draws = _draws(patient)
    late = {name: step for name, step in draws.items() if step > WATCHED_STEPS}
    text = (
        f"draws from global generators ({', '.join(draws) or 'in its constructor'}) instead of "
        "self.np_random. prl seeds these for every episode, so a seed still means the same, at about 0.1 ms "
        "per step"
    )
    if late:
        step = min(late.values())
        text += f". It begins to draw in step {step}, so it does so only with the same number of workers"
    yield warning("generators", text, draws=draws)


def _draws(patient: Patient) -> dict[str, int]:
    """See `Watched`."""
    first: dict[str, int] = {}
    player = patient.player(inside(patient.factory, lambda env: Watched(env, first)))
    _first_difference(player, patient.takes()[1])
    player.close()
    return first


def _blame(draws: Mapping[str, int]) -> str:
    return f" (it draws from {' and '.join(draws)})" if draws else ""


def check_replay(patient: Patient) -> Iterator[Finding]:
    """A new env and one that has played before, the same seeds and actions."""
    if not patient.is_repeatable:
        return
    used, takes = patient.takes()
    until = time.monotonic() + _FRESH_SECONDS
    place = _first_difference(used, takes[:1])
    for number in range(1, len(takes)):
        if place is not None or time.monotonic() > until:
            break
        fresh = patient.player()
        place = _first_difference(fresh, takes[number : number + 1])
        fresh.close()
    if place is None:
        yield ok("replay", "a new env and one that has played before show the same, byte for byte")
        return
    yield warning(
        "replay",
        f"not replayable: {place}, a new env shows something else than one that has played before, so "
        "something outlives reset. A seed still gives the same weights on any number of workers. But the "
        "episodes of a worker that dies are lost, not replayed, and a run with --rollout steps cannot be "
        "resumed exactly",
    )


def check_digest(patient: Patient) -> Iterator[Finding]:
    """The hash of the repeated episodes, to be compared with that of another process."""
    patient.data["other_digest"] = digest(patient.takes()[1])
    yield from ()


def _first_difference(player: Player, takes: list[Take]) -> str | None:
    for take in takes:
        step = player.repeat(take)
        if step is not None:
            return "from the reset on" if step == 0 else f"from step {step} on"
    return None


def counted(number: int, what: str) -> str:
    """A number of things: "1 step", "1,200 steps"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _count(takes: list[Take]) -> str:
    steps = sum(len(take.actions) for take in takes)
    return f"{counted(steps, 'step')} in {counted(len(takes), 'episode')}"


def duration(seconds: float) -> str:
    """Seconds in a unit that suits: "12 us", "3.4 ms", "1.2 s"."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


CHECKS: Mapping[str, Callable[[Patient], Iterator[Finding]]] = MappingProxyType(
    {
        CHECKER: check_with_gymnasium,
        "plays": check_playing,
        "seed": check_seed,
        "generators": check_globals,
        "replay": check_replay,
        NEEDS: needs,
        "digest": check_digest,
    }
)
"""By name."""
