"""Seed known mistakes into a copy of the code, one at a time, and see which tests fail.

    python scripts/checks/mutation_check.py                 # all, with a table in docs/mutation_check.md
    python scripts/checks/mutation_check.py --only entropy  # those with a word in their name; writes nothing

The tests have to pass without any mistake first: a test that fails anyway would count as noticing.

Exit code 1 if a mistake survives, 2 if its place is not in the code any more or its tests cannot be run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent.parent
_COPIED = (
    "learner",
    "workers",
    "prl",
    "tests",
    "scripts",
    "docs",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
)
_MAX_KILLERS = 3  # enough to show; running the remaining tests would only take time
_TIMEOUT = 600  # seconds; a mistake that makes the code hang counts as noticed


class TestsDidNotRun(RuntimeError):
    """Tests failed without any mistake, or could not be run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="mutations whose name contains this")
    parser.add_argument("--jobs", type=_positive, default=2, help="how many at a time")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "mutation_check.md", help="table to write"
    )
    arguments = parser.parse_args(argv)
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.name]
    missing = [mutation.name for mutation in chosen if not _applies(mutation)]
    if missing or not chosen:
        print(
            f"no such place in the code: {'; '.join(missing)}" if missing else "no such mutation",
            file=sys.stderr,
        )
        return 2
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    try:
        results = _results(chosen, tests, arguments.jobs)
    except TestsDidNotRun as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments.only:
        arguments.out.write_text(table(results))
    survivors = [mutation.name for mutation, killers in results if not killers]
    print(f"{len(results) - len(survivors)} of {len(results)} killed")
    return 1 if survivors else 0


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _results(chosen: Sequence[Mutation], tests: Sequence[str], jobs: int) -> list[tuple[Mutation, list[str]]]:
    with ThreadPoolExecutor(jobs) as threads:
        anyway = [name for names in threads.map(lambda test: _failing(None, [test]), tests) for name in names]
        if anyway:
            raise TestsDidNotRun(f"these fail without any mistake: {', '.join(anyway)}")
        results = []
        for mutation, killers in zip(chosen, threads.map(killers_of, chosen), strict=True):
            print(
                f"{'killed  ' if killers else 'SURVIVED'}  {mutation.name}: {', '.join(killers)}", flush=True
            )
            results.append((mutation, killers))
        return results


def _applies(mutation: Mutation) -> bool:
    return (ROOT / mutation.file).read_text().count(mutation.right) == 1


def killers_of(mutation: Mutation) -> list[str]:
    """The tests that fail with the mistake in the code, at most `_MAX_KILLERS`.

    Raises:
        TestsDidNotRun: its tests could not be run.
    """
    return _failing(mutation, mutation.tests)


def _failing(mutation: Mutation | None, tests: Sequence[str]) -> list[str]:
    """The tests that fail in a copy of the code, with a mistake in it or without."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for item in _COPIED:
            source = ROOT / item
            if source.is_dir():
                shutil.copytree(
                    source, folder / item, ignore=shutil.ignore_patterns("__pycache__", "results")
                )
            else:
                shutil.copy(source, folder / item)
        if mutation is not None:
            target = folder / mutation.file
            target.write_text(target.read_text().replace(mutation.right, mutation.wrong))
        return _failing_tests(folder, tests)


def _failing_tests(folder: Path, tests: Sequence[str]) -> list[str]:
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", f"--maxfail={_MAX_KILLERS}")
    command = [sys.executable, "-m", "pytest", *options]
    # The copy comes before an installed prl.
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"timeout after {_TIMEOUT} s"]
    if done.returncode == pytest.ExitCode.OK:
        return []
    killers = re.findall(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", done.stdout, re.MULTILINE)
    if not killers:  # pytest ran no tests: a missing file, no test in it, or an internal error
        ran = " ".join(tests)
        raise TestsDidNotRun(
            f"pytest {ran} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}"
        )
    return killers


def table(results: Sequence[tuple[Mutation, list[str]]]) -> str:
    """The page docs/mutation_check.md."""
    lines = [
        "# Do the tests notice?",
        "",
        f"{len(results)} mistakes, most of them known from other programs of this kind, each made alone in a "
        "copy of the code by `python scripts/checks/mutation_check.py`. At most three tests that notice are "
        "named.",
        "",
        "| mistake | in | noticed by |",
        "|---|---|---|",
    ]
    for mutation, killers in results:
        noticed = ", ".join(f"`{killer}`" for killer in killers) or "**no test**"
        lines.append(f"| {mutation.name} | `{mutation.file}` | {noticed.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
