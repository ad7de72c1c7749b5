"""What `reset` and `step` of an env return besides observations: taken if nothing is lost, else refused.

The hot path (`workers.block`) takes the usual types by itself; these functions see the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np

from workers.arrays import detached
from workers.casts import has_masked_elements
from workers.errors import shown

RESET_VALUES = ("observation", "info")
STEP_VALUES = ("observation", "reward", "terminated", "truncated", "info")
MAX_REWARD = float(np.finfo(np.float32).max)
BOOLS = (bool, np.bool_)
_NUMBERS = (float, int, np.floating, np.integer, np.bool_)
_VALUES_OF = {"reset": RESET_VALUES, "step": STEP_VALUES}
_OLD_API = "an env of the old gym API? shimmy adapts those"
_WRONG_COUNT = re.compile(r"unpack \(expected (\d+)(?:, got (\d+))?\)")
_NOT_ITERABLE = re.compile(r"cannot unpack non-iterable (\S+) object")
_NO_SUCH_ARGUMENT = re.compile(r"reset\(\) got an unexpected keyword argument '(seed|options)'")


class ReturnError(ValueError):
    """An env returned what prl cannot take. The message says what it returned, and what is wanted."""


def step_values(returned: Any) -> Sequence[Any]:
    """Observation, reward, terminated, truncated and info, as `step` has returned them.

    Raises:
        ReturnError: it has returned something else than a tuple or list of five.
    """
    if isinstance(returned, tuple | list) and len(returned) == len(STEP_VALUES):
        return returned
    raise _wrong_values("step", _kind_and_count(returned))


def reset_values(returned: Any) -> tuple[Any, Any]:
    """Observation and info (a mapping or None), as `reset` has returned them.

    Raises:
        ReturnError: it has returned something else. An observation alone may have two elements, so the type
            of info is looked at, too.
    """
    if type(returned) is tuple and len(returned) == 2 and type(returned[1]) is dict:  # the usual
        return returned
    if not isinstance(returned, tuple | list) or len(returned) != len(RESET_VALUES):
        raise _wrong_values("reset", _kind_and_count(returned))
    obs, info = returned
    if not (info is None or isinstance(info, Mapping)):
        kind = type(info).__name__
        raise ReturnError(f"reset returned observation and info, but info is of type {kind}, not a dict")
    return obs, info


def reward_of(value: Any) -> float:
    """A reward as a float. Any number is taken, and any array or list of one number.

    Raises:
        ReturnError: it is no number, more than one, or not a finite float32.
    """
    try:
        number = float(value if isinstance(value, _NUMBERS) else _number(value))
    except OverflowError:  # an int with hundreds of digits
        number = math.inf
    if not -MAX_REWARD <= number <= MAX_REWARD:  # NaN fails both
        raise ReturnError(f"returned the reward {shown(value)}, which is not a finite float32")
    return number


def flag_of(value: Any, name: str) -> bool:
    """A flag as a bool. 0 and 1 of any type are taken, and any array or list of one of them.

    Args:
        value: the flag.
        name: "terminated" or "truncated".

    Raises:
        ReturnError: it is something else, whose truth value might not be what was meant ("False", NaN, {}).
    """
    if type(value) in BOOLS:
        return bool(value)
    flag = _only_element(value, name, "one bool")
    if isinstance(flag, int | float) and flag in (0, 1):
        return bool(flag)
    hint = "; prl takes one bool per env, not one per agent" if isinstance(value, Mapping) else ""
    raise ReturnError(f"returned {name} {shown(value)}, which is neither True nor False{hint}")


def _number(value: Any) -> float:
    number = _only_element(value, "the reward", "one number")
    try:
        if isinstance(number, str | bytes):
            raise TypeError  # float("1.5") would be taken
        return float(number)
    except OverflowError:
        raise
    except Exception:  # `__float__` is the user's code
        hint = "; prl takes one number per env, not one per agent" if isinstance(value, Mapping) else ""
        raise ReturnError(f"returned the reward {shown(value)}, which is not a number{hint}") from None


def api_error(error: BaseException) -> ReturnError | None:
    """What an exception of `reset` or `step` says about the API of the env; None if it is the env's own.

    Gymnasium's wrappers unpack what the env returns, and raise where prl would have said what is wrong.
    """
    if isinstance(error, ReturnError):
        return error
    frame = _innermost_frame(error)
    if frame is None or _package_of(frame) not in ("gymnasium", "workers"):
        return None
    text = str(error)
    if argument := _NO_SUCH_ARGUMENT.search(text):
        return ReturnError(f"reset takes no argument {argument[1]!r}, as Gymnasium's does ({_OLD_API})")
    method, owner = frame.f_code.co_name, frame.f_locals.get("self")
    is_call = method in _VALUES_OF and isinstance(owner, gym.Wrapper)
    return _unpacking_error(method, text) if is_call else None


def _unpacking_error(method: str, text: str) -> ReturnError | None:
    """What the message of a failed unpacking says about the values that `method` returned."""
    if kind := _NOT_ITERABLE.search(text):
        return _wrong_values(method, (kind[1], None))
    count, wanted = _WRONG_COUNT.search(text), len(_VALUES_OF[method])
    if count is None or int(count[1]) != wanted:
        return None
    return _wrong_values(method, ("tuple", count[2] or f"more than {wanted}"))


def _innermost_frame(error: BaseException) -> FrameType | None:
    """Where a TypeError or ValueError was raised."""
    trace = error.__traceback__
    if trace is None or not isinstance(error, TypeError | ValueError):
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _kind_and_count(returned: Any) -> tuple[str, str | None]:
    counts = isinstance(returned, tuple | list)
    return type(returned).__name__, str(len(returned)) if counts else None


def _wrong_values(method: str, found: tuple[str, str | None]) -> ReturnError:
    """The error for a type and, if that is a tuple or list, a number of values."""
    kind, count = found
    if count is None:
        what = "None" if kind == "NoneType" else f"a value of type {kind}"
    else:
        what = f"{count} value{'' if count == '1' else 's'}"
    is_bare = method == "reset" and what != "None" and count in (None, "more than 2")
    hint = f" ({_OLD_API})" if is_bare or (method, count) == ("step", "4") else ""
    return ReturnError(f"{method} returned {what}, {_wanted(method)}{hint}")


def _wanted(method: str) -> str:
    names = _VALUES_OF[method]
    return f"not the {len(names)} values {', '.join(names[:-1])} and {names[-1]}"


def _only_element(value: Any, name: str, wanted: str) -> Any:
    """The element of an array or list of one; other values as they are.

    Raises:
        ReturnError: there are more elements, or none.
    """
    if value is None or isinstance(value, str | bytes | Mapping):
        return value
    try:
        array = np.asarray(detached(value))
    except Exception:  # `__array__` is the user's code, and lists may be ragged
        return value
    if array.dtype.kind not in "biufO" or has_masked_elements(value):
        return None
    if array.size == 1:
        return array.item()
    raise ReturnError(
        f"returned {name} of shape {array.shape}; prl takes {wanted}: add a wrapper that makes one of them"
    )
