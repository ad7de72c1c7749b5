"""What `scripts/studies/step_budget.py` measures and draws."""

import json

import pytest
import step_budget
from step_budget import Case, acting, all_cases, budget, main, measure, middle

TINY = {"num_envs": 4, "num_steps": 16, "minibatch_size": 64}


def test_every_case_can_be_trained():
    cases = list(all_cases())
    assert {case.panel for case in cases} == {*step_budget.ENVS, *step_budget.GROWTH}
    for case in cases:
        assert case.config.groups >= case.config.num_workers
        assert case.config.envs % case.config.groups == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_phases_of_a_step(num_workers, leaves_nothing):
    case = Case("cost", "0.1", milliseconds=0.1, settings=acting(num_workers, **TINY))
    found = budget(case, seconds=0.05)
    assert set(found) == set(step_budget.PHASES)
    assert min(found.values()) >= 0
    assert found["env"] > 90, "it computes for 100 us, and one process does that for all envs"
    assert found["update"] > 0


def test_the_median_turn_is_kept_whole():
    turns = [{"env": 9.0, "act": 1.0}, {"env": 1.0, "act": 2.0}, {"env": 4.0, "act": 0.0}]
    assert middle(turns) == {"env": 4.0, "act": 0.0}


def test_what_is_measured_is_drawn(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    spent = dict.fromkeys(step_budget.PHASES, 1.0)
    monkeypatch.setattr(step_budget, "budget", lambda case, seconds: spent)
    monkeypatch.setattr(step_budget, "limit", lambda env_id, seconds: 2.5)
    monkeypatch.setattr(step_budget, "ENVS", ("CartPole-v1",))
    found = measure(list(all_cases()), 0.1, 2)
    assert found["limits"] == {"CartPole-v1": 2.5}
    assert {"panel": "workers", "label": "2", "us_per_step": spent} in found["cases"]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found))
    assert main(["draw", "--json", str(file), "--folder", str(tmp_path)]) == 0
    for name in ("step_budget.png", "step_budget_growth.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_file_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step_budget.importlib.util, "find_spec", lambda name: "found")
    assert main(["draw", "--json", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
