"""Numbers as people read them, and the ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MINUS = "\N{MINUS SIGN}"
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)  # between ticks, times a power of ten
_LARGE, _SMALL = 10_000.0, 1e-3


def number(value: float, digits: int = 4) -> str:
    """A number with about so many digits, e.g. "254.3", "17,300", "0.0021", "1.2e-05".

    Args:
        value: to be shown; what is not finite is shown as a dash.
        digits: significant ones; whole numbers keep all of theirs.
    """
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == 0.0:
        return "0"
    if size < _SMALL or size >= 1e15:
        return f"{value:.{digits - 2}g}".replace("-", _MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", _MINUS)


def fixed(value: float, decimals: int = 1) -> str:
    """A number with so many decimals, for columns in which points stand below each other."""
    return f"{value:,.{decimals}f}".replace("-", _MINUS) if math.isfinite(value) else "–"


def decimals_for(values: Sequence[float], most: int = 3) -> int:
    """How many decimals numbers of this size need: those of four digits of the largest.

    Args:
        values: what is not finite does not count.
        most: decimals in any case.
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0.0:
        return 1
    return min(most, max(0, 3 - math.floor(math.log10(largest) + 1e-12)))


def count(value: float) -> str:
    """A number of steps, episodes, ...: "507,904"."""
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def percent(share: float) -> str:
    """A share: "64 %", "3.1 %" below ten."""
    if not math.isfinite(share):
        return "–"
    # A space that does not break, so that number and sign stay in one line.
    return f"{100.0 * share:.{0 if share >= 0.0995 or share == 0.0 else 1}f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """A time: "31 s", "4 min 05 s", "2 h 13 min"."""
    if not math.isfinite(seconds):
        return "–"
    space = "\N{NO-BREAK SPACE}"
    if seconds < 60.0:
        return f"{seconds:.{0 if seconds >= 9.95 else 1}f}{space}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{space}min {rest:02d}{space}s"
    return f"{minutes // 60}{space}h {minutes % 60:02d}{space}min"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from within [low, high], as nearly as many as wanted as round steps allow."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / wanted))
    found = [_multiples(power * factor, low, high) for factor in _STEPS]
    return min(found, key=lambda marks: abs(len(marks) - wanted))


def _multiples(step: float, low: float, high: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Powers of ten in [low, high]; if there are fewer than two, also their doubles and quintuples."""
    exponents = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    if len(exponents) >= 2:
        return [10.0**exponent for exponent in exponents[:: -(-len(exponents) // wanted)]]
    around = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [factor * 10.0**exponent for exponent in around for factor in (1.0, 2.0, 5.0)]
    return [tick for tick in candidates if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The labels of an axis: all with the same number of decimals, and k or M for large numbers."""
    sizes = [abs(value) for value in values if value]
    largest, smallest = max(sizes, default=0.0), min(sizes, default=0.0)
    if largest >= 999.0 * smallest:  # of a logarithmic axis
        return [number(value) for value in values]
    scale, suffix = 1.0, ""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= (_LARGE if unit == 1e3 else unit):
            scale, suffix = unit, letter
            break
    scaled = [value / scale for value in values]
    if 0.0 < largest < _SMALL:
        return [number(value, 3) for value in values]
    decimals = next(
        (
            places
            for places in range(6)
            if all(abs(v - round(v, places)) < 1e-9 * max(1.0, abs(v)) for v in scaled)
        ),
        6,
    )
    texts = [f"{value:,.{decimals}f}".replace("-", _MINUS) for value in scaled]
    return [
        "0" if suffix and value == 0.0 else text + suffix for text, value in zip(texts, scaled, strict=True)
    ]
