"""An examination of an env, which a process of its own carries out: see `workers.probe`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.envs import EnvFactory, env_factory
from workers.errors import EnvError, EnvFailure, one_line
from workers.exam_checks import CHECKER, CHECKS, NEEDS, Patient, duration
from workers.exam_needs import Before
from workers.findings import Finding, error, note, ok
from workers.probe import ProbeEnded, ProbeHung, Tell, watched

ENVIRONMENT = "environment"
"""The check that comes before all others: whether the env can be built."""

_PATIENCE = "; if it needs that long, --call-timeout gives it more"
_BEAT = 0.2  # seconds from one sign of life to the next


@dataclass(frozen=True)
class Exam:
    """The job: what to look at. Implements `workers.probe.Job`.

    Attributes:
        env_id: see `env_factory`.
        options: keyword arguments of `env_factory`.
        checks: keys of `CHECKS`.
        lengths: see `Patient`.
        seconds: to play random episodes for.

    Its messages: {"check": name} when a check begins, {"finding": ...} of `Finding.to_json`, {"data": {...}}
    that other checks need, {} as a sign of life.
    """

    env_id: str
    options: Mapping[str, Any]
    checks: Sequence[str]
    lengths: Sequence[int] | None = None
    seconds: float = 1.5

    def run(self, tell: Tell) -> None:
        """See `Job.run`."""
        before = Before.now()
        tell({"check": ENVIRONMENT})
        began = time.perf_counter()
        try:
            # This is a process for it; but what one env needs is seen where there was none before.
            elsewhere = NEEDS in self.checks
            factory = env_factory(self.env_id, **self.options, own_process=elsewhere)
        except EnvError as problem:
            tell({"finding": _unusable(problem).to_json()})
            return
        seconds = time.perf_counter() - began
        tell({"finding": _built(factory, seconds).to_json()})
        patient = Patient(factory, _Beat(tell), before, self.lengths, self.seconds)
        for name in self.checks:
            tell({"check": name})
            try:
                for finding in CHECKS[name](patient):
                    tell({"finding": finding.to_json()})
            except EnvFailure as failure:
                tell({"finding": error(name, one_line(failure), traceback=failure.traceback).to_json()})
                return
            tell({"data": patient.data})


class _Beat:
    """Signs of life, not too many of them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _BEAT
            self._tell({})


def _unusable(problem: EnvError) -> Finding:
    return error(ENVIRONMENT, one_line(problem), traceback=problem.traceback)


def _built(factory: EnvFactory, seconds: float) -> Finding:
    size = len(factory.payload)
    text = f"built in {duration(seconds)}; workers get {size:,} bytes to build it from"
    return ok(ENVIRONMENT, text, build_seconds=seconds, payload_bytes=size)


class Examination:
    """Carries out an exam in processes of their own.

    Args:
        exam: what to look at.
        silence: seconds that one call of the env may take.

    Attributes:
        data: what checks have told, for others.
        is_complete: whether every check was carried out.
    """

    def __init__(self, exam: Exam, silence: float) -> None:
        self._exam, self._silence = exam, silence
        self.data: dict[str, Any] = {}
        self.is_complete = False

    def findings(self) -> Iterator[Finding]:
        """Of all checks, in order.

        A check whose process dies or hangs has that as its finding. What comes after a check that failed is
        not looked at, since it would fail likewise; Gymnasium's checker alone does things of its own.
        """
        left, skipped = list(self._exam.checks), 0
        while True:
            current = ENVIRONMENT
            try:
                for message in watched(replace(self._exam, checks=left), self._silence):
                    current = message.get("check", current)
                    self.data.update(message.get("data", {}))
                    if "finding" in message and not (skipped and current == ENVIRONMENT):
                        yield Finding.of_json(message["finding"])
            except ProbeEnded as ended:
                advice = _PATIENCE if isinstance(ended, ProbeHung) else ""
                yield error(current, f"{ended}{advice}", printed=ended.printed, stack=ended.stack)
            if current == ENVIRONMENT:
                return
            skipped = left.index(current) + 1
            left = left[skipped:]
            if not left or current != CHECKER:
                break
        if left:
            yield note("not looked at", ", ".join(left))
        self.is_complete = not left
