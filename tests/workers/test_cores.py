import os

import pytest

from workers import cores as cores_module
from workers.cores import own_core, usable_cores

CORES = len(os.sched_getaffinity(0))


def file_system(root, groups, **files):
    """A root with /proc/self/cgroup and files below /sys/fs/cgroup (their names with `__` for a slash)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


V1 = "4:memory:/a\n2:cpu,cpuacct:/docker/b\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "250000 100000\n"}, 2),  # not one worker more than there is time for
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "9900000 100000\n"}, 16),  # more than there are
        ("0::/a/b\n", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "max 100000"}, 3),  # of the parent
        ("0::/a/b\n", {"a__cpu_max": "300000 100000", "a__b__cpu_max": "100000 50000"}, 2),
        ("0::/of/the/host\n", {"cpu_max": "400000 100000"}, 4),  # a container sees only its own group
        (
            V1,
            {
                "cpu,cpuacct__docker__b__cpu_cfs_quota_us": "300000",
                "cpu,cpuacct__docker__b__cpu_cfs_period_us": "100000",
            },
            3,
        ),
        (V1, {"cpu__cpu_cfs_quota_us": "600000", "cpu__cpu_cfs_period_us": "100000"}, 6),
        (V1, {"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, 16),
        (V1, {"memory__cpu_cfs_quota_us": "100000", "memory__cpu_cfs_period_us": "100000"}, 16),
        ("1:cpu:/\n0::/\n", {"unified__cpu_max": "500000 100000"}, 5),
        ("nonsense\n\n0::/\n", {"cpu_max": "not a number\n"}, 16),
        ("0::/\n", {"cpu_max": "100000 0\n"}, 16),
    ],
)
def test_quotas_of_control_groups(tmp_path, groups, files, cores):
    assert usable_cores(file_system(tmp_path, groups, **files)) == cores


def test_without_control_groups(tmp_path):
    assert usable_cores(tmp_path) == 16


def test_an_affinity_mask_smaller_than_the_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7})
    assert usable_cores(file_system(tmp_path, "0::/\n", cpu_max="800000 100000")) == 2


def test_this_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)))
    assert 1 <= usable_cores() <= CORES


@pytest.fixture
def places(monkeypatch):
    """Where processes are put, one after the other; this one is on core 5."""
    found = []
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: found.append((pid, sorted(cores))))
    monkeypatch.setattr(cores_module, "current_core", lambda: 5)
    return found


def test_a_computing_thread_has_its_core_to_itself(places):
    with own_core([2, 5, 7], [10, 11, 12, 13, 14, None]):
        taken = places.copy()
    assert taken == [(11, [2, 7]), (14, [2, 7])]
    assert places[2:] == [(11, [5]), (14, [5])]


def test_what_was_moved_goes_back_after_an_error(places):
    with pytest.raises(ValueError, match="boom"), own_core([2, 5], [10, 11]):
        raise ValueError("boom")
    assert places == [(11, [2]), (11, [5])]


@pytest.mark.parametrize("cores", [[], [5], [2, 3]])
def test_nobody_moves_where_nobody_is_in_the_way(cores, places):
    with own_core(cores, [10, 11]):
        pass
    assert places == []
