"""Adam: PyTorch's with steps that may be left out, and by hand, on parameters that lie in one array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Floats = npt.NDArray[np.float32]

ADAM_EPS = 1e-5
"""Huang et al., "The 37 implementation details of PPO", detail 3."""

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BETA1, _BETA2 = 0.9, 0.999  # Kingma and Ba 2015, as in torch.optim.Adam


def step_unless(skip: Tensor, optimizer: torch.optim.Adam) -> None:
    """A step of the optimiser; it is left out, and nothing changes, where `skip` is true.

    Decided where the gradient is: a GPU need not be waited for.

    Args:
        skip: bool[], on the device of the parameters.
        optimizer: with `fused=True`.
    """
    optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
    optimizer.step()


def load_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict` for a state that may have been read from a file.

    Only the moments are taken from it: step sizes and options stay those of the optimiser. They get the
    memory layout of their parameters, which the fused kernel expects and a file does not keep.

    Raises:
        ValueError: the state is that of other parameters; nothing has changed.
    """
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in groups]:
        raise ValueError("the state is of an optimiser with other parameters")
    moments = {}
    for number, found in state["state"].items():
        like = parameters[number]
        if any(found[name].shape != like.shape or found[name].dtype != like.dtype for name in _MOMENTS):
            raise ValueError(f"the state's moments of parameter {number} are not {tuple(like.shape)}")
        moments[number] = {name: torch.empty_like(like).copy_(found[name]) for name in _MOMENTS}
        moments[number]["step"] = torch.tensor(float(found["step"]))
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def as_flat(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a `FlatAdam` that goes on where a `torch.optim.Adam` of the same parameters was.

    The numbers are the same; what comes of them is not, in its last bits.

    Args:
        state: of the optimiser; every parameter has moments, in the order of their numbers, or none has.

    Raises:
        ValueError: some have, and others have not.
    """
    moments = [found for _, found in sorted(state["state"].items())]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if not moments:
        raise ValueError("the state's optimiser has made no step yet")
    if sorted(numbers) != sorted(state["state"]):
        raise ValueError("the state has moments of some parameters only")
    average, square = (torch.cat([found[name].flatten() for found in moments]) for name in _MOMENTS)
    return {
        "steps": int(moments[0]["step"]),
        "sum": average / (1.0 - _BETA1),
        "square_sum": square / (1.0 - _BETA2),
    }


class FlatParameters:
    """Parameters of networks, and their gradients, moved into two arrays that share their memory.

    Args:
        parameters: f32, on the CPU; their `data` and `grad` are replaced by views.

    Attributes:
        values: f32[P], all numbers.
        gradients: f32[P].
        views, gradient_views: of each parameter, in its shape.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        size = sum(parameter.numel() for parameter in parameters)
        self.values = np.empty(size, np.float32)
        self.gradients = np.zeros(size, np.float32)
        self.views: list[Floats] = []
        self.gradient_views: list[Floats] = []
        stop = 0
        for parameter in parameters:
            start, stop = stop, stop + parameter.numel()
            view = self.values[start:stop].reshape(parameter.shape)
            view[...] = parameter.detach().numpy()
            parameter.data = torch.from_numpy(view)
            self.views.append(view)
            self.gradient_views.append(self.gradients[start:stop].reshape(parameter.shape))
            parameter.grad = torch.from_numpy(self.gradient_views[-1])

    def holds(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether these are the parameters, and their memory is still the one array."""
        return len(parameters) == len(self._parameters) and all(
            one is other and one.data_ptr() == view.ctypes.data
            for one, other, view in zip(parameters, self._parameters, self.views, strict=True)
        )

    def clip_gradients(self, max_norm: float) -> bool:
        """Bound the norm of all gradients together. False, and nothing changes, if it is not finite."""
        norm = math.sqrt(float(np.dot(self.gradients, self.gradients)))
        if not math.isfinite(norm):
            return False
        scale = max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
        if scale < 1.0:
            self.gradients *= np.float32(scale)
        return True


class FlatAdam:
    """Kingma and Ba 2015, algorithm 1, on `FlatParameters`.

    The sums m and v are kept without the factors 1 - beta, which join the constants of a step: each pass over
    the arrays counts.

    Args:
        size: P, of the parameters.
    """

    def __init__(self, size: int) -> None:
        self._steps = 0
        self._sum = np.zeros(size, np.float32)
        self._square_sum = np.zeros(size, np.float32)
        self._scratch = np.empty(size, np.float32)

    def step(self, flat: FlatParameters, rates: Sequence[tuple[slice, float]]) -> None:
        """Move `flat.values` by `flat.gradients`.

        Args:
            flat: P parameters.
            rates: the step sizes, each with the part of the parameters that it is for.
        """
        self._steps += 1
        of_sum = (1.0 - _BETA1) / (1.0 - _BETA1**self._steps)
        of_root = math.sqrt((1.0 - _BETA2) / (1.0 - _BETA2**self._steps))
        scratch = self._scratch
        self._sum *= np.float32(_BETA1)
        self._sum += flat.gradients
        self._square_sum *= np.float32(_BETA2)
        self._square_sum += np.multiply(flat.gradients, flat.gradients, out=scratch)
        # lr * of_sum * m / (of_root * sqrt(v) + eps), in the fewest passes
        np.sqrt(self._square_sum, out=scratch)
        scratch += np.float32(ADAM_EPS / of_root)
        np.divide(self._sum, scratch, out=scratch)
        for part, rate in rates:
            scratch[part] *= np.float32(rate * of_sum / of_root)
        flat.values -= scratch

    def state_dict(self) -> dict[str, Any]:
        """Both sums and the number of steps."""
        sums = {"sum": torch.from_numpy(self._sum), "square_sum": torch.from_numpy(self._square_sum)}
        return {"steps": self._steps, **sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the sums are of another number of parameters; nothing has changed.
        """
        size = self._sum.shape
        if any(state[name].shape != size for name in ("sum", "square_sum")):
            raise ValueError(f"the state's sums are not {size}")
        self._steps = state["steps"]
        self._sum[:] = state["sum"].numpy()
        self._square_sum[:] = state["square_sum"].numpy()
