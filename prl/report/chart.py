"""Line charts that fit any width: lines in an SVG that is stretched, text beside it in HTML that is not.

No script: values appear when a pointer hovers over one of the invisible columns that cover the plot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prl.report.markup import Markup, element, join
from prl.report.numbers import count, decimals_for, fixed, log_ticks, number, tick_labels, ticks
from prl.report.reading import Column
from prl.report.series import Series, thinned

_WIDTH, _HEIGHT = 2000, 1000  # of the drawing's coordinates; the page stretches them
COLORS = 8  # of the palette in style.css
_ROOM = 0.05  # of the range, above and below the lines
_LABEL_GAP = 6.5  # % of the height of a large chart that a label needs
_TICKS = {True: 5, False: 3}  # of the vertical axis
_SLOTS = {True: 64, False: 28}


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        series: at least one point.
        color: number of the colour.
        style: "thin" lines are a background; "dots" mark their points.
        label: beside its end; "" has none, and no value when a pointer hovers.
        low, high: f64[K], a band around the curve at its points, if any.
    """

    series: Series
    color: int
    style: Literal["line", "thin", "dots"] = "line"
    label: str = ""
    low: Column | None = None
    high: Column | None = None


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        title: above it.
        lines: from the back to the front, at least one.
        note: beside the title.
        large: over the whole width of the page.
        log: the vertical axis is logarithmic; all values are positive.
        rule: a horizontal line to compare with, if any: its value and its name. One far from the lines is
            left out.
        x_end: where the horizontal axis ends, so that charts beside each other agree.
        limits: of the vertical axis; None lets the values decide.
    """

    title: str
    lines: tuple[Line, ...]
    note: str = ""
    large: bool = False
    log: bool = False
    rule: tuple[float, str] | None = None
    x_end: float = 0.0
    limits: tuple[float, float] | None = None


class _Scale:
    """From values to shares of the plot: 0 at the left or the bottom, 1 at the right or the top."""

    def __init__(self, low: float, high: float, log: bool = False) -> None:
        self._as_drawn: Callable[[Column], Column] = np.log10 if log else np.asarray
        self._low, self._high = (float(self._as_drawn(np.float64(end))) for end in (low, high))
        self.start, self.end, self.log = low, high, log

    def ticks(self, wanted: int) -> list[float]:
        """Round values, about as many as wanted."""
        return (
            log_ticks(self.start, self.end, wanted + 1) if self.log else ticks(self.start, self.end, wanted)
        )

    def __call__(self, values: Column) -> Column:
        return (self._as_drawn(values) - self._low) / (self._high - self._low)

    def at(self, value: float) -> float:
        """The share of one value."""
        return float(self(np.array([value]))[0])


def render(chart: Chart) -> Markup:
    """The chart as a `<figure>`."""
    chart = dataclasses.replace(chart, rule=_near_rule(chart))
    across, up = _Scale(0.0, chart.x_end or _x_end(chart.lines)), _Scale(*_limits(chart), chart.log)
    labelled = [line for line in chart.lines if line.label]
    return element(
        "figure",
        element(
            "figcaption", element("b", chart.title), " ", element("span", chart.note) if chart.note else None
        ),
        _legend(labelled) if chart.large and len(labelled) > 1 else None,
        element(
            "div",
            _y_axis(up, _TICKS[chart.large]),
            element("div", _drawing(chart, across, up), _hover(chart, across), class_="area"),
            _end_labels(chart, up) if chart.large else None,
            _x_axis(across, 6 if chart.large else 4),
            class_="plot",
        ),
        class_="chart large" if chart.large else "chart",
    )


def _near_rule(chart: Chart) -> tuple[float, str] | None:
    """The rule, unless the lines would have to share the chart with more empty space than they take."""
    low, high = _range([line.series.y for line in chart.lines])
    height = high - low
    return chart.rule if chart.rule is not None and low - height <= chart.rule[0] <= high + height else None


def _range(values: Sequence[Column]) -> tuple[float, float]:
    every = np.concatenate(values)
    return float(every.min()), float(every.max())


def _x_end(lines: Sequence[Line]) -> float:
    return max(float(line.series.x[-1]) for line in lines) or 1.0


def _limits(chart: Chart) -> tuple[float, float]:
    if chart.limits is not None:
        return chart.limits
    values = [line.series.y for line in chart.lines]
    values += [end for line in chart.lines for end in (line.low, line.high) if end is not None]
    if chart.rule is not None:
        values.append(np.array([chart.rule[0]]))
    low, high = _range(values)
    if chart.log:
        return low / 1.15, high * 1.15
    room = _ROOM * (high - low) or 0.05 * abs(high) or 0.5
    return (0.0 if 0.0 <= low < 3.0 * room else low - room), (
        0.0 if 0.0 >= high > -3.0 * room else high + room
    )


def _percent(share: float) -> str:
    return f"{100.0 * share:.4g}%"


def color_class(number: int) -> str:
    """The class of a colour; beyond the palette they begin anew."""
    return f"c{number % COLORS}"


# ---- the drawing


def _drawing(chart: Chart, across: _Scale, up: _Scale) -> Markup:
    grid = "".join(f"M0,{_y(up.at(tick))}h{_WIDTH}" for tick in up.ticks(_TICKS[chart.large]))
    parts = [element("path", d=grid, class_="grid")]
    parts += [_band(line, across, up) for line in chart.lines if line.low is not None]
    if chart.rule is not None:
        parts.append(element("path", d=f"M0,{_y(up.at(chart.rule[0]))}h{_WIDTH}", class_="rule"))
    for line in chart.lines:
        parts += _path(line, across, up)
    last = ", ".join(f"{line.label} {number(float(line.series.y[-1]))}" for line in chart.lines if line.label)
    svg = element(
        "svg",
        element("title", f"{chart.title} over environment steps" + (f"; at the end: {last}" if last else "")),
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
    )
    if chart.rule is None:
        return svg
    value, name = chart.rule
    return join(svg, element("span", name, class_="rule-name", style=f"bottom:{_percent(up.at(value))}"))


def _y(share: float) -> int:
    return round(_HEIGHT * (1.0 - share))


def _points(x: Column, y: Column, across: _Scale, up: _Scale) -> list[str]:
    columns, rows = np.rint(_WIDTH * across(x)), np.rint(_HEIGHT * (1.0 - up(y)))
    return [f"{int(column)},{int(row)}" for column, row in zip(columns, rows, strict=True)]


def _path(line: Line, across: _Scale, up: _Scale) -> list[Markup]:
    curve = thinned(line.series)
    points = _points(curve.x, curve.y, across, up)
    color = color_class(line.color)
    # A line of no length with round ends is a dot that stays round when the drawing is stretched.
    dots = element("path", d="".join(f"M{point}h0" for point in points), class_=f"dots {color}")
    if len(points) == 1:
        return [dots]
    stroke = element(
        "path", d="M" + "L".join(points), class_=f"{'thin' if line.style == 'thin' else 'line'} {color}"
    )
    return [stroke, dots] if line.style == "dots" else [stroke]


def _band(line: Line, across: _Scale, up: _Scale) -> Markup:
    assert line.low is not None
    assert line.high is not None
    there = _points(line.series.x, line.high, across, up)
    back = _points(line.series.x[::-1], line.low[::-1], across, up)
    return element("path", d="M" + "L".join([*there, *back]) + "Z", class_=f"band {color_class(line.color)}")


# ---- text


def _y_axis(up: _Scale, wanted: int) -> Markup:
    marks = up.ticks(wanted)
    labels = tick_labels(marks)
    spans = [
        element("span", label, style=f"bottom:{_percent(up.at(tick))}")
        for label, tick in zip(labels, marks, strict=True)
    ]
    return element("div", spans, class_="y", style=f"width:{max(map(len, labels), default=1)}ch")


def _x_axis(across: _Scale, wanted: int) -> Markup:
    marks = across.ticks(wanted)
    spans = [
        element("span", label, style=f"left:{_percent(across.at(tick))}")
        for label, tick in zip(tick_labels(marks), marks, strict=True)
    ]
    return element("div", spans, class_="x")


def _legend(lines: Sequence[Line]) -> Markup:
    entries = [element("span", _swatch(line.color), line.label) for line in lines]
    return element("div", entries, class_="legend")


def _swatch(color: int) -> Markup:
    return element("i", class_=f"swatch {color_class(color)}")


def _end_labels(chart: Chart, up: _Scale) -> Markup:
    """Names beside the ends of lines, moved apart where they would overlap."""
    lines = sorted((line for line in chart.lines if line.label), key=lambda line: float(line.series.y[-1]))
    wanted = [100.0 * up.at(float(line.series.y[-1])) for line in lines]
    gap = min(_LABEL_GAP, 100.0 / max(len(lines), 1))  # many of them have to overlap
    spans = [
        element(
            "span",
            element("b", number(float(line.series.y[-1]))),
            " ",
            line.label,
            title=line.label,
            class_=color_class(line.color),
            style=f"bottom:{place:.4g}%",
        )
        for line, place in zip(lines, spread(wanted, gap, 100.0), strict=True)
    ]
    return element("div", spans, class_="ends")


def spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Places as near as possible to the wanted ones, each at least `gap` above the one before.

    Args:
        wanted: ascending.
        gap: between neighbours.
        top: the highest place; labels that do not fit below it move down.
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap) if places else place)
    highest = top
    for index in reversed(range(len(places))):
        places[index] = min(places[index], highest)
        highest = places[index] - gap
    return places


def _hover(chart: Chart, across: _Scale) -> Markup:
    """Columns that show the values under the pointer."""
    lines = [line for line in chart.lines if line.label]
    if not lines:
        return Markup()
    steps = _slots(max((line.series.x for line in lines), key=len), _SLOTS[chart.large])
    shares = across(steps)
    edges = np.concatenate([[max(0.0, shares[0] - 0.02)], (shares[1:] + shares[:-1]) / 2.0, [1.0]])
    return element(
        "div",
        [
            element(
                "div",
                _tip(lines, step),
                class_="slot late" if share > 0.5 else "slot",
                style=f"left:{_percent(left)};width:{_percent(right - left)}",
            )
            for step, share, left, right in zip(steps, shares, edges[:-1], edges[1:], strict=True)
        ],
        class_="slots",
    )


def _slots(x: Column, most: int) -> Column:
    if len(x) <= most:
        return x
    return x[np.unique(np.rint(np.linspace(0, len(x) - 1, most)).astype(np.int64))]


def _tip(lines: Sequence[Line], step: float) -> Markup:
    rows = [
        element("span", _swatch(line.color), line.label, " ", element("b", text))
        for line in lines
        if (text := _value_at(line, step))
    ]
    return element("div", element("em", f"{count(step)} steps"), rows, class_="tip")


def _value_at(line: Line, step: float) -> str:
    """The value at a step: of the nearest point if points are marked, else interpolated; "" outside."""
    x = line.series.x
    if not x[0] <= step <= x[-1]:
        return ""
    at = float(x[np.abs(x - step).argmin()]) if line.style == "dots" else step
    ends = () if line.low is None or line.high is None else (line.low, line.high)
    value, *interval = (float(np.interp(at, x, y)) for y in (line.series.y, *ends))
    decimals = decimals_for([value, *interval], most=6)
    texts = [fixed(end, decimals) for end in interval]
    return fixed(value, decimals) + (f" [{', '.join(texts)}]" if texts else "")
