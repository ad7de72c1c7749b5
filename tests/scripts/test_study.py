"""Studies: the statistics, what is done again and what is not, and what the report says."""

import csv
import json
import math
import shlex
import signal
import sys
from types import SimpleNamespace

import jobs
import numpy as np
import pytest
import report
import speed
import study
import units
import yaml
from plans import SB3_SETTINGS, STUDIES, Study, Unit, find
from results import curve_file, read_results, result_file, thinned, write_result

from prl import fingerprint
from prl.config.command_line import parse
from prl.config.train_config import TrainConfig, to_yaml
from prl.run.intervals import bootstrap_interval, interquartile_mean

CART = find("CartPole-v1")
CHAIN = find("prl.chain:prl/Chain-v0")


def unit(seed=0, variant="prl", of=CART, budget=1000):
    return Unit(of, variant, seed, budget)


def result(seed=0, variant="prl", mean=500.0, of=CART, **changes):
    return {
        "env_id": of.env_id,
        "variant": variant,
        "seed": seed,
        "budget": of.budget,
        "timesteps": of.budget + 24,
        "command": f"python scripts/train.py --env-id {of.env_id} --seed {seed}",
        "evaluation": {"episodes": 100, "mean": mean, "std": 1.5},
        "train_wall_seconds": 60.0 + seed,
        "jobs": 2,
        "versions": {"prl": "abc1234", "sb3": "2.9.2"},
    } | changes


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # three: the plain mean
        ([0.0, 4.0, 6.0, 1000.0], 5.0),
        ([100.0, 3.0, 2.0, 1.0, -100.0], 2.0),  # one of five is cut at each end
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 99.0, 10_000.0], 5.5),  # two of ten
    ],
)
def test_the_interquartile_mean(scores, expected):
    assert interquartile_mean(scores) == expected


def test_the_interquartile_mean_of_rows():
    assert interquartile_mean([[0, 4, 6, 9], [9, 9, 9, 9]]).tolist() == [5.0, 9.0]


def test_the_bootstrap_interval():
    """Of three seeds, each mean of a resample has its exact probability: 0 and 9 have 1/27 > 2.5 % each."""
    assert bootstrap_interval([0.0, 0.0, 0.0]) == (0.0, 0.0)
    assert bootstrap_interval([0.0, 4.5, 9.0]) == (0.0, 9.0)
    assert bootstrap_interval(list(range(10))) == bootstrap_interval(list(range(10)))


def test_the_bootstrap_interval_of_many_seeds_is_that_of_the_normal_distribution():
    """A trimmed mean of normal scores has a standard error of 1.09 / sqrt(n)."""
    scores = np.random.default_rng(1).normal(10.0, 1.0, 200)
    low, high = bootstrap_interval(scores.tolist())
    assert low < interquartile_mean(scores) < high
    assert high - low == pytest.approx(2 * 1.96 * 1.09 / math.sqrt(200), rel=0.25)


def test_a_short_curve_is_kept():
    assert thinned([(10, 1.0), (20, 1 / 3)], rows=5) == [(10, "1"), (20, "0.333333")]


def test_a_long_curve_is_thinned():
    kept = thinned([(step, float(step)) for step in range(1000)], rows=4)
    assert [step for step, _ in kept] == [0, 333, 666, 999]


def test_every_study_can_be_found_and_is_sound():
    assert len({entry.slug for entry in STUDIES}) == len(STUDIES) == 13
    for entry in STUDIES:
        assert find(entry.env_id) is find(entry.slug) is entry
        assert set(entry.solved) <= set(entry.variants)
    assert (CHAIN.slug, CHAIN.variants) == ("Chain-v0", ["prl", "prl-rnd"])
    assert find("MiniGrid-DoorKey-5x5-v0").variants == ["prl"]
    assert set(SB3_SETTINGS) <= {entry.env_id for entry in STUDIES}


def test_the_baseline_has_fewer_seeds_unless_they_are_named():
    def seeds(*flags):
        args = study.parser().parse_args(["run", "--envs", "CartPole-v1", *flags])
        chosen = study.chosen_units(args)
        return {v: [u.seed for u in chosen if u.variant == v] for v in CART.variants}

    assert seeds() == {"prl": list(range(10)), "prl-overlap": list(range(5)), "sb3": list(range(5))}
    assert seeds("--seeds", "7") == {"prl": [7], "prl-overlap": [7], "sb3": [7]}


@pytest.mark.parametrize(
    "flags",
    ["run --seeds -1", "run --budget-scale nan", "run --budget-scale -1", "run --jobs 0", "run --seeds x"],
)
def test_numbers_that_are_none(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        study.main(flags.split())
    assert ended.value.code == 2
    assert f"argument {flags.split()[1]}: invalid" in capsys.readouterr().err


def test_the_units_of_a_command():
    args = study.parser().parse_args(
        [
            "run",
            "--envs",
            "Acrobot-v1",
            "CartPole-v1",
            "--algos",
            "sb3",
            "prl",
            "--seeds",
            "3",
            "5",
            "--budget-scale",
            "0.01",
        ]
    )
    chosen = [(u.study.env_id, u.seed, u.variant, u.budget) for u in study.chosen_units(args)]
    assert chosen[:3] == [
        ("Acrobot-v1", 3, "prl", 5000),
        ("Acrobot-v1", 3, "sb3", 5000),
        ("Acrobot-v1", 5, "prl", 5000),
    ]
    assert len(chosen) == 8


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run --envs Pong", "no study of 'Pong'; there are CartPole-v1"),
        ("run --envs CartPole-v1 --algos dqn", "no variant dqn; there are prl, prl-overlap, sb3"),
        ("one --env Chain-v0 --algo sb3 --seed 0", "no variant sb3 of Chain-v0; there are prl, prl-rnd"),
        ("one --env prl/Chain-v0 --algo sb3 --seed 0", "no variant sb3 of Chain-v0; there are prl, prl-rnd"),
        ("report --folder no/such", "no/such is not a folder of results"),
    ],
)
def test_what_there_is_not(command, message, capsys):
    assert study.main(command.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "command"),
    [("stable_baselines3", "run --envs CartPole-v1 --algos sb3"), ("matplotlib", "report")],
)
def test_a_missing_package(module, command, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(study.importlib.util, "find_spec", lambda name: None if name == module else "found")
    assert study.main([*command.split(), "--folder", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


WRITE = """
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(exist_ok=True, parents=True)
path.with_suffix(".csv").write_text("timesteps,mean_return")
if sys.argv[2] == "fail":
    sys.exit("it went wrong")
path.write_text(json.dumps({"budget": 1000, "evaluation": {"mean": 1.0, "std": 0.0}}))
with open(sys.argv[3], "a") as file:
    file.write(path.stem + " ")
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Units that take no time; those whose seeds are in `failing` fail when half is written."""
    failing = set()

    def command(unit, folder, jobs, num_workers):
        how = "fail" if unit.seed in failing else "finish"
        path = str(result_file(folder, unit))
        return [sys.executable, "-S", "-c", WRITE, path, how, str(tmp_path / "done")]

    monkeypatch.setattr(jobs, "unit_command", command)
    monkeypatch.setattr(jobs, "_POLL", 0.01)
    return SimpleNamespace(failing=failing, done=tmp_path / "done", folder=tmp_path / "results")


def test_a_unit_with_a_result_is_not_done_again(stand_in, leaves_nothing, capsys):
    assert jobs.run_units([unit(0), unit(1)], stand_in.folder, jobs=1) == 0
    assert jobs.run_units([unit(0), unit(1), unit(2)], stand_in.folder, jobs=2) == 0
    assert stand_in.done.read_text().split() == ["prl-seed0", "prl-seed1", "prl-seed2"]
    assert "2 of 3 units are done" in capsys.readouterr().out


def test_a_failed_unit_leaves_nothing_and_is_done_again(stand_in, leaves_nothing, capsys):
    stand_in.failing.add(1)
    todo = [unit(0), unit(1)]
    assert jobs.run_units(todo, stand_in.folder, jobs=2) == 1
    assert not result_file(stand_in.folder, unit(1)).exists()
    assert not curve_file(stand_in.folder, unit(1)).exists()
    said = capsys.readouterr().out
    assert "CartPole-v1 prl seed 1: failed" in said
    assert "    it went wrong" in said
    stand_in.failing.clear()
    assert jobs.run_units(todo, stand_in.folder, jobs=2) == 0
    assert sorted(stand_in.done.read_text().split()) == ["prl-seed0", "prl-seed1"]


def test_an_interrupted_unit_is_stopped_and_leaves_nothing(
    monkeypatch, tmp_path, interruptible, leaves_nothing
):
    """The first unit sends the signal to the study; the second would run for ever."""

    def command(unit, folder, jobs, num_workers):
        csv_file = curve_file(folder, unit)
        csv_file.parent.mkdir(exist_ok=True, parents=True)
        csv_file.write_text("half")
        if unit.seed == 0:
            return [sys.executable, "-S", "-c", "import os, signal; os.kill(os.getppid(), signal.SIGINT)"]
        return [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]

    monkeypatch.setattr(jobs, "unit_command", command)
    with pytest.raises(KeyboardInterrupt), study.stop_on_signals():
        jobs.run_units([unit(1), unit(0)], tmp_path, jobs=2)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_results_of_another_budget_are_not_taken(stand_in):
    jobs.run_units([unit(0)], stand_in.folder, jobs=1)
    with pytest.raises(jobs.StudyError, match=r"another budget than 2,000; choose another --folder"):
        jobs.run_units([unit(0, budget=2000)], stand_in.folder, jobs=1)


def test_the_command_of_a_unit_is_one_that_the_parser_takes(tmp_path):
    line = jobs.unit_command(unit(3, "prl-rnd", CHAIN), tmp_path, jobs=2, num_workers=1)
    args = study.parser().parse_args(line[2:])
    assert (find(args.env), args.algo, args.seed, args.budget) == (CHAIN, "prl-rnd", 3, 1000)
    assert (args.jobs, args.num_workers, args.folder) == (2, 1, tmp_path)


def test_a_unit_of_prl(monkeypatch, tmp_path):
    """Training and evaluation are stood in for; what is made of them is not."""
    seen = {}

    def train(flags, run):
        seen["flags"] = flags
        run.mkdir()
        (run / "summary.json").write_text('{"timesteps": 1024, "wall_seconds": 2.5}')
        (run / "config.yaml").write_text("env_id: x\n")
        (run / "progress.csv").write_text(
            "time/total_timesteps,rollout/ep_rew_mean\n256,nan\n512,0.5\n1024,0.75\n"
        )

    def evaluate_run(run, episodes, seed):
        seen["evaluation"] = (episodes, seed)
        return [SimpleNamespace(episode_return=float(k % 2), length=3) for k in range(episodes)]

    monkeypatch.setattr(units, "train", train)
    monkeypatch.setattr("prl.run.saved_run.evaluate_run", evaluate_run)
    units.run_unit(unit(4, "prl-rnd", CHAIN), tmp_path, jobs=2, num_workers=0)

    flags = "--env-id prl.chain:prl/Chain-v0 --total-timesteps 1000 --seed 4 --num-workers 0 --rnd"
    assert seen == {"flags": flags.split(), "evaluation": (100, units.EVAL_SEED)}
    [found] = read_results(tmp_path, CHAIN, "prl-rnd")
    assert found["evaluation"]["mean"] == found["evaluation"]["std"] == 0.5
    assert (found["evaluation"]["min"], found["evaluation"]["max"]) == (0.0, 1.0)
    assert found["evaluation"]["returns"] == [0.0, 1.0] * 50
    assert (found["timesteps"], found["train_wall_seconds"], found["jobs"]) == (1024, 2.5, 2)
    assert found["command"] == f"python scripts/train.py {flags}"
    assert found["versions"]["torch"] is not None
    assert found["machine"]["fingerprint"] == fingerprint()
    with (tmp_path / "Chain-v0" / "prl-rnd-seed4.csv").open() as file:
        assert list(csv.reader(file)) == [["timesteps", "mean_return"], ["512", "0.5"], ["1024", "0.75"]]


def test_without_an_episode_the_curve_is_empty(tmp_path):
    (tmp_path / "progress.csv").write_text("time/total_timesteps,rollout/ep_rew_mean\n256,nan\n")
    assert units.training_curve(tmp_path) == []


def test_a_result_is_one_line_per_key(tmp_path):
    write_result(tmp_path, unit(), result(), [(1, 2.0)])
    text = result_file(tmp_path, unit()).read_text()
    assert json.loads(text) == result()
    assert len(text.splitlines()) == len(result()) + 2
    assert [path.suffix for path in sorted((tmp_path / "CartPole-v1").iterdir())] == [".csv", ".json"]


def test_the_report_of_an_env():
    found = {"prl": [result(seed, mean=mean) for seed, mean in enumerate([500.0] * 9 + [20.0])]}
    found["sb3"] = [result(0, "sb3", 490.0), result(1, "sb3", 480.0)]
    text = report.report_text({CART.env_id: found}, "results", {"CartPole-v1"})
    # 7 % of the resamples have the bad seed thrice or more, 1.3 % four times; two are trimmed: 500 - 480 / 6.
    assert "| CartPole-v1 | 100,000 | 500 | prl | 10 of 10 | 500.0 | 420.0 .. 500.0 | 64 | yes |" in text
    assert "| sb3 | 2 of 5 | 485.0 (plain mean: too few seeds) | 480.0 .. 490.0 | 60 | no, so far |" in text
    assert "![Learning curves on CartPole-v1](results/CartPole-v1.png)" in text
    assert (
        "| prl | 9 | 20.0 ± 1.50 | 100,024 | 69 | 2 | abc1234 "
        "| `python scripts/train.py --env-id CartPole-v1 --seed 9` |"
    ) in text
    assert "| sb3 | 1 | 480.0 ± 1.50 | 100,024 | 61 | 2 | sb3 2.9.2 |" in text


@pytest.mark.parametrize(
    ("variant", "means", "expected"),
    [
        ("prl-rnd", [0.99] * 8 + [0.0] * 2, "yes: 8 of 10"),
        ("prl-rnd", [0.99] * 7 + [0.0] * 3, "no: 7 of 10"),
        ("prl", [0.99] + [0.0] * 9, "yes: 1 of 10"),
        ("prl", [0.99] * 2 + [0.0] * 8, "no: 2 of 10"),
        ("prl", [0.0], "yes: 0 of 1, so far"),
    ],
)
def test_seeds_that_solve_are_counted(variant, means, expected):
    assert report.verdict(CHAIN, variant, means) == expected


def test_targets_in_words():
    assert report.target_text(CHAIN, "prl") == "above 0.9 on at most 1 of 10 seeds"
    assert report.target_text(CHAIN, "prl-rnd") == "above 0.9 on at least 8 of 10 seeds"
    assert report.target_text(find("Acrobot-v1"), "sb3") == "-78"
    assert report.target_text(find("Pong-v5"), "prl") == "none"


def test_setups_train_in_turns_and_medians_are_compared(tmp_path):
    asked = []
    seconds = iter([2.0, 1.0, 4.0, 8.0, 4.0, 16.0, 3.0, 1.0, 5.0])

    def train(unit, num_workers):
        asked.append((unit.study.slug, unit.variant, num_workers, unit.seed, unit.budget))
        # Twice the budget was played, so half of the seconds count.
        return {"train_wall_seconds": 2 * next(seconds), "timesteps": 20_000, "versions": {"sb3": "2.9.2"}}

    lines = []
    found = speed.measure([CART], 10_000, 3, train, lines.append)
    turns = [("prl", 0), ("prl", 2), ("sb3", 0)]
    assert asked == [
        ("CartPole-v1", variant, workers, seed, 10_000) for seed in range(3) for variant, workers in turns
    ]
    assert lines[1] == "round 0: CartPole-v1, prl, 2 workers: 1.0 s"
    speed.write(tmp_path, found)
    assert speed.read(tmp_path) == found
    assert speed.rows(found) == [["CartPole-v1", "10,000", "3.0", "1.0", "5.0", "1.67", "5.00"]]
    page = report.report_text({CART.env_id: {"prl": [result()]}}, "results", times=found)
    assert "| CartPole-v1 | 10,000 | 3.0 | 1.0 | 5.0 | 1.67 | 5.00 |" in page


def test_overlap_is_compared_over_the_seeds_of_both(tmp_path):
    curves = [[(0, 0.0), (500, 100.0), (1000, 100.0)], [(0, 0.0), (1000, 100.0)], [(1000, 7.0)]]
    for seed, curve in enumerate(curves):  # the last one has no curve to speak of
        write_result(tmp_path, unit(seed), result(seed, mean=490.0 + seed), curve)
        write_result(tmp_path, unit(seed, "prl-overlap"), result(seed, "prl-overlap"), curve)
    write_result(tmp_path, unit(3), result(3, mean=0.0), curves[0])
    rows = report.overlap_rows(report.results_in(tmp_path), tmp_path)
    [[env, seeds, synchronous, overlapped, *means]] = rows
    assert (env, seeds) == ("CartPole-v1", "2")
    assert synchronous == "490.5 (490.0 .. 491.0)"
    assert overlapped == "500.0 (500.0 .. 500.0)"
    assert means == ["62.5 (50.0 .. 75.0)"] * 2
    page = report.report_text(report.results_in(tmp_path), "results", overlapped=rows)
    assert "| CartPole-v1 | 2 | 490.5 (490.0 .. 491.0) | 500.0 (500.0 .. 500.0) |" in page


def test_without_overlap_there_is_nothing_to_compare(tmp_path):
    write_result(tmp_path, unit(0), result(0), [(1, 2.0), (2, 2.0)])
    found = report.results_in(tmp_path)
    assert report.overlap_rows(found, tmp_path) == []
    assert "Overlap" not in report.report_text(found, "results")


def published():
    """Env, variant and results of all that docs/results holds of prl."""
    for entry in STUDIES:
        for variant in entry.prl:
            results = read_results(study._FOLDER, entry, variant)
            if results:
                yield pytest.param(results, id=f"{entry.slug}-{variant}")


@pytest.mark.parametrize("results", list(published()))
def test_published_results_are_of_the_settings_that_their_command_gives_today(results):
    """Whoever changes a preset repeats its runs, or removes the results.

    Settings that are newer than a result must have their defaults, which do what was done without them.
    """
    flags = shlex.split(results[0]["command"])[2:]
    defaults = yaml.safe_load(to_yaml(TrainConfig(env_id="any")))
    today = yaml.safe_load(to_yaml(parse(TrainConfig, flags, prog="train.py")))
    for result in results:
        assert {**defaults, **result["settings"], "seed": 0} == {**today, "seed": 0}
        assert len(result["evaluation"]["returns"]) == 100
        assert result["evaluation"]["mean"] == pytest.approx(
            np.mean(result["evaluation"]["returns"]), abs=1e-3
        )


def test_the_published_page_is_made_from_the_published_results():
    folder = study._FOLDER
    pictures = [path.stem for path in folder.glob("*.png")]
    found = report.results_in(folder)
    overlapped = report.overlap_rows(found, folder)
    text = report.report_text(found, folder.name, pictures, speed.read(folder), overlapped)
    page = folder.with_suffix(".md").read_text(encoding="utf-8")
    assert report.between_marks(page, text) == page, "python scripts/studies/study.py report writes it anew"


def test_nothing_was_timed(tmp_path):
    assert speed.read(tmp_path) is None
    assert "speed" not in report.report_text({CART.env_id: {"prl": [result()]}}, "results")


def test_only_envs_with_settings_of_the_baseline_are_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "need", lambda module, package: None)
    assert study.main(["speed", "--envs", "Chain-v0", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "study.py: the baseline has no settings for Chain-v0\n"


def test_without_a_target_there_is_no_verdict():
    assert report.verdict(find("Pong-v5"), "prl", [-20.0]) == "no target"


def test_text_around_the_marks_is_kept():
    page = f"# Mine\n\nBefore.\n\n{report.BEGIN}\nold\n{report.END}\n\nAfter.\n"
    new = report.between_marks(page, "new")
    assert new == f"# Mine\n\nBefore.\n\n{report.BEGIN}\nnew\n{report.END}\n\nAfter.\n"
    assert report.between_marks(new, "new") == new
    assert report.between_marks("# Mine\n", "new") == f"# Mine\n\n{report.BEGIN}\nnew\n{report.END}\n"


def test_the_page_is_written_beside_the_folder(monkeypatch, tmp_path):
    folder = tmp_path / "results"
    monkeypatch.setattr(report, "draw", lambda *_: False)
    write_result(folder, unit(7), result(7), [(1, 2.0)])
    page = report.write_report(folder)
    assert page == tmp_path / "results.md"
    text = page.read_text()
    assert text.startswith("# Results\n")
    assert (
        "| CartPole-v1 | 100,000 | 500 | prl | 1 of 10 | 500.0 (plain mean: too few seeds) | one seed |"
        in text
    )
    assert "Acrobot" not in text, "what has no results has no place"


def test_the_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for seed in range(2):
        write_result(tmp_path, unit(seed), result(seed), [(100, 20.0), (1000, 400.0 + seed)])
    assert report.draw(CART, report.results_of(CART, tmp_path), tmp_path)
    assert (tmp_path / "CartPole-v1.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_common_steps_are_not_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for seed in range(2):
        write_result(tmp_path, unit(seed), result(seed), [(100 + seed, 20.0)])
    assert not report.draw(CART, report.results_of(CART, tmp_path), tmp_path)


def test_the_list_counts_what_is_done(tmp_path, capsys):
    write_result(tmp_path, unit(7), result(7), [(1, 2.0)])
    assert study.main(["list", "--folder", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["CartPole-v1", "100,000", "500", "prl", "1", "of", "10"] in lines
    assert ["CartPole-v1", "100,000", "500", "sb3", "0", "of", "5"] in lines


def test_the_baseline_gets_its_settings():
    import torch
    from baseline import ppo_arguments

    arguments = ppo_arguments(SB3_SETTINGS["CartPole-v1"])
    assert "n_envs" not in arguments
    assert [arguments["learning_rate"](share) for share in (1.0, 0.5)] == [0.001, 0.0005]
    cheetah = ppo_arguments(SB3_SETTINGS["HalfCheetah-v5"])
    assert "normalize" not in cheetah
    assert cheetah["policy_kwargs"]["activation_fn"] is torch.nn.ReLU
    assert SB3_SETTINGS["HalfCheetah-v5"]["policy_kwargs"]["activation_fn"] == "ReLU", (
        "plain data stays plain"
    )


def test_a_study_of_its_own():
    """Slugs are names of files whatever stands before them."""
    assert Study("a.b:c/D-v1", 1, 0.0, 1).slug == "D-v1"
    assert Study("D-v1", 1, 0.0, 1).slug == "D-v1"
