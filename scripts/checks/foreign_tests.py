"""Run the tests that other libraries have for their vector envs on prl's classes.

    python scripts/checks/foreign_tests.py gymnasium FOLDER    # its repository, of the installed version
    python scripts/checks/foreign_tests.py sb3 FOLDER          # its unpacked source distribution

A test finds prl's class under the name of the class whose place it takes. Tests that ask for what prl does
not have are left out, and listed with the reason. Further options go to pytest. Exit code 1 if a test fails.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_NO_NUMBERS = "spaces that are not made of numbers of a fixed shape"
_NOT_OURS = "tests the library's own class"


class Suite(NamedTuple):
    """Tests, and what they are run on.

    Attributes:
        stands_in: modules and the name in them that prl's class takes.
        ours: module and name of that class.
        files: patterns below the folder; those that are not there are passed over.
        left_out: pattern of a test's id, and why it is not run.
    """

    stands_in: Sequence[tuple[str, str]]
    ours: tuple[str, str]
    files: Sequence[str]
    left_out: Mapping[str, str]


_GYMNASIUM_FILES = (
    "tests/vector/test_*.py",
    "tests/wrappers/vector/test_*.py",
    "tests/envs/registration/test_make_vec.py",
)
_GYMNASIUM_LEFT_OUT = {
    r"\[.*(Text|Graph|Sequence|OneOf)\(": _NO_NUMBERS,
    r"test_custom_space_a?sync_vector_env$": _NO_NUMBERS,
    r"obs_mode_same_different_spaces": "other words of a message",
    r"test_async_vector_subenv_error": "an env's exception is a WorkerEnvFailed, which names env and step",
    r"custom_worker": "worker processes are prl's own",
    r"test_step_timeout": "an action of a Box of shape () is an array, which time.sleep refuses",
    r"test_make_vec_wrappers|spec_additional_wrappers": "looks at the envs, which live in other processes",
    r"test_record_episode_statistics\[3-AutoresetMode.DISABLED\]": "expects a mistake that prl does not make",
    r"test_check_spaces_sync|test_partial_reset_failure|test_normalize_reward": "tests another version",
}
_GYMNASIUM = {
    "AsyncVectorEnv": {
        r"[\[-](sync|Sync)|VectorizeMode\.SYNC|test_sync_vector|final_obs\[": _NOT_OURS,
        r"tests/wrappers/vector/(?!.*dict_to_box_obs)": _NOT_OURS,
    },
    "SyncVectorEnv": {
        r"[\[-](async|Async)|VectorizeMode\.ASYNC|test_async_vector|dict_to_box_obs": _NOT_OURS
    },
}
SUITES: Mapping[str, Sequence[Suite]] = {
    "gymnasium": [
        Suite(
            [("gymnasium.vector", name)],
            ("prl", "VectorEnv"),
            _GYMNASIUM_FILES,
            {**not_ours, **_GYMNASIUM_LEFT_OUT},
        )
        for name, not_ours in _GYMNASIUM.items()
    ],
    "sb3": [
        Suite(
            [
                ("stable_baselines3.common.vec_env", "SubprocVecEnv"),
                ("stable_baselines3.common.vec_env.subproc_vec_env", "SubprocVecEnv"),
            ],
            ("prl.sb3", "VecEnv"),
            ("tests/test_vec_envs.py",),
            {
                r"DummyVecEnv|test_vecenv_func_checker|wrapper_getattr|framestack": _NOT_OURS,
                r"test_subproc_start_method": "workers are always spawned",
                r"test_render": "needs a display",
            },
        )
    ],
}


class Report:
    """A plugin of pytest: leaves tests out, and counts those that build one of prl's vector envs.

    Args:
        left_out: see `Suite`.
        kind: prl's class, which is replaced by `counted` in the tests.
    """

    def __init__(self, left_out: Mapping[str, str], kind: type[Any]) -> None:
        self._left_out = left_out
        self.made = 0
        self.passed = 0
        report = self

        class Counted(kind):  # type: ignore[misc]  # known only when it runs
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                report.made += 1
                super().__init__(*args, **kwargs)

        Counted.__name__ = kind.__name__
        self.counted = Counted

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark tests that are left out."""
        for item in items:
            reasons = (why for pattern, why in self._left_out.items() if re.search(pattern, item.nodeid))
            if (reason := next(reasons, None)) is not None:
                item.add_marker(pytest.mark.skip(reason=f"left out: {reason}"))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Count the test if it passes and has built one of prl's vector envs."""
        before = self.made
        outcome: Any = yield
        self.passed += outcome.excinfo is None and self.made > before


def run(suite: Suite, folder: Path, options: Sequence[str]) -> int:
    """Run a suite in this process, whose modules it changes; pytest's exit code.

    Args:
        suite: the tests.
        folder: see `Suite.files`.
        options: of pytest.
    """
    files = sorted(str(path) for pattern in suite.files for path in folder.glob(pattern))
    if not files:
        print(f"{folder} has none of {', '.join(suite.files)}", file=sys.stderr)
        return 2
    module, name = suite.ours
    report = Report(suite.left_out, getattr(importlib.import_module(module), name))
    for place, replaced in suite.stands_in:
        setattr(importlib.import_module(place), replaced, report.counted)
    # Tests import each other as modules of a package "tests", and so do workers. Settings of pytest are none.
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    always = ["-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider", "-q", "-rs"]
    code = int(pytest.main([*always, *options, *files], plugins=[report]))
    print(f"{report.passed} tests passed that build {module}.{name} in place of {suite.stands_in[0][1]}")
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 if a test of any suite fails, 2 if there are no tests."""
    parser = argparse.ArgumentParser(description="Other libraries' tests of vector envs, on prl's classes.")
    parser.add_argument("library", choices=list(SUITES), help="whose tests they are")
    parser.add_argument("folder", type=Path, help="with their folder tests/")
    parser.add_argument("--only", type=int, help="which suite, from 0 on; each runs in a process of its own")
    options, of_pytest = parser.parse_known_args(arguments)
    suites = SUITES[options.library]
    if options.only is not None:
        return run(suites[options.only], options.folder.resolve(), of_pytest)
    command = [sys.executable, __file__, options.library, str(options.folder), *of_pytest, "--only"]
    codes = [subprocess.run([*command, str(i)], check=False).returncode for i in range(len(suites))]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
