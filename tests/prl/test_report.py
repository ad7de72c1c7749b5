"""Reports: what is read from run folders, what is made of it, and that the page is safe and stands alone."""

import base64
import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from learner.settings import ConfigError
from prl.commands.main import dispatch
from prl.config.train_config import TrainConfig, to_yaml
from prl.report.chart import Chart, Line, render, spread
from prl.report.facts import best_evaluation, phase_shares, statistic, success_rate
from prl.report.grouping import by_env, changed_settings
from prl.report.markup import Markup, element, join
from prl.report.numbers import decimals_for, duration, fixed, log_ticks, number, percent, tick_labels, ticks
from prl.report.page import report_page
from prl.report.reading import read_runs, short_command
from prl.report.series import Series, over_seeds, thinned
from prl.run.intervals import bootstrap_band, bootstrap_interval, interquartile_mean

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "report" / "LunarLander-v3.html"
VOID = {"br", "hr", "meta"}


def csv_text(columns):
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(f"{value:.8g}" for value in row) for row in rows)]) + "\n"


def progress(seed=0, updates=30):
    steps = 1000.0 * np.arange(1, updates + 1)
    draws = np.random.default_rng(seed)
    return {
        "rollout/ep_rew_mean": 100.0 + steps / 100.0 + draws.normal(size=updates),
        "rollout/ep_len_mean": 100.0 + steps / 100.0,
        "time/total_timesteps": steps,
        "time/fps": np.full(updates, 5000.0 + seed),
        "time/iteration_fps": np.full(updates, 5000.0) + draws.normal(size=updates),
        **{f"time/{name}_share": np.full(updates, 0.25) for name in ("env", "act", "wait", "update")},
        **{f"time/{name}_share": np.zeros(updates) for name in ("store", "other")},
        "train/approx_kl": 0.01 + 1e-3 * draws.normal(size=updates),
        "train/value_loss": 1000.0 / steps**1.5,
        "train/clip_range": np.full(updates, 0.2),
        "train/initial_ratio_error": np.full(updates, 1e-7) * draws.uniform(size=updates),
    }


def evaluations(seed=0):
    returns = np.array([120.0, 300.0, 250.0]) + seed
    return {
        "eval/timesteps": np.array([10_000.0, 20_000.0, 30_000.0]),
        "eval/mean_reward": returns,
        "eval/std_reward": np.array([9.0, 8.0, 7.5]),
        "eval/episodes": np.full(3, 20.0),
    }


def run_folder(path, seed=0, evaluated=True, status="finished", extra=None, settings=None, command=""):
    """A run of 30,000 steps."""
    path.mkdir(parents=True)
    (path / "progress.csv").write_text(csv_text(progress(seed) | (extra or {})))
    config = TrainConfig(**({"env_id": "CartPole-v1", "seed": seed, "eval_freq": 10_000} | (settings or {})))
    (path / "config.yaml").write_text(to_yaml(config))
    (path / "command.txt").write_text((command or f"/opt/bin/python /opt/bin/prl train --seed {seed}") + "\n")
    (path / "versions.json").write_text(json.dumps({"python": "3.11.7", "torch": f"2.1{seed % 2}.0"}))
    if evaluated:
        (path / "evaluations.csv").write_text(csv_text(evaluations(seed)))
    if status is not None:
        about = {"status": status, "env_id": "CartPole-v1", "seed": seed, "wall_seconds": 65.0}
        (path / "summary.json").write_text(json.dumps(about | {"weights_sha256": f"{seed:064x}"}))
    return path


def runs_in(folder, count=5, **options):
    return [run_folder(folder / f"seed{seed}", seed, **options) for seed in range(count)]


def page_of(*folders, **options):
    return report_page(read_runs(folders), **options)


class Checker(HTMLParser):
    """Collects elements and text, and fails on an end tag that closes something else."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)


def checked(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker


def text_of(page):
    return " ".join(" ".join(checked(page).texts).split()).replace("\N{NO-BREAK SPACE}", " ")


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (254.3456, "254.3"),
        (-0.00123, "\N{MINUS SIGN}0.00123"),
        (17300.4, "17,300"),
        (0.0, "0"),
        (9.0, "9"),
        (1.24e-5, "1.2e\N{MINUS SIGN}05"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_columns_of_numbers_have_their_points_below_each_other():
    assert [fixed(value, 1) for value in (7.0, -12.25, 1234.56)] == ["7.0", "\N{MINUS SIGN}12.2", "1,234.6"]
    assert [decimals_for([value]) for value in (0.96, 9.9, 273.2, -5845.0, 0.0)] == [3, 3, 1, 0, 1]


def test_shares_and_durations():
    assert [percent(share) for share in (0.0, 0.031, 0.0996, 0.64, 1.0)] == [
        f"{text}\N{NO-BREAK SPACE}%" for text in ("0", "3.1", "10", "64", "100")
    ]
    texts = [duration(seconds).replace("\N{NO-BREAK SPACE}", " ") for seconds in (1.24, 31, 59.99, 245, 7980)]
    assert texts == ["1.2 s", "31 s", "60 s", "4 min 05 s", "2 h 13 min"]


@pytest.mark.parametrize(
    ("low", "high", "wanted", "labels"),
    [
        (0.0, 508_000.0, 6, ["0", "100k", "200k", "300k", "400k", "500k"]),
        (-210.0, 280.0, 5, ["\N{MINUS SIGN}200", "\N{MINUS SIGN}100", "0", "100", "200"]),
        (0.0, 0.0123, 3, ["0.000", "0.005", "0.010"]),
        (0.0, 1_000_000.0, 3, ["0", "0.5M", "1.0M"]),
    ],
)
def test_ticks_are_round_numbers(low, high, wanted, labels):
    assert tick_labels(ticks(low, high, wanted)) == labels


def test_ticks_of_a_logarithmic_axis():
    assert tick_labels(log_ticks(0.5, 2500.0, 4)) == ["1", "10", "100", "1,000"]
    assert log_ticks(3.0, 60.0) == [5.0, 10.0, 20.0, 50.0]


# ---- markup


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", "<script>")
    assert element("p", "a & b ", inner, title='"<') == (
        '<p title="&quot;&lt;">a &amp; b <b>&lt;script&gt;</b></p>'
    )
    assert join(["x", None, ["<"]], Markup("<br>")) == "x&lt;<br>"


def test_attributes():
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert (
        element("i", class_="a", http_equiv="b", loop=True, muted=False)
        == '<i class="a" http-equiv="b" loop></i>'
    )


# ---- statistics


def test_a_band_is_the_interval_of_each_point():
    """A draw takes whole curves, so that the same seeds are drawn at each point."""
    scores = np.random.default_rng(0).normal(size=(3, 6))
    low, high = bootstrap_band(scores)
    assert list(zip(low, high, strict=True)) == [bootstrap_interval(point) for point in scores]


def test_curves_over_seeds_cover_what_all_have_seen():
    curves = [Series(np.array([0.0, 100.0]), np.array([0.0, 100.0 * k])) for k in range(4)]
    curves.append(Series(np.array([20.0, 40.0, 60.0]), np.array([0.0, 0.0, 0.0])))
    found = over_seeds(curves)
    assert found.middle.x.tolist() == [20.0, 40.0, 60.0]
    np.testing.assert_allclose(
        found.middle.y, [interquartile_mean([0, x, 2 * x, 3 * x, 0]) for x in (20, 40, 60)]
    )
    assert (found.low <= found.middle.y).all()
    assert (found.middle.y <= found.high).all()


def test_two_seeds_have_no_interval_and_none_without_common_steps():
    one, other = (Series(np.array([at, at + 1.0]), np.array([1.0, 3.0])) for at in (0.0, 9.0))
    assert over_seeds([one, one]).low is None
    assert over_seeds([one, other]) is None


def test_evaluations_are_put_together_one_by_one():
    """They come with the first update at or beyond the same steps, so their steps differ a little."""
    curves = [Series(np.array([10.0, 20.0 + late]), np.array([1.0, 2.0 + late])) for late in (0.0, 1.0)]
    found = over_seeds(curves, point_by_point=True)
    assert (found.middle.x.tolist(), found.middle.y.tolist()) == ([10.0, 20.5], [1.0, 2.5])


def test_a_thinned_curve_keeps_its_spikes():
    y = np.zeros(10_000)
    y[1234], y[8765] = 9.0, -9.0
    curve = thinned(Series(np.arange(10_000.0), y), buckets=50)
    assert len(curve.x) <= 102
    assert (curve.x[curve.y == 9.0].tolist(), curve.x[curve.y == -9.0].tolist()) == ([1234.0], [8765.0])
    assert (curve.x[0], curve.x[-1]) == (0.0, 9999.0)


# ---- charts


def test_labels_move_apart_and_stay_inside():
    assert spread([10.0, 50.0, 52.0], 5.0, 100.0) == [10.0, 50.0, 55.0]
    assert spread([98.0, 99.0], 5.0, 100.0) == [95.0, 100.0]


def points(markup, kind):
    """The points of the first path of a class, in the coordinates of the drawing."""
    path = re.search(rf'<path d="M([^"]+)" class="{kind} ', markup)[1]
    return [tuple(map(int, point.split(","))) for point in re.split("[LM]", path.replace("h0", ""))]


def test_a_line_is_drawn_where_its_values_are():
    line = Line(Series(np.array([0.0, 50.0, 100.0]), np.array([0.0, 10.0, 5.0])), 0, label="it")
    markup = render(Chart("Title", (line,), limits=(0.0, 10.0)))
    assert points(markup, "line") == [(0, 1000), (1000, 0), (2000, 500)]
    assert text_of(markup).startswith("Title over environment steps; at the end: it 5") or "Title" in text_of(
        markup
    )


def test_a_logarithmic_axis():
    line = Line(Series(np.array([0.0, 50.0, 100.0]), np.array([1.0, 10.0, 100.0])), 0)
    markup = render(Chart("Title", (line,), log=True, limits=(1.0, 100.0)))
    assert points(markup, "line") == [(0, 1000), (1000, 500), (2000, 0)]


def test_a_single_point_is_a_dot():
    markup = render(Chart("Title", (Line(Series(np.array([5.0]), np.array([1.0])), 0, label="it"),)))
    assert len(points(markup, "dots")) == 1
    assert 'class="line' not in markup


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
        ("ent_coef 0, gamma 0.99", 2),
        ("ent_coef 0.1, gamma 0.9", 1),
    ]
    assert [(group.label, group.color) for group in groups["Acrobot-v1"]] == [("Acrobot-v1", 0)]


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


def test_columns_that_the_report_does_not_know_are_drawn(tmp_path):
    extra = {"train/rnd_loss": np.linspace(1.0, 0.5, 30), "train/grad_norm": np.full(30, 0.5)}
    text = text_of(page_of(run_folder(tmp_path / "run", extra=extra)))
    assert "rnd_loss" in text
    assert " grad_norm" not in text, "it is constant"


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
    assert dispatch(["report", *(text.format(tmp=tmp_path) for text in arguments)], "prl") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("report: " + message.format(tmp=tmp_path))
    assert err.count("\n") == 1


HEAD = "rollout/ep_rew_mean,time/total_timesteps\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("progress.csv", "", "has no column time/total_timesteps"),
        ("progress.csv", "rollout/ep_rew_mean\n1\n", "has no column time/total_timesteps"),
        ("progress.csv", HEAD, "holds no update yet"),
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


# ---- in a browser


def browser():
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
    return next(filter(None, found), None)


FRAME = (
    '<iframe style="width:{width}px;height:800px;border:0;color-scheme:{scheme}" srcdoc="{page}"></iframe>'
)
LOOK = """
<pre id="out"></pre>
<script>
function boxes(document, selector) {
  return [...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect());
}
function overlaps(found) {
  return found.filter((a, i) => found.some((b, j) => j > i &&
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length;
}
addEventListener("load", () => {
  const looks = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement, window = frame.contentWindow;
    const shown = e => e.getClientRects().length > 0;
    return {
      overflow: root.scrollWidth - root.clientWidth,
      background: window.getComputedStyle(page.body).backgroundColor,
      loaded: window.performance.getEntriesByType("resource").length,
      scripts: page.scripts.length,
      charts: boxes(page, "svg").filter(box => box.width > 150 && box.height > 100).length,
      crowded: [...page.querySelectorAll(".x, .y, .ends")].filter(
        axis => shown(axis) && overlaps([...axis.children].map(e => e.getBoundingClientRect()))).length,
      labels: [...page.querySelectorAll(".ends")].filter(shown).length,
      legends: [...page.querySelectorAll(".large .legend")].filter(shown).length,
    };
  });
  document.getElementById("out").textContent = JSON.stringify(looks);
});
</script>
"""


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
def test_in_a_browser_at_two_widths_light_and_dark(tmp_path):
    """Nothing is wider than the page, no labels overlap, dark mode is dark, and nothing is loaded."""
    page = html.escape(page_of(*runs_in(tmp_path / "runs", 3)))
    sizes = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
    frames = "".join(FRAME.format(width=width, scheme=scheme, page=page) for width, scheme in sizes)
    (tmp_path / "look.html").write_text(f"<!doctype html><meta charset=utf-8><body>{frames}{LOOK}")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser(), *flags, "--dump-dom", (tmp_path / "look.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    looks = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom)[1]))
    assert len(looks) == 4
    for (width, scheme), look in zip(sizes, looks, strict=True):
        red = int(re.findall(r"\d+", look.pop("background"))[0])
        assert red < 60 if scheme == "dark" else red > 240
        wide = width == 1280
        assert look == {
            "overflow": 0,
            "loaded": 0,
            "scripts": 0,
            "charts": 5,
            "crowded": 0,
            "labels": int(wide),
            "legends": int(not wide),
        }


# ---- the example


def test_the_example_is_a_report():
    """`docs/report/LunarLander-v3.html` opens anywhere, and names no folder of the machine that made it."""
    page = EXAMPLE.read_text(encoding="utf-8")
    text = text_of(page)
    assert "Five runs reached an interquartile mean return of" in text
    assert "://" not in page
    assert not re.search(r"/(tmp|home|root|work)/", text)
    assert len(page) < 300_000
