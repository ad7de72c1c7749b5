"""Pickles of plain data: read without running code of whoever wrote them.

Training unpickles nothing. Adapters hand on what methods, attributes and infos of envs hold, which may be any
object; of that, the learner takes what is data: Python's own types, NumPy's arrays, numbers and generators,
and Gymnasium's spaces and specs.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import cloudpickle

_DATA = {
    "builtins": {"bytearray", "complex", "frozenset", "range", "set", "slice"},
    "collections": {"OrderedDict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta"},
    "numpy": {"dtype", "ndarray"},
    "numpy.random._pickle": {"__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"},
    "numpy.random._pcg64": {"PCG64", "PCG64DXSM"},
    "numpy.random._mt19937": {"MT19937"},
    "numpy.random._philox": {"Philox"},
    "numpy.random._sfc64": {"SFC64"},
    "numpy.random.bit_generator": {"SeedSequence", "__pyx_unpickle_SeedSequence"},
    "gymnasium.envs.registration": {"EnvSpec", "WrapperSpec"},
}
# NumPy 2 has renamed its core, and pickles may name either.
for _core in ("numpy.core", "numpy._core"):
    _DATA[f"{_core}.multiarray"] = {"_reconstruct", "scalar"}
    _DATA[f"{_core}.numeric"] = {"_frombuffer"}
_SPACES = {"Box", "Dict", "Discrete", "MultiBinary", "MultiDiscrete", "Tuple", "Text", "Sequence", "Graph"}


class NotData(ValueError):
    """A pickle holds more than data. The message names the class or function."""


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_space = module.startswith("gymnasium.spaces.") and name in _SPACES
        if not is_space and name not in _DATA.get(module, ()):
            raise NotData(f"{module}.{name}")
        return super().find_class(module, name)


def dump(value: object) -> bytes:
    """A pickle of anything. Raises whatever pickling it raises."""
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # classes of `__main__`, local functions: cloudpickle takes them by value
        pickled: bytes = cloudpickle.dumps(value)
        return pickled


def load(data: bytes | memoryview, any_objects: bool = False) -> Any:
    """The value in a pickle.

    Args:
        data: by `dump`.
        any_objects: whether to take objects of any class, which may run their code.

    Raises:
        NotData: the pickle holds something else than data, and `any_objects` is false.
        pickle.UnpicklingError: it is no pickle.
    """
    if any_objects:
        return cloudpickle.loads(bytes(data))
    return _DataUnpickler(io.BytesIO(data)).load()
