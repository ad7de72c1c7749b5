"""Runs in processes of their own: what is read of them, how they end, and what is computed of it."""

import math
import sys
import threading
from dataclasses import dataclass

import pytest

from prl.commands.suites.processes import (
    Progress,
    seconds_until,
    update_rate,
    watched,
    watched_script,
)

pytestmark = pytest.mark.usefixtures("carried_by_value")


@dataclass(frozen=True)
class Says:
    """A job that prints lines, and then ends, fails or goes on without a word."""

    lines: tuple
    end: str = "well"

    def run(self):
        sys.stdout.write("".join(f"{line}\n" for line in self.lines))
        sys.stdout.flush()
        if self.end == "badly":
            raise ValueError("this is it")
        if self.end == "never":
            threading.Event().wait()


UPDATE = 'prl-benchmark {"timesteps": 512, "mean_return": null}'
EVALUATION = 'prl-benchmark {"timesteps": 512, "mean_return": 12.5}'


def test_the_progress_of_a_job(leaves_nothing):
    with watched(Says(("an env prints this", UPDATE, EVALUATION))) as progress:
        update, evaluation = progress
    assert (update.timesteps, update.mean_return) == (512, None)
    assert (evaluation.timesteps, evaluation.mean_return) == (512, 12.5)
    assert 0.0 < update.seconds <= evaluation.seconds


def test_a_job_that_fails_ends_in_its_last_words(leaves_nothing):
    with watched(Says((UPDATE,), "badly")) as progress:
        assert next(progress).timesteps == 512
        with pytest.raises(RuntimeError, match=r"^ValueError: this is it$"):
            next(progress)


def test_a_job_is_ended_with_its_block(leaves_nothing):
    with watched(Says((UPDATE,), "never")) as progress:
        assert next(progress).timesteps == 512


def test_a_job_that_says_nothing_is_given_up(leaves_nothing, monkeypatch):
    with watched(Says((UPDATE,), "never")) as progress:
        next(progress)
        monkeypatch.setattr("prl.commands.suites.processes._SILENCE", 0.01)
        with pytest.raises(TimeoutError, match=r"said nothing for 0\.01 s"):
            next(progress)


def test_a_script_is_watched_by_the_lines_that_it_prints(tmp_path, leaves_nothing):
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nprint(sys.argv[1:], os.listdir())\nprint('SPS: 3')\nprint('SPS: 4')\n")
    seen = []

    def steps_of(line):
        seen.append(line)
        return 512 if line.startswith("SPS") else 0

    with watched_script(script, ["--seed", "1"], steps_of) as progress:
        assert [each.timesteps for each in progress] == [512, 1024]
    assert seen == ["['--seed', '1'] []", "SPS: 3", "SPS: 4"]


def test_the_rate_is_that_from_the_first_update_to_the_last():
    updates = [Progress(9.0, 1000), Progress(9.5, 1000, 3.0), Progress(10.0, 2500), Progress(12.0, 4000)]
    assert update_rate(iter(updates)) == 3000 / 3.0
    with pytest.raises(RuntimeError, match="1 updates, at least 2 are needed"):
        update_rate(iter(updates[:2]))
    with pytest.raises(RuntimeError, match="took no time"):
        update_rate(iter(updates[:1] * 2))


def test_the_time_is_that_of_the_first_evaluation_at_the_threshold():
    progress = [
        Progress(1.0, 100),
        Progress(2.0, 100, 9.9),
        Progress(3.0, 200, 10.0),
        Progress(4.0, 300, 20.0),
    ]
    assert seconds_until(iter(progress), 10.0) == 3.0
    assert seconds_until(iter(progress), 20.1) == math.inf
