"""What an examination finds: each env of `doctor_envs` lacks one thing, which exactly one check notices."""

import re

import pytest

from workers import exam
from workers.exam import Exam, Examination
from workers.exam_checks import _costs
from workers.findings import Finding, Severity

ALL = ("checker", "plays", "seed", "generators", "replay")


def examined(name, checks=ALL, lengths=None, seconds=0.02, **options):
    """The findings by name, and the data; in this process."""
    messages = []
    env_id = name if name[0].isupper() and "-v" in name else f"doctor_envs:doctor/{name}-v0"
    Exam(env_id, options, checks, lengths, seconds).run(messages.append)
    found = [Finding.of_json(each["finding"]) for each in messages if "finding" in each]
    data = {}
    for each in messages:
        data |= each.get("data", {})
    return {each.name: each for each in found}, data


def bad(findings):
    return {name for name, each in findings.items() if each.severity >= Severity.WARNING}


def test_a_good_env_has_nothing():
    findings, data = examined("Plain", seconds=1.0)  # enough for an episode on any machine
    assert list(findings) == [
        "environment",
        "checker",
        "plays",
        "time limit",
        "cost",
        "seed",
        "generators",
        "replay",
    ]
    assert bad(findings) == set()
    assert set(data["lengths"]) == {30}
    assert data["largest"] == 2.0
    cost = findings["cost"].numbers
    assert all(0 < cost[f"{call}_{what}"] < 1.0 for call in ("step", "reset") for what in ("mean", "p99"))
    assert findings["plays"].numbers["episodes"] == len(data["lengths"]) > 0


@pytest.mark.parametrize(
    ("name", "culprit", "words"),
    [
        ("Unseeded", "seed", "actions: from the reset on, a second env shows something else. Two runs"),
        (
            "NumpyGlobal",
            "generators",
            "global generators (numpy.random) instead of self.np_random",
        ),
        ("PythonGlobalLate", "generators", "(random) instead of self.np_random"),
        ("ConstructorGlobal", "generators", "draws from global generators (in its constructor)"),
        ("Remembers", "replay", "from step 5 on, a new env shows something else than one that has played"),
    ],
)
def test_each_lacks_one_thing(name, culprit, words):
    findings, _ = examined(name, ALL[1:])
    assert bad(findings) == {culprit}
    assert words in findings[culprit].text


def test_draws_that_begin_late_depend_on_the_workers():
    late, _ = examined("PythonGlobalLate", ("generators",))
    assert "It begins to draw in step 26, so" in late["generators"].text
    early, _ = examined("NumpyGlobal", ("generators",))
    assert "only with the same number of workers" not in early["generators"].text


def test_the_checker_of_gymnasium_has_its_row():
    findings, _ = examined("Unseeded", ("checker",))
    assert bad(findings) == {"checker"}
    assert findings["checker"].text.startswith("Gymnasium's env checker says: AssertionError: ")


def test_only_legal_actions_are_played():
    findings, _ = examined("Masked", ("plays", "seed", "replay"))
    assert bad(findings) == set()
    findings, _ = examined("Masked", ("plays",), use_action_masks=False)
    assert "raised ValueError: illegal" in findings["plays"].text


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Blackjack-v1", "FrozenLake-v1"])
def test_envs_of_gymnasium_are_all_right(env_id):
    findings, _ = examined(env_id)
    assert bad(findings) - {"checker"} == set()


def test_an_episode_that_was_cut_is_counted():
    findings, data = examined("Plain", ("plays",), seconds=1.0, max_episode_steps=7)
    assert set(data["lengths"]) == {7}
    assert findings["time limit"].numbers["truncated"] == data["truncated"] == len(data["lengths"])
    findings, _ = examined("Endless", ("plays",))
    assert "time limit" not in findings


def test_a_failure_ends_what_would_fail_likewise():
    findings, _ = examined("Faulty", ("plays", "seed"), env_kwargs={"fault": "obs_nan", "at_step": 2})
    assert findings["plays"].severity is Severity.ERROR
    message = r"env 0, seed \d+, step 2: returned an observation that is not finite"
    assert re.search(message, findings["plays"].text)
    assert "seed" not in findings


def test_an_env_that_cannot_be_built_has_one_row():
    findings, _ = examined("Faulty", env_kwargs={"fault": "raise", "stage": "init"})
    assert list(findings) == ["environment"]
    assert findings["environment"].severity is Severity.ERROR
    assert findings["environment"].numbers["traceback"].rstrip().endswith("ValueError: boom")


def test_the_same_episodes_have_the_same_digest():
    _, data = examined("Plain", ("seed",))
    lengths = data["take_lengths"]
    assert (sum(lengths) >= 100, max(lengths)) == (True, 30)
    _, again = examined("Plain", ("digest",), lengths)
    assert again["other_digest"] == data["digest"]
    _, other = examined("NumpyGlobal", ("digest",), lengths)
    assert other["other_digest"] != data["digest"]


# ---- in processes of their own


def test_what_it_needs_is_measured(leaves_nothing):
    exam_of = Exam("doctor_envs:doctor/Starts-v0", {}, ("needs",))
    examination = Examination(exam_of, 30.0)
    findings = {each.name: each for each in examination.findings()}
    assert findings["threads"].severity is Severity.NOTE
    numbers = findings["threads"].numbers
    assert numbers["threads"] == numbers["processes"] > 1  # one of an env; how many envs is a matter of time
    assert findings["habits"].text == "changes the working directory"
    assert examination.is_complete
    assert 0 <= examination.data["env_bytes"] < 50_000_000


def findings_of(fault, checks, silence=30.0, **where):
    options = {"env_kwargs": {"fault": fault, **where}}
    examination = Examination(Exam("doctor_envs:doctor/Faulty-v0", options, checks), silence)
    found = list(examination.findings())
    return [(each.name, each.severity.name.lower()) for each in found], found, examination


def test_a_check_whose_process_dies_has_a_row(leaves_nothing):
    rows, found, examination = findings_of("os_exit", ("plays", "seed"), at_step=3)
    assert rows == [("environment", "ok"), ("plays", "error"), ("not looked at", "note")]
    assert (found[1].text, found[2].text) == ("its process died with exit code 7", "seed")
    assert not examination.is_complete


def test_another_process_goes_on_after_the_checker(leaves_nothing):
    examination = Examination(
        Exam("doctor_envs:doctor/Picky-v0", {}, ("checker", "plays"), seconds=0.05), 30.0
    )
    rows = [(each.name, each.severity.name) for each in examination.findings()]
    assert rows[:3] == [("environment", "OK"), ("checker", "ERROR"), ("plays", "OK")]
    assert examination.is_complete


def test_a_constructor_that_hangs_ends_it(leaves_nothing):
    rows, found, _ = findings_of("hang", ALL, stage="init", silence=1.5)
    assert rows == [("environment", "error")]
    assert found[0].text.startswith("its process hangs, with no sign of life for 1.5 s, in ")
    assert found[0].text.endswith("; if it needs that long, --call-timeout gives it more")


def test_a_slow_env_is_not_taken_for_one_that_hangs(monkeypatch):
    """Signs of life come before each call, at most every fifth of a second."""
    now = iter([10.0, 10.1, 10.2, 10.25, 10.5])
    monkeypatch.setattr(exam.time, "monotonic", lambda: next(now))
    told = []
    beat = exam._Beat(told.append)
    for _ in range(5):
        beat()
    assert told == [{}] * 3


def test_findings_survive_json():
    finding = Finding("seed", Severity.WARNING, "why", {"draws": {"random": 3}})
    assert Finding.of_json(finding.to_json()) == finding
    assert finding.to_json()["severity"] == "warning"


def test_a_cost_that_a_few_slow_calls_make_says_so():
    usual = _costs([2e-3], [1e-5] * 100).text
    assert usual == "a step takes 10 us (99 %: within 10 us); a reset takes 2 ms (99 %: within 2 ms)"
    rare = _costs([2e-3], [1e-5] * 999 + [0.5]).text
    assert rare.startswith(
        "99 % of the steps take 10 us at most, but a few take up to 500 ms, which makes 510 us on average; "
    )
