"""Whether this machine has what a run needs: cores, memory, shared memory, descriptors."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from prl.run.tune_choice import busy_cores
from workers.cores import usable_cores
from workers.envs import EnvFactory
from workers.findings import Finding, note, ok, warning
from workers.slab import SlabLayout

SHARED_MEMORY = Path("/dev/shm")
_MUCH = 0.8  # share of what is there


@dataclass(frozen=True)
class Plan:
    """What a run would use.

    Attributes:
        num_workers: processes.
        num_envs: N.
        memory: bytes of all workers; None if not known.
        shared_memory: bytes of all rows.
        descriptors: of the learner's process.
    """

    num_workers: int
    num_envs: int
    memory: int | None
    shared_memory: int
    descriptors: int


def row_bytes(factory: EnvFactory, num_envs: int) -> int:
    """Of shared memory for the rows of N envs."""
    layout = SlabLayout(factory.observation_space, factory.action_space, num_envs)
    return sum(field.nbytes(num_envs) for field in layout.fields)


def machine_findings(plan: Plan) -> Iterator[Finding]:
    """A row for each resource, for a plan."""
    cores, all_cores = usable_cores(), os.cpu_count() or 1
    limited = "" if cores == all_cores else f" of {all_cores}: the others are not allowed to this process"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield ok("cores", f"{cores} usable{limited}; device {device}", usable=cores, all=all_cores, device=device)
    yield from (note("cores", line) for line in busy_cores())
    if plan.memory is not None and (available := available_memory()) is not None:
        text = f"{size(plan.memory)} for {plan.num_workers} workers with {plan.num_envs} envs"
        yield _scarce("memory", text, plan.memory, available, "take fewer workers (--num-workers)")
    if (free := _free(SHARED_MEMORY)) is not None:
        text = f"{size(plan.shared_memory)} for the rows of {plan.num_envs} envs in {SHARED_MEMORY}"
        yield _scarce("shared memory", text, plan.shared_memory, free, "--transport pipe does without")
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY:
        used = len(os.listdir("/dev/fd")) + plan.descriptors
        needed = f"about {used:,} of {limit:,} open files"
        if used > _MUCH * limit:
            yield warning("descriptors", f"{needed}; raise the limit (ulimit -n)", needed=used, limit=limit)
        else:
            yield ok("descriptors", needed, needed=used, limit=limit)


def _scarce(name: str, text: str, needed: int, available: int, advice: str) -> Finding:
    text = f"{text}; {size(available)} are free"
    numbers = {"needed_bytes": needed, "free_bytes": available}
    if needed > _MUCH * available:
        return warning(name, f"{text}: {advice}", **numbers)
    return ok(name, text, **numbers)


def size(count: float) -> str:
    """Bytes in a unit that suits: "1.4 kB", "85 MB"."""
    for unit, bytes_of in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_of:
            return f"{count / bytes_of:,.3g} {unit}"
    return f"{count / 1e3:,.3g} kB"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that processes can still take, within the limit of this control group; None if nothing tells.

    Args:
        root: of the file system that tells.
    """
    lines = [line.split() for line in _text(root / "proc/meminfo").splitlines()]
    found = [int(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]]
    group = root / "sys/fs/cgroup"
    limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def _free(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:  # macOS has none
        return None
    return found.f_bavail * found.f_frsize
