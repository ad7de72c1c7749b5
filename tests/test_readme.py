"""The README's programs run as they stand there, only shorter, and as a file without a project around it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SHORTER = {
    "steps=150_000": "steps=1_000",
    "range(40)": "range(2)",
    "steps=20_000": "steps=1_000",
    "report.mean_return >= 195": "True",
}
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_program_is_here_and_is_made_shorter():
    assert len(PROGRAMS) == 4
    assert all(sum(long in program for program in PROGRAMS) == 1 for long in SHORTER)


@pytest.mark.parametrize(
    "program", PROGRAMS, ids=["quick start", "custom loop", "own environment", "generator"]
)
def test_a_program_of_the_readme_runs(program, tmp_path):
    for long, short in SHORTER.items():
        program = program.replace(long, short)
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "weights/policy.safetensors").exists() == ("save_weights" in program)


def test_the_commands_of_the_readme_are_those_of_the_scripts():
    for script in set(re.findall(r"python (scripts/\w+\.py)", README)):
        assert (Path(__file__).parent.parent / script).is_file(), script
