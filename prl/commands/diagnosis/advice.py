"""The flags that the doctor would use, and why."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prl.commands.diagnosis.speed import Chosen
from prl.config.preset import Preset
from prl.config.train_config import TrainConfig
from prl.config.yaml_format import dump
from workers.cores import usable_cores
from workers.envs import EnvFactory
from workers.exam_checks import counted
from workers.findings import Finding, Severity

_LARGE = 10.0  # numbers in observations beyond which networks learn better from normalised ones
_SHARE = 0.5  # of a timeout
_SLOW_START = 5.0  # seconds that building an env takes, from which on something should be said
_FEW = 3  # episodes; what they have in common may be chance


@dataclass(frozen=True)
class Advice:
    """One flag, or several that belong together.

    Attributes:
        flags: for `prl train`, "" if it needs none.
        reason: a sentence without a full stop.
    """

    flags: str
    reason: str


def advise(
    config: TrainConfig,
    factory: EnvFactory,
    findings: Sequence[Finding],
    data: Mapping[str, Any],
    preset: Preset | None,
    chosen: Chosen | None,
) -> Iterator[Advice]:
    """What to add to the flags that were given.

    Args:
        config: as given, with its preset.
        factory: of the env.
        findings: all of them.
        data: of the examination.
        preset: that applies; None for none.
        chosen: by measuring; None if nothing was measured.
    """
    if preset is not None and preset.settings:
        yield Advice("", f"preset {preset.pattern} ({preset.family}) applies by itself: tuned settings")
    yield from _of_limit(config, factory, data)
    if chosen is not None:
        yield from _of_speed(config, chosen)
    needs_pipe = any(each.name == "shared memory" and each.severity is Severity.WARNING for each in findings)
    if needs_pipe and config.transport != "pipe":
        yield Advice("--transport pipe", "shared memory does not suffice")
    if data.get("largest", 0.0) > _LARGE and not config.normalize_obs and config.encoder is None:
        yield Advice(
            "--normalize-obs",
            f"numbers in observations reach {data['largest']:,.4g}; networks learn better from small ones",
        )
    yield from _of_timeout(config, data)
    yield from _of_start(config, build_seconds(findings))


def build_seconds(findings: Sequence[Finding]) -> float:
    """What building an env takes, as far as the findings say."""
    return max((float(each.numbers.get("build_seconds", 0.0)) for each in findings), default=0.0)


def _of_start(config: TrainConfig, seconds: float) -> Iterator[Advice]:
    """A worker builds its envs one after the other, each within `start_timeout`."""
    if seconds < _SLOW_START:
        return
    each = envs_of_a_worker(config)
    text = (
        f"building an env takes {seconds:.0f} s, so a worker with {counted(each, 'env')} starts in about "
        f"{each * seconds:.0f} s, and once more if it breaks; few envs save time"
    )
    if seconds > _SHARE * config.start_timeout:
        yield Advice(f"--start-timeout {4 * math.ceil(seconds)}", text)
    else:
        yield Advice("", f"{text}; --start-timeout {config.start_timeout:g} is enough for each")


def envs_of_a_worker(config: TrainConfig) -> int:
    """How many envs a worker hosts."""
    workers = config.num_workers if isinstance(config.num_workers, int) else usable_cores()
    envs = config.num_envs if isinstance(config.num_envs, int) else 1
    return -(-envs // max(1, workers))


def _of_timeout(config: TrainConfig, data: Mapping[str, Any]) -> Iterator[Advice]:
    """A worker's envs take turns within the time of one command."""
    each = envs_of_a_worker(config)
    seconds = each * data.get("longest_call", 0.0)
    if seconds > _SHARE * config.step_timeout:
        text = f"{seconds:.0f} s may go by until {counted(each, 'env')} of a worker have taken their turns"
        yield Advice(f"--step-timeout {4 * math.ceil(seconds)}", text)


def _of_limit(config: TrainConfig, factory: EnvFactory, data: Mapping[str, Any]) -> Iterator[Advice]:
    if factory.has_time_limit or config.rollout == "steps":
        return
    lengths, truncated = data.get("lengths", []), data.get("truncated", 0)
    is_fixed = len(lengths) >= _FEW and min(lengths) == max(lengths)
    if truncated or is_fixed:
        seen = (
            f"truncated {truncated} of {counted(len(lengths), 'episode')}"
            if truncated
            else f"ended {counted(len(lengths), 'episode')}, each after {counted(lengths[0], 'step')}"
        )
        yield Advice(
            "--ends-by-itself", f"there is no time limit that prl could see, but the env itself {seen}"
        )
        return
    seen = f"random episodes ended after {max(lengths):,} steps at most" if lengths else "no episode ended"
    others = "give a time limit that suits the task with --max-episode-steps"
    if lengths:
        others = f"say --ends-by-itself, if episodes end whatever the policy does, or {others}"
    yield Advice("--rollout steps", f"there is no time limit, and {seen}; or {others}")


def _of_speed(config: TrainConfig, chosen: Chosen) -> Iterator[Advice]:
    names = ["num_workers"]
    names += ["num_envs"] if config.num_envs == "auto" else []
    names += ["acting"] if config.acting == "auto" and chosen.setup["num_workers"] else []
    flags = " ".join(f"--{name.replace('_', '-')} {chosen.setup[name]}" for name in names)
    reasons = [f"{chosen.trained:,.0f} steps/s are trained so", *chosen.reasons]
    yield Advice(flags, reasons[0] if len(reasons) == 1 else "; ".join(reasons[1:]))


def command(config: TrainConfig, advice: Sequence[Advice]) -> str:
    """The command line that trains so."""
    words = ["prl", "train", "--env-id", config.env_id]
    if config.env_kwargs:
        words += ["--env-kwargs", *(f"{key}={_as_yaml(value)}" for key, value in config.env_kwargs.items())]
    if config.wrappers:
        words += ["--wrappers", *config.wrappers]
    if config.max_episode_steps is not None:
        words += ["--max-episode-steps", str(config.max_episode_steps)]
    words += ["--ends-by-itself"] if config.ends_by_itself else []
    words += ["--no-action-masks"] if not config.action_masks else []
    return " ".join([shlex.join(words), *(each.flags for each in advice if each.flags)])


def _as_yaml(value: Any) -> str:
    return dump({"": value}).partition(": ")[2].strip()
