"""Turns, medians, ratios and the table, with made-up contenders. Nothing here is about speed."""

import itertools
import math

import pytest

from learner.settings import ConfigError
from prl.commands.suites.comparison import (
    LIMIT,
    LOOP,
    MEBIBYTES,
    SECONDS,
    Comparison,
    Contender,
    Package,
    Ratio,
    compare,
    format_table,
    to_all,
)
from prl.commands.suites.rates import measure, rate
from prl.commands.suites.settings import worker_counts


def fixed(name, numbers, log=None, **settings):
    """A contender that measures given numbers, one a turn."""

    def measure(turn):
        if log is not None:
            log.append(f"{name} {turn}")
        if isinstance(numbers[turn], Exception):
            raise numbers[turn]
        return numbers[turn]

    return Contender(name, f"the {name}", measure, **settings)


def comparison(*contenders, ratios=(), repeats=3):
    return Comparison("what is fixed", contenders, ratios, repeats, {"env_id": "A-v1"}, cores=4)


def test_contenders_take_turns():
    """All of them, round after round; what breaks in between is out, the others continue."""
    log = []
    broken = fixed("b", [5.0, ValueError("has\nhad enough"), 5.0], log)
    result = compare(comparison(fixed("a", [10.0, 1.0, 2.0], log), broken, fixed("c", [3.0] * 3, log)))
    assert log == ["a 0", "b 0", "c 0", "a 1", "b 1", "c 1", "a 2", "c 2"]
    assert result == {
        "env_id": "A-v1",
        "cores": 4,
        "repeats": 3,
        "results": {
            "a": {"steps_per_second": 2.0, "all": [10.0, 1.0, 2.0]},
            "c": {"steps_per_second": 3.0, "all": [3.0, 3.0, 3.0]},
        },
        "skipped": {"b": "failed: ValueError: has had enough"},
    }


def test_ratios_are_of_medians_and_say_how_many_times_as_good():
    contenders = [
        fixed("a", [10.0, 1.0, 2.0]),
        fixed("b", [4.0, 4.0, 4.0]),
        fixed("slow", [9.0, 6.0, 3.0], unit=SECONDS),
        fixed("quick", [2.0, 2.0, 3.0], unit=SECONDS),
    ]
    ratio = Ratio("ratio", "x", {"b": "a", "quick": "slow", "slow": "nobody"})
    results = compare(comparison(*contenders, ratios=[ratio]))["results"]
    assert {name: row["ratio"] for name, row in results.items()} == {
        "a": None, "b": 4.0 / 2.0, "slow": None, "quick": 6.0 / 2.0
    }  # fmt: skip


def test_the_limit_is_what_all_cores_could_do():
    contenders = [fixed("a", [30.0] * 3), fixed(LOOP, [10.0, 20.0, 30.0])]
    ratio = Ratio("of_limit", "of limit", to_all(LIMIT, contenders), percent=True)
    results = compare(comparison(*contenders, ratios=[ratio]))["results"]
    assert results[LIMIT] == {"steps_per_second": 80.0, "all": [40.0, 80.0, 120.0], "of_limit": 1.0}
    assert results["a"]["of_limit"] == 30.0 / 80.0
    assert results[LOOP]["of_limit"] == 0.25


def test_what_never_happens_is_no_number():
    contenders = [
        fixed("most", [1.0, math.inf, 3.0], unit=SECONDS),
        fixed("few", [1.0, math.inf, math.inf], unit=SECONDS),
    ]
    asked = comparison(*contenders, ratios=[Ratio("ratio", "x", {"most": "few"})])
    result = compare(asked)
    assert result["results"]["most"] == {"seconds": 3.0, "all": [1.0, None, 3.0], "ratio": None}
    assert result["results"]["few"] == {"seconds": None, "all": [1.0, None, None], "ratio": None}
    assert [line.split() for line in format_table(asked, result).splitlines()[2:]] == [
        ["s", "min", "..", "max"],
        ["the", "most", "3.00", "1.00", "..", "never"],
        ["the", "few", "never", "1.00", "..", "never"],
    ]


def test_a_package_that_is_not_there_is_left_out_with_what_to_install():
    log = []
    absent = fixed("peer", [1.0] * 3, log, package=Package("no_such_module", "no-such-package"))
    asked = comparison(absent, fixed("own", [1.0] * 3, package=Package("json", "json")))
    result = compare(asked)
    assert not log
    assert result["skipped"] == {"peer": "not installed; pip install no-such-package"}
    assert set(result["results"]) == {"own"}
    assert "the peer  not installed; pip install no-such-package" in format_table(asked, result)


def test_the_table():
    contenders = [
        fixed("a", [1e6, 2e6, 3e6]),
        fixed(LOOP, [5e5] * 3),
        fixed("memory", [1.25, 2.25, 3.25], unit=MEBIBYTES),
        fixed("broken", [ValueError("no")] * 3),
    ]
    ratios = [
        Ratio("ratio", "x loop", {"a": LOOP}),
        Ratio("none", "x nobody", {"a": "nobody"}),
        Ratio("fraction", "of limit", to_all(LIMIT, contenders[:2]), percent=True),
    ]
    asked = comparison(*contenders, ratios=ratios)
    assert format_table(asked, compare(asked)).splitlines() == [
        "what is fixed",
        "",
        "                          median                min .. max   x loop  of limit",
        "the a                  2,000,000    1,000,000 .. 3,000,000     4.00      100%",
        "the loop                 500,000        500,000 .. 500,000        -       25%",
        "the memory                   2.2                1.2 .. 3.2        -         -",
        "the broken           failed: ValueError: no",
        "limit: 4 x the loop    2,000,000    2,000,000 .. 2,000,000        -      100%",
    ]


def test_only_some():
    asked = comparison(fixed("a", [1.0] * 3), fixed("b", [2.0] * 3), fixed("c", [3.0] * 3))
    assert set(compare(asked.only(["c", "a"]))["results"]) == {"a", "c"}
    assert set(compare(asked.only([]))["results"]) == {"a", "b", "c"}
    with pytest.raises(ConfigError, match="only must be names among a, b, c, got 'd'"):
        asked.only(["a", "d"])


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_numbers_of_workers(most, counts):
    assert worker_counts(most) == counts


class Clock:
    """`time.perf_counter` for work that takes given times."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = seconds

    def work(self):
        for count in itertools.count(1):
            self.now += self.seconds
            yield count

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(0.125)
    monkeypatch.setattr("prl.commands.suites.rates.time.perf_counter", clock)
    return clock


def test_measure_takes_its_time_and_counts(clock):
    assert measure(clock.work(), 0.3) == (1 + 2 + 3) / 0.375


def test_a_rate_is_measured_when_all_is_warm(clock):
    """One piece, 2 s as the longest warm-up, then 0.5 s: pieces 18 to 21."""
    started = []

    class Start:
        def __enter__(self):
            started.append(True)
            return clock.work()

        def __exit__(self, *exc_info):
            started.append(False)

    assert rate(Start, 0.5) == (18 + 19 + 20 + 21) / 0.5
    assert started == [True, False]
    clock.seconds = 1 / 64
    assert rate(Start, 0.125) == sum(range(21, 29)) / 0.125, "20 pieces"
    assert rate(Start, 4.0) == sum(range(66, 66 + 256)) / 4.0, "a quarter of the time after the first"
