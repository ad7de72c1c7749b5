"""A tiny process that ends workers and what their envs have started, should the learner be killed."""

from __future__ import annotations

import contextlib
import subprocess
from multiprocessing import spawn

from workers import processes


class Reaper:
    """Waits for the end of this process, SIGKILL included, to kill process groups that are left.

    It holds one end of a pipe whose other end only this process has, so it notices at once. It is a bare
    interpreter: 10 ms to start, 9 MB, most of them shared with other interpreters.

    Where it cannot be started, nothing is reaped.
    """

    def __init__(self) -> None:
        executable = spawn.get_executable()
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                # Isolated, without site: it starts sooner, and runs nothing of the user's.
                [executable, "-I", "-S", processes.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # out of reach of the terminal's signals
            )

    @property
    def pid(self) -> int | None:
        """Process id; None if there is no process."""
        return None if self._process is None else self._process.pid

    def add(self, group: int, mark: str) -> None:
        """Watch over a process group and over what wears the mark.

        Args:
            group: its leader is a child of this process, and has just been started.
            mark: see `processes.wear`.
        """
        self._tell(f"+{group} {mark}\n")

    def remove(self, group: int, mark: str) -> None:
        """Forget it: before its leader is collected, since its number can be given to others from then on."""
        self._tell(f"-{group} {mark}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # somebody has killed it; or it is closed
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def close(self) -> None:
        """End it. What has not been removed is killed."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:  # it is stopped; it has nothing to lose
            process.kill()
            process.wait()
