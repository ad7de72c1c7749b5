import gc
import io

import pytest
from tqdm import tqdm


@pytest.fixture(scope="session", autouse=True)
def _tqdm():
    """The first bar of a process makes a lock and a thread, which stay."""
    tqdm(total=1, file=io.StringIO()).close()


def _shared_memory():
    """Segments that this process maps."""
    gc.collect()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = [line.split() for line in maps if "memfd:" in line or "/dev/shm/" in line]
    return {(words[5], words[4]) for words in lines}


@pytest.fixture
def leaves_nothing(_tqdm, leaves_nothing):
    """As in all tests (processes, descriptors, threads), and no shared memory either."""
    before = _shared_memory()
    yield
    assert _shared_memory() <= before
