"""A report of runs: one HTML file that opens anywhere, without a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.settings import ConfigError
from prl.commands.command import Command
from prl.report.page import report_page
from prl.report.reading import read_readable
from prl.run.files import WriteError, replace_file


@dataclass(frozen=True)
class ReportConfig:
    """Write what one or more runs came to as one HTML file that opens without a network.

    Attributes:
        runs: run folders. Runs of one env that differ only in their seeds are put together.
        out: the file; null takes report.html in the folder of a single run, and for several runs in the
            current directory.
        title: at the top; null shows the env.
        video: an .mp4 or .webm to show as the replay; null takes the newest one in the folder of the best run
            that has one.

    Raises:
        ConfigError: no run is given.
    """

    runs: Sequence[str] = ()
    out: Path | None = None
    title: str | None = None
    video: Path | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("report needs at least one run folder, e.g. prl report runs/cartpole")


def report(config: ReportConfig) -> Path:
    """Write the report. Runs that cannot be read are left out, with a line on stderr each.

    Returns:
        The file.

    Raises:
        ConfigError: no run can be read, one is not there or given twice, or the file cannot be written.
    """
    folders = [Path(run) for run in config.runs]
    runs = read_readable(folders, lambda line: print(f"report: {line}", file=sys.stderr))
    page = report_page(runs, config.title, config.video)
    out = config.out or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))
    try:
        replace_file(out, page)
    except WriteError as error:
        raise ConfigError(str(error)) from error
    return out


def _report(config: ReportConfig) -> None:
    print(f"report: {report(config)}")


COMMAND = Command(ReportConfig, _report, positional="runs")
