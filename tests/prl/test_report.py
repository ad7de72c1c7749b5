"""Reports: what is read from run folders, what is made of it, and that the page is safe and stands alone."""

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from report_helpers import checked, csv_text, page_of, progress, run_folder, runs_in, text_of

from learner.settings import ConfigError
from prl.commands.main import dispatch
from prl.report.facts import best_evaluation, phase_shares, statistic, success_rate
from prl.report.grouping import by_env, changed_settings
from prl.report.page import report_page
from prl.report.reading import read_runs, short_command
from prl.run.intervals import bootstrap_interval, interquartile_mean

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "report" / "LunarLander-v3.html"
# ---- reading


def test_a_run_is_read(tmp_path):
    (run,) = read_runs([run_folder(tmp_path / "run", seed=3)])
    assert (run.name, run.env_id, run.seed, run.status, run.steps) == (
        "run",
        "CartPole-v1",
        3,
        "finished",
        30_000.0,
    )
    assert run.command == "prl train --seed 3"
    assert best_evaluation(run) == (303.0, 20_000.0)
    assert run.last("eval/std_reward") == 7.5
    assert math.isnan(success_rate(run))


def test_only_the_progress_is_needed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "progress.csv").write_text(
        "rollout/ep_rew_mean,time/total_timesteps\nnan,1000\n20,2000\n"
    )
    (run,) = read_runs([tmp_path / "run"])
    assert (run.env_id, run.seed, run.command, run.status) == ("", None, "", "unfinished")
    text = text_of(report_page([run]))
    assert "Its last 100 training episodes had a mean return of 20.00 , after 2,000 steps." in text
    assert "The folders hold no settings" in text


def test_a_row_that_is_being_written_is_left_out(tmp_path):
    folder = run_folder(tmp_path / "run", status=None)
    with (folder / "progress.csv").open("a") as file:
        file.write("123,4")
    (run,) = read_runs([folder])
    assert run.steps == 30_000.0


def test_names_tell_runs_apart(tmp_path):
    paths = [run_folder(tmp_path / name) for name in ("a/seed0", "b/seed0")]
    assert [run.name for run in read_runs(paths)] == ["a/seed0", "b/seed0"]


@pytest.mark.parametrize(
    ("command", "short"),
    [
        ("/home/me/venv/bin/python3 /home/me/venv/bin/prl train --seed 1", "prl train --seed 1"),
        ("/usr/bin/python scripts/train.py --env-kwargs 'a=b c'", "python train.py --env-kwargs 'a=b c'"),
        ("python /x/prl/__main__.py train", "python -m prl train"),
        ("python my.py", "python my.py"),
        ("it's damaged", "it's damaged"),
    ],
)
def test_commands_are_shortened(command, short):
    assert short_command(command) == short


# ---- groups and settings


def test_runs_that_differ_in_their_seeds_are_one_group(tmp_path):
    folders = [
        *runs_in(tmp_path / "a", 2),
        run_folder(tmp_path / "b", settings={"gamma": 0.9, "ent_coef": 0.1}),
    ]
    other = run_folder(tmp_path / "c", settings={"env_id": "Acrobot-v1"})
    groups = by_env(read_runs([*folders, other]))
    assert [(group.label, len(group.runs)) for group in groups["CartPole-v1"]] == [
        ("gamma 0.99, ent_coef 0", 2),
        ("gamma 0.9, ent_coef 0.1", 1),
    ]
    assert [(group.label, group.color) for group in groups["Acrobot-v1"]] == [("Acrobot-v1", 0)]


def test_a_setting_that_a_run_does_not_know_has_its_default(tmp_path):
    """A run of an older version belongs to newer ones, and is told from those with another value."""
    folders = [*runs_in(tmp_path / "a", 2), run_folder(tmp_path / "b", settings={"gamma": 0.9})]
    config = folders[0] / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("gamma:")))
    (groups,) = by_env(read_runs(folders)).values()
    assert [(group.label, len(group.runs)) for group in groups] == [("gamma 0.99", 2), ("gamma 0.9", 1)]


def test_the_commands_of_a_resumed_run_are_shown(tmp_path):
    command = "/bin/python /bin/prl train --seed 1\n/bin/python /bin/prl train --resume run"
    (run,) = read_runs([run_folder(tmp_path / "run", command=command)])
    assert run.command == "prl train --seed 1\nprl train --resume run"


def test_statistics_are_about_runs_that_finished(tmp_path):
    folders = [*runs_in(tmp_path / "a", 4), run_folder(tmp_path / "b", seed=1000, status="stopped")]
    ((group,),) = by_env(read_runs(folders)).values()
    assert [run.seed for run in group.compared] == [0, 1, 2, 3]
    found = statistic(group.compared, lambda run: float(run.seed))
    assert (found.middle, found.size) == (1.5, 4)
    assert found.interval == bootstrap_interval([0.0, 1.0, 2.0, 3.0])


def test_settings_beside_the_defaults(tmp_path):
    """Those of a preset come last; tuples and lists are equal."""
    preset = {"env_id": "LunarLander-v3", "num_envs": 16, "hidden_sizes": (64, 64)}
    folders = [
        run_folder(tmp_path / "a", settings={**preset, "gamma": 0.9}),
        run_folder(tmp_path / "b", settings={**preset, "env_kwargs": {"gravity": -5.0}}),
    ]
    (groups,) = by_env(read_runs(folders)).values()
    found = [(s.name, s.default, s.values, s.source) for s in changed_settings(groups)]
    assert found == [
        ("gamma", "0.99", ("0.9", "0.99"), "given"),
        ("env_kwargs", "none", ("none", "gravity=-5"), "given"),
        ("eval_freq", "0", ("10000", "10000"), "given"),
        ("num_envs", "32", ("16", "16"), "preset"),
    ]


def test_phases_are_weighted_by_the_time_of_their_updates(tmp_path):
    """Two updates of 1000 steps, at 1000 and at 250 steps/s: they took one second and four."""
    folder = tmp_path / "run"
    folder.mkdir()
    columns = {"time/total_timesteps": [1000, 2000], "time/iteration_fps": [1000, 250]}
    shares = {name: [0, 0] for name in ("act", "store", "wait", "other")}
    shares |= {"env": [1, 0.5], "update": [0, 0.5]}
    columns |= {f"time/{name}_share": values for name, values in shares.items()}
    (folder / "progress.csv").write_text(csv_text(columns))
    found = phase_shares(read_runs([folder]))
    assert found == pytest.approx({"env": 0.6, "update": 0.4, "act": 0, "store": 0, "wait": 0, "other": 0})


# ---- the page


def test_the_report_of_one_run(tmp_path):
    text = text_of(page_of(run_folder(tmp_path / "run", seed=3)))
    for part in (
        "CartPole-v1 Run run · seed 3 · 30,000 steps",
        "After 30,000 steps the policy was evaluated with a mean return of 253.0 over 20 episodes (standard "
        "deviation 7.5).",
        "Best evaluation 303.0 after 20k",
        "Time 1 min 05 s",
        "reward threshold 475",
        "Approximate KL",
        "Value loss log scale",
        "stepping envs 25 %",
        "eval_freq 10000 0 given",
        "prl train --seed 3",
        "torch 2.11.0",
    ):
        assert part in text
    for left_out in ("Clip range", "Initial ratio error", "Success rate", "Replay", "interquartile mean ("):
        assert left_out not in text


def test_the_report_of_several_seeds(tmp_path):
    folders = runs_in(tmp_path)
    text = text_of(page_of(*folders))
    low, high = bootstrap_interval([250.0 + seed for seed in range(5)])
    assert (
        f"Five runs reached an interquartile mean return of 252.0 (95 % interval {low:.1f} to {high:.1f})"
        in text
    )
    assert "Five runs · seeds 0 to 4 · 30,000 steps each" in text
    training = interquartile_mean([progress(seed)["rollout/ep_rew_mean"][-1] for seed in range(5)])
    assert f"interquartile mean 252.0 302.0 {training:.1f} 5,002" in text
    assert "torch 2.10.0, 2.11.0" in text
    assert "Commands of the other 4 runs" in text
    assert "Agarwal et al. 2021" in text


def test_the_report_of_several_settings(tmp_path):
    text = text_of(page_of(*runs_in(tmp_path / "a", 3), *runs_in(tmp_path / "b", 2, settings={"gamma": 0.9})))
    assert "Evaluation return" in text
    assert re.search(r"gamma 0\.99 3 251\.0 250\.0 to 252\.0 .* gamma 0\.9 2 250\.5", text)


def test_success_rates_are_shown_if_there_are_any(tmp_path):
    rates = {"rollout/success_rate": np.linspace(0.0, 0.5, 30)}
    text = text_of(page_of(run_folder(tmp_path / "run", extra=rates)))
    assert "Success rate 50 %" in text
    assert "Success rate % of episodes" in text


def test_columns_that_the_report_does_not_know_are_drawn(tmp_path):
    extra = {"rollout/info/height": np.linspace(1.0, 0.5, 30), "train/my_norm": np.full(30, 0.5)}
    text = text_of(page_of(run_folder(tmp_path / "run", extra=extra)))
    assert "info/height" in text
    assert "my_norm" not in text, "it is constant"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"status": None},
            "The run is still going or was killed; this is what it has written so far: 30,000 of 100,000",
        ),
        ({"status": "stopped"}, "The run was stopped: 30,000 of 100,000 steps."),
        ({"status": "failed"}, "The run failed: 30,000 of 100,000 steps."),
        ({"evaluated": False}, "The run has no evaluations; --eval-freq adds them to a training."),
    ],
)
def test_the_report_says_what_is_missing(tmp_path, options, line):
    text = text_of(page_of(run_folder(tmp_path / "run", **options)))
    assert line in text


def test_a_run_without_an_ended_episode(tmp_path):
    none = {"rollout/ep_rew_mean": np.full(30, np.nan)}
    text = text_of(page_of(run_folder(tmp_path / "run", extra=none, evaluated=False, status=None)))
    assert "No episode has ended yet." in text


def test_names_and_settings_are_text(tmp_path):
    """HTML in a folder, an env, a command, a setting, a column, a status or a title does nothing."""
    evil = "<script>alert(1)<script>"
    folder = run_folder(
        tmp_path / evil,
        settings={"env_id": evil, "encoder": f"m:{evil}", "env_kwargs": {"a": '"><img src=x>'}},
        command=f"python my.py '{evil}' \"'</pre>",
        status="</style><script>",
        extra={f"train/{evil}": np.arange(30.0)},
    )
    (folder / "versions.json").write_text(json.dumps({evil: "</dd>", "torch": evil}))
    page = page_of(folder, run_folder(tmp_path / "b", settings={"env_id": evil}), title=f"{evil}</title>")
    found = checked(page)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "img", "link", "iframe", "object"}
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert sum(evil in text for text in found.texts) > 5


def test_the_page_loads_nothing(tmp_path):
    page = page_of(*runs_in(tmp_path, 3))
    found = checked(page)
    for _, attributes in found.elements:
        assert not {"src", "href", "srcset", "data", "action", "poster"} & attributes.keys()
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    policies = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")


def test_the_same_runs_give_the_same_page(tmp_path):
    folders = runs_in(tmp_path, 3)
    assert page_of(*folders) == page_of(*folders)


# ---- a replay


def test_a_video_of_the_best_run_is_embedded(tmp_path):
    folders = runs_in(tmp_path, 3)
    for folder in folders[:2]:
        (folder / "videos").mkdir()
        (folder / "videos" / "episode.mp4").write_bytes(folder.name.encode())
    videos = [a for tag, a in checked(page_of(*folders)).elements if tag == "video"]
    assert [video["src"] for video in videos] == [
        "data:video/mp4;base64," + base64.b64encode(b"seed1").decode()
    ]


def test_a_large_video_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("prl.report.details._MAX_VIDEO", 1 << 20)
    folder = run_folder(tmp_path / "run")
    (folder / "episode.webm").write_bytes(bytes((1 << 20) + 1))
    text = text_of(page_of(folder))
    assert "episode.webm is left out: it has more than 1 MiB." in text
    assert "Replay" not in text


# ---- the command


def test_the_command_writes_beside_a_single_run(tmp_path, capsys, monkeypatch):
    folders = runs_in(tmp_path / "runs", 2)
    assert dispatch(["report", str(folders[0])], "prl") == 0
    assert (folders[0] / "report.html").read_text().startswith("<!doctype html>")
    monkeypatch.chdir(tmp_path)
    assert dispatch(["report", *map(str, folders), "--title", "Both"], "prl") == 0
    assert "<h1>Both</h1>" in (tmp_path / "report.html").read_text()
    assert capsys.readouterr().out == f"report: {folders[0]}/report.html\nreport: report.html\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report needs at least one run folder"),
        (["{tmp}/none"], "there is no folder {tmp}/none"),
        (["{tmp}/runs"], "{tmp}/runs is a folder of runs; give the runs: {tmp}/runs/*"),
        (["{tmp}"], "{tmp} is not the folder of a run: it has no progress.csv"),
        (["{tmp}/study"], "{tmp}/study is the folder of a study; give its runs: {tmp}/study/trials/*/*"),
        (["{tmp}/runs/seed0/config.yaml"], "{tmp}/runs/seed0/config.yaml is not a folder"),
        (["{tmp}/runs/seed0", "{tmp}/none"], "there is no folder {tmp}/none"),
        (["{tmp}/runs/seed0", "{tmp}/runs/../runs/seed0"], "{tmp}/runs/../runs/seed0 is given twice"),
        (["{tmp}/runs/seed0", "--video", "{tmp}/a.gif"], "video must end in .mp4 or .webm, got {tmp}/a.gif"),
        (
            ["{tmp}/runs/seed0", "--video", "{tmp}/a.mp4"],
            "cannot read {tmp}/a.mp4: No such file or directory",
        ),
        (
            ["{tmp}/runs/seed0", "--out", "{tmp}/runs/seed0/config.yaml/a"],
            "cannot write {tmp}/runs/seed0/config",
        ),
        (["{tmp}/runs/seed0", "--titel", "x"], "unknown flag --titel; did you mean --title?"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, message):
    runs_in(tmp_path / "runs", 1)
    run_folder(tmp_path / "study" / "trials" / "0000" / "seed0")
    assert dispatch(["report", *(text.format(tmp=tmp_path) for text in arguments)], "prl") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("report: " + message.format(tmp=tmp_path))
    assert err.count("\n") == 1


def test_of_several_runs_those_that_cannot_be_read_are_left_out_with_a_line(tmp_path, capsys):
    good = runs_in(tmp_path / "runs", 2)
    begun, damaged, page = (tmp_path / "runs" / name for name in ("begun", "damaged", "report.html"))
    (run_folder(begun) / "progress.csv").unlink()
    (run_folder(damaged) / "summary.json").write_text("{")
    page.touch()
    assert (
        dispatch(["report", *map(str, sorted((tmp_path / "runs").iterdir())), "--out", str(page)], "prl") == 0
    )
    out, err = capsys.readouterr()
    assert (out, page.read_text()) == (f"report: {page}\n", page_of(*good))
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"report: left out: {begun} holds no update yet")
    assert lines[1].startswith(f"report: left out: {damaged}/summary.json is damaged")
    assert lines[2] == f"report: left out: {page} is not a folder"
    assert dispatch(["report", str(begun), str(damaged)], "prl") == 2
    assert capsys.readouterr().err.startswith(f"report: {begun} holds no update yet")


HEAD = "rollout/ep_rew_mean,time/total_timesteps\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("progress.csv", "", "has no column time/total_timesteps"),
        ("progress.csv", "rollout/ep_rew_mean\n1\n", "has no column time/total_timesteps"),
        ("progress.csv", HEAD, "holds no update yet"),
        ("progress.csv", HEAD + "1,1000\n2,nan\n", "time/total_timesteps is not a number in every line"),
        ("progress.csv", HEAD + "1,1000\nmuch,2000\n", "'much' in line 3, column rollout/ep_rew_mean"),
        ("progress.csv", HEAD + "1,1000\n2000\n3,3000\n", "line 3 has 1 cells, not 2"),
        ("progress.csv", b"\xff\xfe\x00", "it is not text"),
        ("evaluations.csv", "eval/timesteps\nx\n", "'x' in line 2, column eval/timesteps"),
        ("config.yaml", "- a\n", "it must hold a mapping"),
        ("config.yaml", "a: [", "config.yaml is damaged"),
        ("summary.json", "{", "summary.json is damaged"),
        ("versions.json", "[]", "it must hold an object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, content, message):
    folder = run_folder(tmp_path / "run")
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_runs([folder])
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_cannot_be_drawn_are_left_out(tmp_path):
    folder = run_folder(tmp_path / "run", evaluated=False)
    columns = "time/iteration_fps,time/env_share,train/value_loss,train/other"
    rows = ("1,1000,0,1,1e308,1e308", "-1e308,2000,0,1,inf,-1e308", "3,3000,0,1,2,nan", "4,4000,0,1,3,1e300")
    (folder / "progress.csv").write_text("\n".join([f"{HEAD.strip()},{columns}", *rows, ""]))
    text = text_of(page_of(folder))
    assert "Value loss" in text
    assert "Where the time went" not in text
    assert "nan" not in text


def test_the_best_evaluation_of_a_short_run_has_its_steps(tmp_path):
    folder = run_folder(tmp_path / "run")
    assert "after 20k" in text_of(page_of(folder))
    (folder / "evaluations.csv").write_text("eval/timesteps,eval/mean_reward\n212,8\n")
    assert "after 212" in text_of(page_of(folder))


def test_a_link_to_a_video_that_has_gone_is_no_video(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert "Replay" not in text_of(page_of(folder))


# ---- the example


def test_the_example_is_a_report():
    """`docs/report/LunarLander-v3.html` opens anywhere, and names no folder of the machine that made it."""
    page = EXAMPLE.read_text(encoding="utf-8")
    text = text_of(page)
    assert "Five runs reached an interquartile mean return of" in text
    assert "://" not in page
    assert not re.search(r"/(tmp|home|root|work)/", text)
    assert len(page) < 300_000
