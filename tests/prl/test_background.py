"""A sink in a thread of its own: nothing that it does ends a run, or stops it for long."""

import threading

import pytest

from prl.run.background import BackgroundSink


class Recording:
    """Keeps what it gets, and raises in the method that `fails` names."""

    def __init__(self, fails=None):
        self.fails = fails
        self.calls, self.threads = [], set()

    def _called(self, name, *args):
        self.calls.append((name, *args))
        self.threads.add(threading.current_thread().name)
        if self.fails == name:
            raise ConnectionError("server gone\naway")

    def write(self, timesteps, metrics):
        self._called("write", timesteps, dict(metrics))

    def summarize(self, summary):
        self._called("summarize", summary["status"])

    def close(self):
        self._called("close")


def run_with(make):
    sink = BackgroundSink("track it", make)
    sink.wait_until_open()
    for timesteps in (1, 2, 3):
        sink.write(timesteps, {"a": timesteps})
    sink.summarize({"status": "finished"})
    sink.close()


def test_everything_arrives_in_order_in_one_other_thread():
    sink = Recording()
    run_with(lambda: sink)
    rows = [("write", timesteps, {"a": timesteps}) for timesteps in (1, 2, 3)]
    assert sink.calls == [*rows, ("summarize", "finished"), ("close",)]
    assert sink.threads == {"sink-track it"}


def test_what_is_written_is_a_copy():
    sink, opened, metrics = Recording(), threading.Event(), {"a": 1}

    def make():
        opened.wait(60)
        return sink

    background = BackgroundSink("track it", make)
    background.write(1, metrics)
    metrics["a"] = 2
    opened.set()
    background.close()
    assert sink.calls[0] == ("write", 1, {"a": 1})


@pytest.mark.parametrize("fails", ["write", "summarize", "close"])
def test_a_sink_that_raises_is_one_line(fails):
    sink = Recording(fails)
    with pytest.warns(UserWarning, match="track it failed") as caught:
        run_with(lambda: sink)
    what = "failed to close" if fails == "close" else "failed and is left out"
    assert [str(line.message) for line in caught] == [f"track it {what}: ConnectionError: server gone away"]
    assert [name for name, *_ in sink.calls].count(fails) == 1
    assert sink.calls[-1] == ("close",)


@pytest.mark.parametrize("error", [OSError("no such key"), SystemExit(1)])
def test_a_sink_that_cannot_be_opened_is_one_line(error):
    def make():
        raise error

    with pytest.warns(
        UserWarning, match=f"track it failed and is left out: {type(error).__name__}"
    ) as caught:
        run_with(make)
    assert len(caught) == 1


def test_a_sink_that_hangs_is_waited_for_as_long_as_it_gets_on(monkeypatch):
    begun, gate, written = threading.Semaphore(0), threading.Semaphore(0), []

    class Gated(Recording):
        def write(self, timesteps, metrics):
            begun.release()
            gate.acquire()
            written.append(timesteps)

    class Patient(threading.Thread):
        """Its sink gets on by one row while it is waited for, until three are written."""

        def join(self, timeout=None):
            if len(written) < 3:
                gate.release()
                begun.acquire()

    monkeypatch.setattr("prl.run.background.threading.Thread", Patient)
    background = BackgroundSink("track it", Gated)
    for timesteps in range(1, 7):
        background.write(timesteps, {})
    begun.acquire()
    with pytest.warns(UserWarning, match="track it has not answered for 60 s; its last metrics may be miss"):
        background.close()
    assert written == [1, 2, 3]
    gate.release(10)
    super(Patient, background._thread).join()
    assert written == [1, 2, 3, 4, 5, 6]


def test_rows_that_a_sink_cannot_take_in_time_are_left_out(monkeypatch):
    monkeypatch.setattr("prl.run.background._MOST_WAITING", 2)
    sink, opened = Recording(), threading.Event()

    def make():
        opened.wait(60)
        return sink

    background = BackgroundSink("track it", make)
    background.write(1, {})
    background.write(2, {})
    with pytest.warns(UserWarning, match="track it cannot keep up"):
        background.write(3, {})
    background.write(4, {})  # one line is enough
    opened.set()
    background.close()
    assert sink.calls == [("write", 1, {}), ("write", 2, {}), ("close",)]
