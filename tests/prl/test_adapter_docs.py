"""Every program of docs/adapters.md runs. Those whose packages are not installed are skipped."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
PROGRAMS = [
    (section.partition("\n")[0], found[1])
    for section in TEXT.split("\n## ")
    if (found := re.search(r"```python\n(.*?)```", section, re.DOTALL))
]
EXPECTED = {
    "Gymnasium: a PPO loop": r"mean return of the last 20 episodes: \d+\.\d\n",
    "Gymnasium: vector wrappers, one function per env, changing envs while they run": (
        r"(\[[-\d .]+\] \(2.0, 5.0, 9.81, 20.0\)\n)(\[[-\d .]+\] \(3.0, 3.0, 3.0, 3.0\)\n)"
    ),
    "Loops written for Gymnasium 0.29": r"(step \d+: return \d+.0\n){5,}",
    "Stable-Baselines3": r"\d+.0\n",
    "skrl": r"\(8, 3\) \(8, 1\)\n",
    "TorchRL": r"torch.Size\(\[4, 100\]\) torch.float\d+\n",
}


def needed(program):
    """The packages that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_all_programs_are_found():
    assert [title for title, _ in PROGRAMS] == list(EXPECTED)


@pytest.mark.parametrize(("title", "program"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
def test_the_program_does_what_it_says(title, program, tmp_path):
    for package in sorted(needed(program)):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    program = program.replace("TOTAL, N, T, GAMMA, LAMBDA = 100_000,", "TOTAL, N, T, GAMMA, LAMBDA = 4_096,")
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(f"(.*\n)*?{EXPECTED[title]}", done.stdout), done.stdout
