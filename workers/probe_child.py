"""Where the process of a probe starts: `python -m workers.probe_child FD`, with the pickled job on stdin."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import pickle
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main(fd: int) -> None:
    """Run the job that stdin holds; what it tells goes to the descriptor, a JSON object a line."""
    if sys.platform.startswith("linux"):  # do not outlive who has started us, even if the job hangs
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()  # SIGABRT, too: the parent asks by it where the job hangs
    data = sys.stdin.buffer.read()
    # The job may do what it likes with the standard streams.
    with os.fdopen(fd, "w", encoding="utf-8") as pipe:

        def tell(message: dict[str, Any]) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        pickle.loads(data).run(tell)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # whatever threads the job has left behind
