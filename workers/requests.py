"""What adapters ask of a worker's envs beyond the verbs of training, and how the worker answers.

Training speaks `workers.frames.Kind.STEP` and `RESET`: seeded episodes, numbers only. The interfaces of other
libraries also want resets without a seed or with options, infos, and calls of methods and attributes. One
REQUEST frame holds one of these; nothing of it touches the path of training.

A request is one byte, the `Verb`, and its arguments. The learner's arguments are pickled, as factories are;
what comes back is read as numbers and plain data alone (`workers.data_pickle`). G is the number of the
worker's envs.
"""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np

from workers import data_pickle
from workers.block import EnvBlock, Options
from workers.env_call import DONE, RAISED, EnvCall
from workers.errors import USER_ERRORS, EnvFailure, describe, one_line
from workers.frames import pack_rows, unpack_rows
from workers.infos import InfoRecorder
from workers.returns import ReturnError
from workers.seeding import NO_SEED
from workers.slab import Slab
from workers.wrappers import LAST_INFO

VALUES = DONE
_FIRST_SEED = 0


class Verb(enum.IntEnum):
    """What is asked.

    With private memory the actions follow the arguments of a step, and rewards and observations the flags.
    """

    STEP = 1
    """Every env takes a step. No arguments. Answer: flags u8[G], then infos."""
    STEP_AUTORESET = 2
    """As STEP, and an env whose episode ends is reset without a seed."""
    STEP_OR_RESET = 3
    """Some envs take a step, the others are reset without a seed. Arguments: u8[G], 1 for a reset."""
    RESET = 4
    """Some envs are reset. Arguments: pickled (rows, seeds, options or None). Answer: infos."""
    CALL = 5
    """Something is called or looked up. Arguments: pickled (name of the verb, rows, its arguments).
    Answer: VALUES and the pickled list of results, or RAISED and the pickled type, message and traceback."""
    RECORD_INFOS = 6
    """From now on answers hold infos. No arguments, and an empty answer."""
    CHANGE = 7
    """Calls that change envs. Arguments: pickled (rows, calls, whether results are wanted). Answer: DONE and
    the pickled results of the last call, or RAISED and the pickled message and traceback."""
    LAST_INFOS = 8
    """The last infos of envs in a `LastInfo`. Arguments: rows i32[G]. Answer: as for CHANGE; the result is
    one item, the infos as bytes."""


class RequestServer:
    """Answers requests about a block of envs.

    Args:
        block: of envs.
        slab: of the block.
        shared: whether the learner sees its rows; otherwise they travel in the answers.
    """

    def __init__(self, block: EnvBlock, slab: Slab, shared: bool) -> None:
        self._block = block
        self._slab = slab
        self._rows = list(range(len(slab)))
        self._action_arrays = () if shared else (slab.action,)
        self._answer_arrays = (slab.flags,) if shared else (slab.flags, slab.reward, slab.obs)
        self._obs_arrays = () if shared else (slab.obs,)
        self._restart_arrays = () if shared else (slab.next_obs,)
        self._unseeded = [NO_SEED] * len(slab)
        self._recorder: InfoRecorder | None = None

    def answer(self, request: bytes) -> bytes:
        """Carry out a request; the answer.

        Raises:
            EnvFailure: an env raised in a step or reset, or returned something that is not valid.
        """
        verb, rest = request[0], memoryview(request)[1:]
        if verb <= Verb.STEP_OR_RESET:
            return self._step(verb, rest)
        if verb == Verb.RESET:
            return self._reset(*cloudpickle.loads(bytes(rest)))
        if verb == Verb.CALL:
            return self._call(*cloudpickle.loads(bytes(rest)))
        if verb == Verb.CHANGE:
            return self._change(*cloudpickle.loads(bytes(rest)))
        if verb == Verb.LAST_INFOS:
            return self._last_infos(np.frombuffer(rest, np.int32).tolist())
        self._recorder = InfoRecorder(self._block.first_env)
        self._block.record_infos(self._recorder)
        return b""

    def _infos(self) -> bytes:
        return b"" if self._recorder is None else self._recorder.take()

    def _step(self, verb: int, arguments: memoryview) -> bytes:
        resets: list[int] = []
        steps = self._rows
        if verb == Verb.STEP_OR_RESET:
            mask = np.frombuffer(arguments, np.bool_, len(self._rows))
            arguments = arguments[len(mask) :]
            steps, resets = np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()
        if self._action_arrays:
            unpack_rows(self._action_arrays, np.array(self._rows), arguments)
        if steps:
            self._block.step(steps, self._unseeded if verb == Verb.STEP_AUTORESET else None)
        if resets:
            self._block.reset(resets, self._unseeded[: len(resets)])
        answer = self._slab.flags.tobytes() if len(self._answer_arrays) == 1 else self._packed(verb)
        return answer + self._infos() if self._recorder is not None else answer

    def _packed(self, verb: int) -> bytes:
        answer = pack_rows(self._answer_arrays, np.array(self._rows))
        if verb == Verb.STEP_AUTORESET:
            answer += pack_rows(self._restart_arrays, np.flatnonzero(self._slab.flags))
        return answer

    def _reset(self, rows: list[int], seeds: list[int], options: list[Options] | None) -> bytes:
        self._block.reset(rows, seeds, options)
        return pack_rows(self._obs_arrays, np.array(rows)) + self._infos()

    def _call(self, verb: str, rows: Sequence[int], arguments: tuple[Any, ...]) -> bytes:
        """Call something of some envs; errors are answers, after which the worker lives on."""
        try:
            envs = [self._block.env(row) for row in rows]
            results = _CALLS[verb](envs, *arguments)
            return VALUES + data_pickle.dump(results)
        except USER_ERRORS as error:  # the method is the user's code; so is pickling its results
            text = "".join(traceback.format_exception(error))
            return RAISED + data_pickle.dump((type(error).__name__, one_line(error), text))

    def _change(self, rows: Sequence[int], calls: Sequence[EnvCall], results: bool) -> bytes:
        """Make calls in some envs, one call after the other; errors are answers.

        An env that was never reset is reset first: so a call finds the same in an env of a new process as in
        one that has played.
        """
        for row in rows:
            if not self._block.has_played(row):
                self._block.reset([row], [_FIRST_SEED])
        found: list[Any] = []
        for call in calls:
            found = []
            for row in rows:
                index = self._block.first_env + row
                try:
                    found.append(call.of_env(self._block.env(row), index))
                except USER_ERRORS as error:  # the method is the user's code
                    text = "".join(traceback.format_exception(error))
                    return RAISED + data_pickle.dump((f"env {index}: {call} raised {describe(error)}", text))
        try:
            return DONE + data_pickle.dump(found if results else [])
        except USER_ERRORS as error:  # of the user's `__reduce__`
            what = f"the result of {calls[-1]} cannot be sent: {describe(error)}"
            return RAISED + data_pickle.dump((what, ""))

    def _last_infos(self, rows: Sequence[int]) -> bytes:
        recorder = InfoRecorder(self._block.first_env)
        try:
            for row in rows:
                info = self._block.env(row).get_wrapper_attr(LAST_INFO)
                if info:
                    recorder.record(row, info)
            return DONE + data_pickle.dump([recorder.take()])
        except (ReturnError, EnvFailure) as error:
            return RAISED + data_pickle.dump((one_line(error), ""))


def _call(envs: Sequence[Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The results of a method, or the attribute if it cannot be called; wrappers are searched, too."""
    found = [env.get_wrapper_attr(name) for env in envs]
    return [value(*args, **kwargs) if callable(value) else value for value in found]


def _method(envs: Sequence[Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The results of a method."""
    return [env.get_wrapper_attr(name)(*args, **kwargs) for env in envs]


def _get(envs: Sequence[Any], name: str) -> list[Any]:
    """The attribute of each env or of one of its wrappers."""
    return [env.get_wrapper_attr(name) for env in envs]


def _has(envs: Sequence[Any], name: str) -> list[Any]:
    """Whether each env or one of its wrappers has the attribute."""
    return [env.has_wrapper_attr(name) for env in envs]


def _set(envs: Sequence[Any], name: str, values: Sequence[Any]) -> list[Any]:
    """Set an attribute where it is; on the outermost wrapper if it is nowhere."""
    for env, value in zip(envs, values, strict=True):
        env.set_wrapper_attr(name, value)
    return []


def _set_outermost(envs: Sequence[Any], name: str, value: Any) -> list[Any]:
    """Set an attribute of the outermost wrapper, or of the env that has none."""
    for env in envs:
        setattr(env, name, value)
    return []


def _is_wrapped(envs: Sequence[Any], kind: type) -> list[Any]:
    """Whether each env has a wrapper of a class."""
    return [any(isinstance(layer, kind) for layer in _wrappers(env)) for env in envs]


def _wrappers(env: Any) -> list[Any]:
    found = []
    while env is not env.unwrapped:
        found.append(env)
        env = env.env
    return found


_CALLS: dict[str, Callable[..., list[Any]]] = {
    "call": _call,
    "method": _method,
    "get": _get,
    "has": _has,
    "set": _set,
    "set_outermost": _set_outermost,
    "is_wrapped": _is_wrapped,
}
