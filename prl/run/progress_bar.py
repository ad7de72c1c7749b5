"""The progress bar of a run, in terminals and in notebooks."""

from __future__ import annotations

import itertools
import math
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any, TextIO

_PARTS = {
    "rollout/ep_rew_mean": "return {:.4g}",
    "rollout/success_rate": "success {:.0%}",
    "time/iteration_fps": "{:,.0f} steps/s",
    "time/fps": "mean {:,.0f} steps/s",
    "rollout/occupancy": "occupancy {:.0%}",
}
_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]"
_BESIDE = 48  # columns of what comes before these parts, with a bar of ten


class ProgressBar:
    """A tqdm bar on stderr: steps, mean return, successes, recent and mean steps/s, occupancy.

    In a notebook it is a widget, and text without ipywidgets. It is silent where nobody looks: if stderr is
    neither a terminal nor that of a notebook. Warnings are written above it.

    Args:
        total_timesteps: length of the bar.
        done: steps at its beginning.
    """

    def __init__(self, total_timesteps: int, done: int = 0) -> None:
        from tqdm.auto import tqdm  # late: it decides on import whether this is a notebook

        self._total = total_timesteps
        self._bar = tqdm(
            total=total_timesteps,
            initial=min(done, total_timesteps),
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not _is_seen(),
            bar_format=_FORMAT,
        )
        self._showwarning = warnings.showwarning
        if not self._bar.disable:
            warnings.showwarning = self._show_above

    def _show_above(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        with self._bar.external_write_mode(file=sys.stderr):
            self._showwarning(message, category, filename, lineno, file, line)

    def write(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`. What is not known yet is left out, such as the return before the first episode ends."""
        if self._bar.disable:
            return
        known = {name: metrics[name] for name in _PARTS if math.isfinite(metrics.get(name, math.nan))}
        parts = [_PARTS[name].format(value) for name, value in known.items()]
        self._bar.set_postfix_str(", ".join(self._fitting(parts)), refresh=False)
        # The last round may go past the total; a bar at 103 % would look like a mistake.
        self._bar.update(min(timesteps, self._total) - self._bar.n)
        self._bar.refresh()

    def _fitting(self, parts: list[str]) -> list[str]:
        """The first parts, as many as leave room for a bar; all of them in a notebook."""
        try:
            room: float = os.get_terminal_size(sys.stderr.fileno()).columns - _BESIDE
        except (OSError, ValueError, AttributeError):
            room = math.inf
        ends = itertools.accumulate(len(part) + len(", ") for part in parts)
        return [part for part, end in zip(parts, ends, strict=True) if end <= room]

    def close(self) -> None:
        """See `Sink`."""
        if warnings.showwarning == self._show_above:
            warnings.showwarning = self._showwarning
        self._bar.close()


def _is_seen() -> bool:
    """Whether somebody looks at stderr: it is a terminal, or shown by an IPython kernel."""
    if sys.stderr is None:
        return False
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return sys.stderr.isatty() or hasattr(shell, "kernel")
