"""`prl doctor`: what stands between an env and a good run, found before the run."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from learner.settings import ConfigError, is_number
from prl.commands.command import Command
from prl.commands.diagnosis.advice import Advice, advise, build_seconds, command, envs_of_a_worker
from prl.commands.diagnosis.machine import Plan, machine_findings, row_bytes
from prl.commands.diagnosis.networks import network_findings
from prl.commands.diagnosis.speed import Chosen, speed_findings
from prl.commands.diagnosis.workers import WorkerCosts, worker_findings
from prl.config.preset import find_preset
from prl.config.train_config import TrainConfig
from prl.run.build import build_factory
from prl.run.files import replace_json
from workers.cores import usable_cores
from workers.envs import EnvFactory
from workers.exam import ENVIRONMENT, Exam, Examination
from workers.exam_checks import CHECKER, counted
from workers.findings import Finding, Severity, error, note, ok, warning

_EXIT_CODES = {Severity.OK: 0, Severity.NOTE: 0, Severity.WARNING: 1, Severity.ERROR: 2}
_MARKS = {Severity.OK: "ok", Severity.NOTE: "note", Severity.WARNING: "WARN", Severity.ERROR: "ERROR"}
_WIDTH = 80
_TRACEBACK_LINES = 6
_LONGEST_START = 30.0  # seconds of building the envs of a worker, beyond which no speed is measured
_CHECKS = (CHECKER, "plays", "seed", "generators", "replay")
STDOUT = Path("-")


@dataclass(frozen=True)
class DoctorConfig(TrainConfig):
    """Look at an environment and this machine before training. Flags are those of train.

    The exit code is 0 if all is well, 1 with warnings, and 2 with errors: it cannot be trained so.

    Attributes:
        seconds: of measuring which number of workers is fastest; starting them comes on top. 0 leaves that
            out.
        call_timeout: seconds that one call of the env may take before it counts as hanging.
        json: write what was found to this file, too; - writes it to the standard output, and nothing else.

    Raises:
        ConfigError: a value is out of range.
    """

    num_workers: int | Literal["auto"] | None = "auto"
    seconds: float = 4.0
    call_timeout: float = 30.0
    json: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.seconds) or not 0.0 <= self.seconds <= 3600.0:
            raise ConfigError(f"seconds must be 0 or a positive number, at most 3600, got {self.seconds!r}")
        if not is_number(self.call_timeout, above=0.0) or self.call_timeout > 86_400.0:
            raise ConfigError(
                f"call_timeout must be a positive number of seconds, at most 86400, got {self.call_timeout!r}"
            )


@dataclass
class Diagnosis:
    """Everything that was found.

    Attributes:
        findings: in order.
        data: what checks of the env have told (see `workers.exam`).
        advice: the flags to use; none if the env cannot be trained.
        command: that trains with these flags; "" likewise.
    """

    findings: list[Finding] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    advice: list[Advice] = field(default_factory=list)
    command: str = ""

    @property
    def worst(self) -> Severity:
        """Of all findings."""
        return max((each.severity for each in self.findings), default=Severity.OK)

    @property
    def exit_code(self) -> int:
        """0: fine, 1: warnings, 2: errors."""
        return _EXIT_CODES[self.worst]

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "exit_code": self.exit_code,
            "findings": [each.to_json() for each in self.findings],
            "command": self.command,
            "advice": [dataclasses.asdict(each) for each in self.advice],
        }


def diagnose(config: DoctorConfig, diagnosis: Diagnosis) -> Iterator[Finding]:
    """Look at everything, and yield each finding as soon as it is there.

    Args:
        config: of the run, and of the doctor.
        diagnosis: gets all of it.
    """
    for finding in _all_findings(config, diagnosis):
        diagnosis.findings.append(finding)
        yield finding


def _all_findings(config: DoctorConfig, diagnosis: Diagnosis) -> Iterator[Finding]:
    options = {
        "env_kwargs": dict(config.env_kwargs),
        "max_episode_steps": config.max_episode_steps,
        "wrappers": tuple(config.wrappers),
        "ends_by_itself": config.ends_by_itself,
        "use_action_masks": config.action_masks,
    }
    exam = Exam(config.env_id, options, _CHECKS, seconds=min(1.5, 0.2 + config.seconds / 2))
    first = Examination(exam, config.call_timeout)
    yield from first.findings()
    diagnosis.data |= first.data
    if not first.is_complete:
        return
    lengths = first.data["take_lengths"]
    second = Examination(
        dataclasses.replace(exam, checks=("needs", "digest"), lengths=lengths), config.call_timeout
    )
    yield from (
        each for each in second.findings() if (each.name, each.severity) != (ENVIRONMENT, Severity.OK)
    )
    diagnosis.data |= second.data
    yield from _between_processes(diagnosis)
    factory = build_factory(config)
    yield from _time_limit(factory, config)
    yield from network_findings(factory, config)
    yield from _resources(factory, config, diagnosis)
    errors = {each.name for each in diagnosis.findings if each.severity is Severity.ERROR}
    if errors <= {"time limit"}:  # advice mends that
        yield from _speed_and_advice(factory, config, diagnosis)


def _between_processes(diagnosis: Diagnosis) -> Iterator[Finding]:
    here, there = diagnosis.data.get("digest"), diagnosis.data.get("other_digest")
    if there is None or any(
        each.name == "seed" and each.severity > Severity.NOTE for each in diagnosis.findings
    ):
        return
    if here == there:
        yield ok("processes", "the same episodes in another process")
        return
    yield warning(
        "processes",
        "the same seed and actions lead to something else in another process. That is what happens if it "
        "depends on the order of a set, on hash() of text, on a time or on a process id: two runs with one "
        "seed will differ",
    )


def _time_limit(factory: EnvFactory, config: TrainConfig) -> Iterator[Finding]:
    if factory.has_time_limit:
        return
    if config.rollout == "steps":
        yield note("time limit", "there is none; with --rollout steps none is needed")
        return
    yield error(
        "time limit",
        "there is none, so an episode might never end, and neither would a round: give --max-episode-steps, "
        "--ends-by-itself if the env ends all its episodes itself, or --rollout steps",
    )


def _resources(factory: EnvFactory, config: DoctorConfig, diagnosis: Diagnosis) -> Iterator[Finding]:
    env_bytes = diagnosis.data.get("env_bytes")
    costs: WorkerCosts | None = None
    for found in worker_findings(factory, config, env_bytes):
        if isinstance(found, Finding):
            yield found
        else:
            costs = found
    workers = config.num_workers if isinstance(config.num_workers, int) else usable_cores()
    envs = config.num_envs if isinstance(config.num_envs, int) else 32
    memory = None
    if costs is not None and costs.memory is not None and workers:
        memory = workers * costs.memory + max(0, envs - workers) * (env_bytes or 0)
    descriptors = 0 if costs is None else workers * costs.descriptors
    yield from machine_findings(Plan(workers, envs, memory, row_bytes(factory, envs), descriptors))


def _speed_and_advice(factory: EnvFactory, config: DoctorConfig, diagnosis: Diagnosis) -> Iterator[Finding]:
    plain = _plain(config)
    chosen: Chosen | None = None
    start = envs_of_a_worker(plain) * build_seconds(diagnosis.findings)
    if config.seconds and start > _LONGEST_START:
        yield note("speed", f"not measured, since each worker would start in about {start:.0f} s")
    for found in speed_findings(plain, config.seconds) if config.seconds and start <= _LONGEST_START else ():
        if isinstance(found, Finding):
            yield found
        else:
            chosen = found
    preset = find_preset(config.env_id, config.preset)
    effective = None if preset is None else preset.effective(config)
    diagnosis.advice = list(advise(plain, factory, diagnosis.findings, diagnosis.data, effective, chosen))
    diagnosis.command = command(plain, diagnosis.advice)


def _plain(config: DoctorConfig) -> TrainConfig:
    return TrainConfig(**{item.name: getattr(config, item.name) for item in dataclasses.fields(TrainConfig)})


# ---- on the screen


def _rows(finding: Finding) -> str:
    margin = f"{_MARKS[finding.severity]:5}  {finding.name:13}  "
    text = textwrap.fill(
        finding.text,
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=" " * len(margin),
        break_on_hyphens=False,
        break_long_words=False,
    )
    if finding.severity is Severity.ERROR:
        told = str(finding.numbers.get("traceback") or finding.numbers.get("printed") or "").rstrip()
        lines = told.splitlines()[-_TRACEBACK_LINES:]
        text = "\n".join([text, *(f"         {line}" for line in lines)])
    return text


def _print_advice(diagnosis: Diagnosis) -> None:
    print()
    print(diagnosis.command)  # in one line, so that it can be pasted
    for each in diagnosis.advice:
        text = f"{each.flags}: {each.reason}." if each.flags else f"{each.reason}."
        print(
            textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        )


def _verdict(findings: Sequence[Finding], has_command: bool) -> str:
    counts = {kind: sum(each.severity is kind for each in findings) for kind in Severity}
    errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
    if errors:
        way_out = ", but with the command above" if has_command else ""
        found = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        return f"{found}: it cannot be trained so{way_out}."
    if warnings:
        return f"{counted(warnings, 'warning')}: it can be trained."
    return "All is well."


def _examine(config: DoctorConfig) -> int:
    diagnosis = Diagnosis()
    quiet = config.json == STDOUT
    for finding in diagnose(config, diagnosis):
        if not quiet:
            print(_rows(finding), flush=True)
    if quiet:
        json.dump(diagnosis.to_json(), sys.stdout, indent=2)
        print()
        return diagnosis.exit_code
    if diagnosis.command:
        _print_advice(diagnosis)
    print(f"\n{_verdict(diagnosis.findings, bool(diagnosis.command))}")
    if config.json is not None:
        replace_json(config.json, diagnosis.to_json())
    return diagnosis.exit_code


COMMAND = Command(DoctorConfig, _examine)
