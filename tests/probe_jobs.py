"""Jobs for processes of their own. Light: each of them imports this."""

import ctypes
import os
import signal
import subprocess
import sys
import threading


class Job:
    """Tells its process id, and then does what it was given, by name."""

    def __init__(self, name):
        self.name = name

    def run(self, tell):
        tell({"pid": os.getpid()})
        globals()[self.name](tell)


def talks(tell):
    sys.stdout.write("what it prints is no message\n")
    tell({"threads": os.environ["OMP_NUM_THREADS"], "torch": "torch" in sys.modules})
    tell({"list": [1.5, None, "é"]})
    threading.Thread(target=threading.Event().wait).start()  # would keep a process alive


def exits(tell):
    os._exit(7)


def kills_itself(tell):
    os.kill(os.getpid(), signal.SIGKILL)


def forks_and_dies(tell):
    if os.fork():
        kills_itself(tell)
    threading.Event().wait()


def segfaults(tell):
    ctypes.string_at(0)


def raises(tell):
    raise ValueError("boom")


def hangs(tell):
    sys.stdout.write("last words\n")
    sys.stdout.flush()
    threading.Event().wait()


def holds_the_gil(tell):
    ctypes.PyDLL(None).pause()


def starts_another(tell):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell({"child": child.pid})
    threading.Event().wait()
