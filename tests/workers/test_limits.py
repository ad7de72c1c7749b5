"""Too few descriptors, processes or too little memory: one line with the numbers, and nothing is started."""

import multiprocessing
import resource

import numpy as np
import pytest

from workers import limits, shared_memory
from workers.envs import env_factory
from workers.errors import LimitError
from workers.limits import check_room
from workers.process_pool import ProcessPool
from workers.shared_memory import NoSharedMemory, SharedBytes, shared_or_none
from workers.testing import ProbeEnv

pytestmark = pytest.mark.usefixtures("leaves_nothing")
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A file system that tells of limits; `limits(descriptors, processes)` sets those of the process."""
    monkeypatch.setattr(limits.os, "geteuid", lambda: 1)
    monkeypatch.setattr(limits.os, "getuid", lambda: tmp_path.stat().st_uid)
    for fd in range(10):
        (tmp_path / "dev/fd" / str(fd)).mkdir(parents=True)
    for thread in range(6):
        (tmp_path / f"proc/{thread // 3}/task/{thread}").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()

    def set_limits(descriptors=resource.RLIM_INFINITY, processes=resource.RLIM_INFINITY):
        found = {resource.RLIMIT_NOFILE: descriptors, resource.RLIMIT_NPROC: processes}
        monkeypatch.setattr(limits.resource, "getrlimit", lambda kind: (found[kind], found[kind]))

    set_limits()
    return tmp_path, set_limits


def test_descriptors(system):
    root, set_limits = system
    set_limits(descriptors=10 + 16 + 2 * 4)
    check_room(4, root)
    message = r"5 workers need 26 file descriptors, but 24 of 34 are left; .* \(ulimit -n\)"
    with pytest.raises(LimitError, match=message):
        check_room(5, root)


def test_processes(system):
    root, set_limits = system
    set_limits(processes=6 + 2 + 4)
    check_room(4, root)
    with pytest.raises(LimitError, match=r"5 workers need 7 processes, but 6 of 12 are left \(ulimit -u\)"):
        check_room(5, root)


@pytest.mark.parametrize(("lines", "folder"), [("0::/a/b\n", "a"), ("7:pids:/a\n0::/\n", "pids/a")])
def test_processes_of_a_container(system, lines, folder):
    root, _ = system
    (root / "proc/self/cgroup").write_text(lines)
    group = root / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    (group / "pids.current").write_text("3\n")
    for allowed in ("max", "9"):
        (group / "pids.max").write_text(f"{allowed}\n")
        check_room(4, root)
    with pytest.raises(LimitError, match=r"but 6 of 9 are left \(the container's pids.max\)"):
        check_room(5, root)


def test_nothing_is_started_where_there_is_no_room(monkeypatch):
    monkeypatch.setattr(limits.resource, "getrlimit", lambda kind: (40, 40))
    monkeypatch.setattr("workers.worker_set.WorkerHandle", None)
    with pytest.raises(LimitError, match=r"200 workers need 416 file descriptors, but .* of 40 are left"):
        ProcessPool(env_factory(ProbeEnv), 200, 200)


# --- shared memory ------------------------------------------------------------------------------------------


def _fill(memory):
    found = memory.attach()
    found[:] = np.arange(len(found)) % 251


@pytest.fixture(params=["file in memory", "of multiprocessing"])
def any_memory(request, monkeypatch):
    if request.param == "of multiprocessing":
        monkeypatch.delattr(shared_memory.os, "memfd_create")


@pytest.mark.usefixtures("any_memory")
def test_what_a_child_writes_is_seen_here():
    memory = SharedBytes(1001, SPAWN)
    view = memory.attach()
    assert (len(view), view.any()) == (1008, False)
    child = SPAWN.Process(target=_fill, args=(memory,))
    child.start()
    child.join(30.0)
    assert child.exitcode == 0
    child.close()
    np.testing.assert_array_equal(view, np.arange(1008) % 251)


def no_room(monkeypatch):
    monkeypatch.delattr(shared_memory.os, "memfd_create")
    monkeypatch.setattr(shared_memory, "_free", lambda folder: 500)


def test_no_room_is_said_with_numbers(monkeypatch):
    no_room(monkeypatch)
    SharedBytes(400, SPAWN)
    with pytest.raises(NoSharedMemory, match=r"takes 2\.0 MB, but /dev/shm has 0\.0 MB and .* has 0\.0 MB$"):
        SharedBytes(2_000_000, SPAWN)


def first_observations():
    ids = np.arange(20)
    with ProcessPool(env_factory(ProbeEnv), 20, 1) as pool:
        pool.reset(ids, ids)
        return pool.recv().obs.copy()


def test_without_room_the_rows_go_through_pipes(monkeypatch):
    expected = first_observations()
    no_room(monkeypatch)
    with pytest.warns(UserWarning, match="has 0.0 MB; envs and learner speak through pipes instead"):
        found = first_observations()
    np.testing.assert_array_equal(found, expected)


def test_where_files_may_not_be_large_there_is_no_room():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    words = r"shared memory takes 8\.0 MB, but files may have 1\.0 MB at most \(ulimit -f\); envs and learner"
    try:
        with pytest.warns(UserWarning, match=words):
            assert shared_or_none(8_000_000, SPAWN) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_else_the_system_refuses_is_no_room(monkeypatch):
    def refused(*args):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.delattr(shared_memory.os, "memfd_create")
    monkeypatch.setattr(SPAWN, "RawArray", refused)
    with pytest.raises(NoSharedMemory, match=r"takes 1\.0 MB, but Cannot allocate memory$"):
        SharedBytes(1_000_000, SPAWN)
