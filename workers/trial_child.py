"""The child of a trial: see `workers.trial_process`. Free of torch, unless the env imports it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from multiprocessing.connection import Connection

from workers.channel import Channel
from workers.env_compare import AnyEnv
from workers.env_copies import close_quietly
from workers.errors import EnvError, describe, one_line
from workers.frames import Frame, Kind
from workers.global_random import seeded_globally
from workers.trial_env import Trial, build_trial, look_at

_ANSWER_TIMEOUT = 60.0  # seconds


def main(connection: Connection, trial: Trial) -> None:
    """Try the env out, and tell the parent.

    Args:
        connection: this end of the pipe.
        trial: what to build.
    """
    os.dup2(2, 1)  # what the env prints is no result of the parent's
    channel = Channel(connection)

    def send(kind: Kind, text: str) -> None:
        channel.send(Frame(kind, 0, 0, text.encode(errors="replace")), _ANSWER_TIMEOUT)

    env: AnyEnv | None = None
    try:
        with seeded_globally(0):
            send(Kind.PROGRESS, f"the constructor of {trial.name}")
            env = build_trial(trial.name, trial.builder())
            description = look_at(trial, env, lambda what: send(Kind.PROGRESS, what))
        send(Kind.RESULT, json.dumps(description.tree()))
    except EnvError as error:
        send(Kind.ERROR, f"{one_line(error)}\0{error.traceback}")
    except BaseException as error:  # whatever it is, the parent should know
        send(Kind.ERROR, f"{trial.name}: {describe(error)}\0{''.join(traceback.format_exception(error))}")
    if env is not None:
        close_quietly(env)
    send(Kind.READY, "")
    sys.stdout.flush()
    os._exit(0)  # threads of the env, and what it has left to do at exit, are of no interest
