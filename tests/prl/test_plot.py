"""Learning curves: what is drawn, and what is said when nothing can be."""

import sys

import numpy as np
import pytest

from learner.settings import ConfigError
from prl.cli import plot_main
from prl.commands.plot import draw
from prl.run.curves import Curve, mean_curve, read_curve

HEADER = "rollout/ep_rew_mean,time/iterations,time/total_timesteps\n"


def run_folder(path, rows, env_id="CartPole-v1", header=HEADER):
    path.mkdir()
    (path / "progress.csv").write_text(header + rows)
    if env_id is not None:
        (path / "config.yaml").write_text(f"env_id: {env_id}\nseed: 1\n")
    return path


def curve(steps, returns, env_id="CartPole-v1"):
    return Curve(env_id, np.array(steps, float), np.array(returns, float))


def test_a_curve_is_read(tmp_path):
    found = read_curve(run_folder(tmp_path / "run", "20.5,1,1000\n30,2,2500\n"))
    assert found.env_id == "CartPole-v1"
    assert found.steps.tolist() == [1000.0, 2500.0]
    assert found.returns.tolist() == [20.5, 30.0]


def test_a_run_that_goes_on_can_be_read(tmp_path):
    """Its first update may have seen no episode's end, and its last row may be cut off."""
    found = read_curve(run_folder(tmp_path / "run", "nan,1,1000\n30,2,2500\n40,3", env_id=None))
    assert (found.env_id, found.steps.tolist(), found.returns.tolist()) == ("", [2500.0], [30.0])


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ("", HEADER, "holds no return yet"),
        ("nan,1,1000\n", HEADER, "holds no return yet"),
        ("20,1\n", "rollout/ep_rew_mean,time/iterations\n", "no column 'time/total_timesteps'"),
        ("much,1,1000\n", HEADER, "much"),
    ],
)
def test_nothing_to_draw(tmp_path, rows, header, message):
    with pytest.raises(ConfigError, match=message):
        read_curve(run_folder(tmp_path / "run", rows, header=header))


def test_the_mean_covers_what_all_runs_have_seen():
    """2 x on the one side, 100 on the other: their mean is x + 50."""
    mean = mean_curve([curve([0, 50, 100], [0, 100, 200]), curve([20, 140], [100, 100])])
    assert (mean.steps[0], mean.steps[-1]) == (20.0, 100.0)
    np.testing.assert_allclose(mean.returns, mean.steps + 50.0)


def test_runs_without_common_steps_have_no_mean():
    with pytest.raises(ConfigError, match="no steps in common"):
        mean_curve([curve([0, 10], [1, 1]), curve([20, 30], [1, 1])])


def test_lines_labels_and_legend():
    pytest.importorskip("matplotlib")
    runs = [curve([0, 10], [1, 2]), curve([0, 10], [2, 3])]
    figure = draw({"CartPole-v1": runs, "Acrobot-v1": [curve([0, 5], [-9, -8])]}, "Two envs")
    (axes,) = figure.axes
    first, second, mean, other = axes.lines
    assert first.get_ydata().tolist() == [1.0, 2.0]
    assert second.get_ydata().tolist() == [2.0, 3.0]
    np.testing.assert_allclose(mean.get_ydata()[[0, -1]], [1.5, 2.5])
    assert mean.get_linewidth() > first.get_linewidth()
    assert first.get_color() == second.get_color() == mean.get_color() != other.get_color()
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["CartPole-v1, 2 runs and their mean", "Acrobot-v1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "mean return")
    assert axes.get_title(loc="left") == "Two envs"


def test_a_picture_is_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    runs = [run_folder(tmp_path / name, "20,1,1000\n30,2,2500\n") for name in ("a", "b")]
    out = tmp_path / "docs" / "curve.png"
    assert plot_main(argv=["--runs", *map(str, runs), "--out", str(out), "--title", "Two runs"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs needs at least one run folder"),
        (["--runs", "{tmp}/none"], "cannot read {tmp}/none/progress.csv: No such file or directory"),
        (["--runs", "{tmp}/run", "--out", "{tmp}/curve.doc"], "cannot write {tmp}/curve.doc: Format 'doc'"),
        (["--runs", "{tmp}/run", "--out", "{tmp}/run/config.yaml/a.png"], "cannot write {tmp}/run/config"),
        (["--rums", "{tmp}/run"], "unknown flag --rums; did you mean --runs?"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, message):
    pytest.importorskip("matplotlib")
    run_folder(tmp_path / "run", "20,1,1000\n")
    assert plot_main(argv=[text.format(tmp=tmp_path) for text in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("plot: " + message.format(tmp=tmp_path))
    assert err.count("\n") == 1


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot_main(argv=["--runs", str(run_folder(tmp_path / "run", "20,1,1000\n"))]) == 2
    assert capsys.readouterr().err == 'plot: matplotlib is not installed: pip install "prl[plot]"\n'
