"""What the charts of reports are made of: numbers, markup, curves over seeds, and where lines are drawn."""

import math
import re

import numpy as np
import pytest
from report_helpers import text_of

from prl.report.chart import Chart, Line, render, spread
from prl.report.markup import Markup, element, join
from prl.report.numbers import decimals_for, duration, fixed, log_ticks, number, percent, tick_labels, ticks
from prl.report.series import Series, over_seeds, thinned
from prl.run.intervals import bootstrap_band, bootstrap_interval, interquartile_mean

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


@pytest.mark.parametrize(("value", "is_drawn"), [(19.0, True), (-9.0, True), (21.0, False), (-11.0, False)])
def test_a_rule_far_from_the_lines_is_left_out(value, is_drawn):
    line = Line(Series(np.array([0.0, 1.0]), np.array([0.0, 10.0])), 0)
    markup = render(Chart("Title", (line,), rule=(value, "goal")))
    assert ("goal" in text_of(markup)) == is_drawn


def test_a_single_point_is_a_dot():
    markup = render(Chart("Title", (Line(Series(np.array([5.0]), np.array([1.0])), 0, label="it"),)))
    assert len(points(markup, "dots")) == 1
    assert 'class="line' not in markup
