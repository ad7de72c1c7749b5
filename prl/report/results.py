"""The top of a report: the result in a sentence, its numbers, and a table of the runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from prl.report.facts import (
    Statistic,
    best_evaluation,
    final_evaluation,
    statistic,
    success_rate,
    training_return,
    training_speed,
    wall_seconds,
)
from prl.report.grouping import Group
from prl.report.markup import Markup, element, join
from prl.report.numbers import count, duration, fixed, percent
from prl.report.reading import Run

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def in_words(value: int) -> str:
    """Small numbers as words."""
    return _WORDS[value] if value < len(_WORDS) else str(value)


def plural(value: int, noun: str) -> str:
    """Such as "one run", "two runs"."""
    return f"{in_words(value)} {noun}{'' if value == 1 else 's'}"


def capital(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


# ---- the sentence


def sentence(group: Group, decimals: int) -> Markup:
    """What the runs of a group came to."""
    runs = group.compared
    evaluated = statistic(runs, final_evaluation)
    found = evaluated or statistic(runs, training_return)
    if found is None:
        return join("No episode has ended yet.")
    return (
        _of_one(runs[0], evaluated, found, decimals)
        if len(runs) == 1
        else _of_many(group, evaluated, found, decimals)
    )


def _of_one(run: Run, evaluated: Statistic | None, found: Statistic, decimals: int) -> Markup:
    value = element("strong", found.text(decimals))
    if evaluated is None:
        return join(
            "Its last 100 training episodes had a mean return of ",
            value,
            f", after {count(run.steps)} steps.",
        )
    episodes, deviation = run.last("eval/episodes"), run.last("eval/std_reward")
    over = f" over {count(episodes)} episodes" if math.isfinite(episodes) else ""
    spread = f" (standard deviation {fixed(deviation, decimals)})" if math.isfinite(deviation) else ""
    at = count(run.last("eval/timesteps"))
    return join(
        "After ", at, " steps the policy was evaluated with a mean return of ", value, over, spread, "."
    )


def _of_many(group: Group, evaluated: Statistic | None, found: Statistic, decimals: int) -> Markup:
    which = "in their last evaluation" if evaluated else "over their last 100 training episodes"
    interval = found.interval_text(decimals)
    return join(
        f"{capital(plural(found.size, 'run'))} reached an interquartile mean return of ",
        element("strong", found.text(decimals)),
        f" (95 % interval {interval})" if interval else None,
        f" {which}.",
    )


def remarks(groups: Sequence[Group]) -> list[str]:
    """What a reader has to know about runs that did not come to their end, or were not evaluated."""
    runs = [run for group in groups for run in group.runs]
    lines = [_unfinished(run, alone=len(runs) == 1) for run in runs if run.status != "finished"]
    lines += [
        f"{run.name}: {count(run.fact('lost_episodes'))} episodes were lost with their worker or env."
        for run in runs
        if run.fact("lost_episodes") > 0
    ]
    if any(len(group.compared) < len(group.runs) for group in groups):
        lines.append("Statistics over seeds leave out runs that did not finish.")
    unevaluated = [run.name for run in runs if not math.isfinite(final_evaluation(run))]
    if unevaluated:
        who = "The run has" if len(runs) == 1 else f"{', '.join(unevaluated)}:"
        lines.append(f"{who} no evaluations; --eval-freq adds them to a training.")
    return lines


def _unfinished(run: Run, alone: bool) -> str:
    planned = run.settings.get("total_timesteps")
    of = f" of {count(planned)}" if isinstance(planned, int) else ""
    who = "The run" if alone else run.name
    how = {
        "stopped": "was stopped",
        "failed": "failed",
        "unfinished": "is still going or was killed; this is what it has written so far",
    }.get(run.status, f"ended as {run.status!r}")
    return f"{who} {how}: {count(run.steps)}{of} steps."


# ---- tiles


def tiles(group: Group, decimals: int) -> Markup:
    """The numbers of one group, large."""
    runs = group.compared
    found = [
        _return_tile("Final evaluation", runs, final_evaluation, decimals, _final_note(runs, decimals)),
        _return_tile(
            "Best evaluation", runs, lambda run: best_evaluation(run)[0], decimals, _best_note(runs)
        ),
        _return_tile("Training return", runs, training_return, decimals, "last 100 episodes"),
        _success_tile(runs),
        _speed_tile(runs),
        _time_tile(runs),
    ]
    return element("div", found, class_="tiles")


def _tile(label: str, value: str, note: str) -> Markup:
    return element(
        "div",
        element("span", label),
        element("b", value),
        element("small", note or "\N{NO-BREAK SPACE}"),
        class_="tile",
    )


def _return_tile(
    label: str, runs: Sequence[Run], of: Callable[[Run], float], decimals: int, note: str
) -> Markup | None:
    found = statistic(runs, of)
    return None if found is None else _tile(label, found.text(decimals), note)


def _final_note(runs: Sequence[Run], decimals: int) -> str:
    found = statistic(runs, final_evaluation)
    if found is not None and found.interval is not None:
        return found.interval_text(decimals)
    deviation = runs[0].last("eval/std_reward")
    return f"± {fixed(deviation, decimals)}" if len(runs) == 1 and math.isfinite(deviation) else ""


def _best_note(runs: Sequence[Run]) -> str:
    steps = sorted(at for run in runs if math.isfinite(at := best_evaluation(run)[1]))
    if not steps:
        return ""
    ends = dict.fromkeys(map(_thousands, (steps[0], steps[-1])))
    return f"after {' to '.join(ends)}"


def _thousands(steps: float) -> str:
    return count(steps) if steps < 10_000 else f"{round(steps / 1000.0):,}k"


def _success_tile(runs: Sequence[Run]) -> Markup | None:
    found = statistic(runs, success_rate)
    if found is None:
        return None
    note = "" if found.interval is None else " to ".join(percent(end) for end in found.interval)
    return _tile("Success rate", percent(found.middle), note)


def _speed_tile(runs: Sequence[Run]) -> Markup | None:
    found = statistic(runs, training_speed)
    if found is None:
        return None
    return _tile("Speed", count(found.middle), "steps/s")


def _time_tile(runs: Sequence[Run]) -> Markup | None:
    found = statistic(runs, wall_seconds)
    if found is None:
        return None
    return _tile(
        "Time", duration(found.middle), "per run" if len(runs) > 1 else f"{count(runs[0].steps)} steps"
    )
