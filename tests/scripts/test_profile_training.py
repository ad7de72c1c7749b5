"""What `scripts/profile_training.py` prints."""

import re

import pytest

from scripts.profile_training import main

SHORT = ("--env-id", "CartPole-v1", "--device", "cpu", "--seconds", "0.2", "--functions", "3")


def rows(table):
    """The first two cells of each row of a table, the second as a number."""
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    return {name: float(number) for name, number, *_ in cells}


@pytest.mark.parametrize("flags", [("--num-workers", "0"), ("--num-workers", "1", "--overlap")], ids=str)
def test_phases_add_up_and_functions_are_named(flags, capsys, leaves_nothing):
    assert main([*SHORT, "--num-envs", "4", "--batch-size", "128", *flags]) == 0
    _, phases, playing, functions = re.split(r"\n\n", capsys.readouterr().out.strip())
    found = rows(phases)
    total = found.pop("all")
    assert sum(found.values()) == pytest.approx(total, abs=0.1)
    assert found["update"] > 0
    assert rows(playing)["act"] > 0
    assert len(rows(functions)) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--env-id", "CartPol-v1"), "unknown env id 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        (("--num-workers", "auto"), "num_envs and num_workers must be numbers here"),
        (("--functions", "0"), "seconds must be a positive number, and functions at least 1"),
    ],
)
def test_bad_input_ends_in_one_line(flags, message, capsys):
    assert main([*SHORT, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"profile_training: {message}")
