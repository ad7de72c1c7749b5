"""Where the process of a job starts: `python -m prl.commands.suites.child`, with the job on stdin."""

from __future__ import annotations

import pickle
import sys

from prl.run.signals import Stopped

if __name__ == "__main__":
    try:
        pickle.load(sys.stdin.buffer).run()
    except Stopped as stop:
        sys.exit(stop.exit_code)
