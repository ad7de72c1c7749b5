"""Seed known mistakes into a copy of the code, one at a time, and see which tests fail.

    python scripts/checks/mutation_check.py                 # all, with a table in docs/mutation_check.md
    python scripts/checks/mutation_check.py --new           # those that the table has not; adds their rows
    python scripts/checks/mutation_check.py --only entropy  # those with a word in their name; writes nothing,
                                                            # but with --new

The tests have to pass without any mistake first: a test that fails anyway would count as noticing.

Exit code 1 if a mistake survives, 2 if its place is not in the code any more or its tests cannot be run.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
    parser.add_argument("--new", action="store_true", help="mutations that have no row in the table yet")
    parser.add_argument("--jobs", type=_positive, default=2, help="how many at a time")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "mutation_check.md", help="table to write"
    )
    arguments = parser.parse_args(argv)
    rows = rows_of(arguments.out)
    done = rows.keys() if arguments.new else ()
    chosen = [each for each in MUTATIONS if arguments.only in each.name and each.name not in done]
    missing = [mutation.name for mutation in chosen if not _applies(mutation)]
    if missing or not chosen:
        print(
            f"no such place in the code: {'; '.join(missing)}" if missing else "no such mutation",
            file=sys.stderr,
        )
        return 2
    killed = []
    try:
        for mutation, killers in _results(chosen, arguments.jobs):
            print(
                f"{'killed  ' if killers else 'SURVIVED'}  {mutation.name}: {', '.join(killers)}", flush=True
            )
            killed.append(bool(killers))
            if arguments.new or not arguments.only:  # at once: a long check may be stopped
                rows[mutation.name] = row(mutation, killers)
                arguments.out.write_text(table(rows))
    except TestsDidNotRun as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{sum(killed)} of {len(killed)} killed")
    return 0 if all(killed) else 1


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _results(chosen: Sequence[Mutation], jobs: int) -> Iterator[tuple[Mutation, list[str]]]:
    failing_anyway = functools.cache(lambda test: _failing(None, [test]))

    def check(mutation: Mutation) -> list[str]:
        anyway = [name for test in mutation.tests for name in failing_anyway(test)]
        if anyway:
            raise TestsDidNotRun(f"these fail without any mistake: {', '.join(anyway)}")
        return killers_of(mutation)

    with ThreadPoolExecutor(jobs) as threads:
        yield from zip(chosen, threads.map(check, chosen), strict=True)


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


def rows_of(page: Path) -> dict[str, str]:
    """The rows of the table, by the name of the mistake, without those of mistakes that are gone."""
    if not page.is_file():
        return {}
    lines = page.read_text().splitlines()
    rows = {line[2:].partition(" | ")[0]: line for line in lines if line.startswith("| ")}
    return {mutation.name: rows[mutation.name] for mutation in MUTATIONS if mutation.name in rows}


def row(mutation: Mutation, killers: Sequence[str]) -> str:
    """The row of a mistake, and the day of this check."""
    noticed = ", ".join(f"`{killer}`" for killer in killers) or "**no test**"
    noticed = noticed.replace("|", chr(92) + "|")
    return f"| {mutation.name} | `{mutation.file}` | {noticed} | {datetime.date.today()} |"


def table(rows: Mapping[str, str]) -> str:
    """The page docs/mutation_check.md: rows by the names of mistakes."""
    others = len(MUTATIONS) - len(rows)
    of_others = f" {others} other mistakes of the list were not made yet." if others else ""
    lines = [
        "# Do the tests notice?",
        "",
        f"{len(rows)} mistakes, most of them known from other programs of this kind, each made alone in a "
        "copy of the code by `python scripts/checks/mutation_check.py`, on the day in its row. At most three "
        f"tests that notice are named.{of_others}",
        "",
        "| mistake | in | noticed by | on |",
        "|---|---|---|---|",
        *(rows[mutation.name] for mutation in MUTATIONS if mutation.name in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
