"""Whether a state that was read from a file could be that of a trainer: checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from prl.run.checkpoint_files import CheckpointError

_OF_ENVS = ("rounds/actions", "rounds/obs")  # nothing before the first round, then tensors
_CALLS = ("env_calls", "rounds/called")  # any number; who loads them looks at each
# What checkpoints of earlier versions do not have.
_ADDED: Mapping[str, Mapping[str, Any]] = {
    "": {"env_calls": []},
    "progress": {"infos": {}},
    "rounds": {"called": []},
}
_RECENT = "recent_"  # lists of Progress that grow up to their bound
_GROWS = "running"  # one number per env that has occurred
_LARGEST_RECENT = 100
_INFOS = "progress/infos"  # lists of numbers by name: of other columns if log_info was another


def check_fits(found: Any, template: Any, name: str = "") -> None:
    """Check structure, types, shapes and numbers of a state against those of the trainer that will load it.

    What envs show and have done since their resets may have any length. Step sizes and moments of PyTorch's
    optimisers are left to `learner.adam.load_adam`, which knows their parameters.

    Args:
        found: the state, or a part of it.
        template: the same part of `Trainer.state_dict()` of the trainer as it is now.
        name: of the part.

    Raises:
        CheckpointError: it names the first part that does not fit.
    """
    _check_numbers(found, template, name)
    if name == _INFOS:
        _check_infos(found)
    elif template is None or (name.startswith(_OF_ENVS) and not isinstance(template, list)):
        if not (found is None or isinstance(found, torch.Tensor)):
            raise CheckpointError(f"{name} is a {type(found).__name__}")
    elif isinstance(template, dict):
        _check_dict(found, template, name)
    elif isinstance(template, list | tuple):
        _check_list(found, template, name)
    elif isinstance(template, torch.Tensor):
        _check_tensor(found, template, name)
    elif type(found) is not type(template):
        raise CheckpointError(f"{name} is a {type(found).__name__}, not a {type(template).__name__}")
    elif isinstance(found, int) and found < 0:
        raise CheckpointError(f"{name} is {found}")


def _check_dict(found: Any, template: dict[Any, Any], name: str) -> None:
    if isinstance(found, dict):
        found = {key: part for key, part in _ADDED.get(name, {}).items() if key in template} | found
    if not isinstance(found, dict) or found.keys() != template.keys():
        keys = sorted(map(str, found.keys() ^ template.keys())) if isinstance(found, dict) else []
        raise CheckpointError(f"{name or 'the state'} is of another kind: {', '.join(keys[:4])} do not match")
    for key, part in template.items():
        below = f"{name}/{key}" if name else str(key)
        if key == "optimizer" and "param_groups" in part:  # of torch.optim.Adam: empty before the first step
            _check_finite(found[key], below)
        elif key != "signature":
            check_fits(found[key], part, below)


def _check_infos(found: Any) -> None:
    if not isinstance(found, dict):
        raise CheckpointError(f"{_INFOS} is a {type(found).__name__}")
    for key, numbers in found.items():
        if not isinstance(numbers, list):
            raise CheckpointError(f"{_INFOS}/{key} is a {type(numbers).__name__}, not a list")
        _check_finite(numbers, f"{_INFOS}/{key}")
        _check_recent(numbers, f"{_INFOS}/{key}")


def _check_recent(found: list[Any] | tuple[Any, ...], name: str) -> None:
    if len(found) > _LARGEST_RECENT or not all(type(item) in (int, float) for item in found):
        raise CheckpointError(f"{name} is not a list of at most {_LARGEST_RECENT} numbers")


def _check_finite(found: Any, name: str) -> None:
    _check_numbers(found, None, name)
    if isinstance(found, dict | list | tuple):
        parts = found.items() if isinstance(found, dict) else enumerate(found)
        for key, part in parts:
            _check_finite(part, f"{name}/{key}")


def _check_list(found: Any, template: list[Any] | tuple[Any, ...], name: str) -> None:
    if type(found) is not type(template):
        raise CheckpointError(f"{name} is a {type(found).__name__}, not a {type(template).__name__}")
    if name in _CALLS:
        return
    if name.rpartition("/")[2].startswith(_RECENT):
        _check_recent(found, name)
        return
    if len(found) != len(template):
        raise CheckpointError(f"{name} has {len(found)} elements, not {len(template)}")
    for number, (item, part) in enumerate(zip(found, template, strict=True)):
        check_fits(item, part, f"{name}/{number}")


def _check_tensor(found: Any, template: torch.Tensor, name: str) -> None:
    if not isinstance(found, torch.Tensor):
        raise CheckpointError(f"{name} is no tensor")
    same_shape = found.shape == template.shape
    grows = name.rpartition("/")[2] == _GROWS and found.ndim == template.ndim
    if found.dtype != template.dtype or not (same_shape or grows):
        raise CheckpointError(
            f"{name} is {tuple(found.shape)} {found.dtype}, "
            f"the trainer needs {tuple(template.shape)} {template.dtype}"
        )


def _check_numbers(found: Any, template: Any, name: str) -> None:
    """Numbers must be finite, unless they are not in the template either (a constant of a custom encoder)."""
    if isinstance(found, float) and not math.isfinite(found):
        raise CheckpointError(f"{name} is {found}")
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        return
    wrong = ~torch.isfinite(found)
    if isinstance(template, torch.Tensor) and template.shape == found.shape:
        wrong &= torch.isfinite(template.cpu())
    if wrong.any():
        raise CheckpointError(f"{name} holds numbers that are not finite")
