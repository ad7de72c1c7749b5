import gc

import pytest


def _shared_memory():
    """Segments that this process maps."""
    gc.collect()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = [line.split() for line in maps if "memfd:" in line or "/dev/shm/" in line]
    return {(words[5], words[4]) for words in lines}


@pytest.fixture
def leaves_nothing(leaves_nothing):
    """As in all tests (processes, descriptors, threads), and no shared memory either."""
    before = _shared_memory()
    yield
    assert _shared_memory() <= before
