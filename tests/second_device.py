"""A device for tests that stands for a GPU: its numbers are the CPU's, but they mix with those of no other.

PyTorch's device "meta" needs no hardware, and its tensors hold nothing. Here they hold tensors of the CPU
that only operations of this device reach. So what would fail on a GPU because something lies on another
device fails here, and what works has results to compare. Only its speed and its rounding are not a GPU's.
"""

import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("meta")

_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_COPY = _ATEN.copy_.default
_MOVES = (_ATEN._to_copy.default, _COPY)
_READS_A_NUMBER = _ATEN._local_scalar_dense.default
_INDEXES = (_ATEN.index.Tensor, _ATEN.index_put_.default)


class Held(torch.Tensor):
    """A tensor of the device; `held` is the one on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE
        )

    def __init__(self, held):
        self.held = held

    def data_ptr(self):
        return self.held.data_ptr()

    def __deepcopy__(self, memo):  # torch's own would ask for memory of "meta"
        if id(self) not in memo:
            copied = self.detach().clone()
            parameter = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = parameter if isinstance(self, torch.nn.Parameter) else copied
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("there is no second device outside of SecondDevice")


class SecondDevice(TorchDispatchMode):
    """The device is there within this context.

    Attributes:
        waits: how often the CPU had to wait for it so far: for a number, or to copy a tensor from it.
    """

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # where gradients may be recorded, autograd has taken such operations apart
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        goes_to = kwargs.get("device")
        if goes_to is not None:
            kwargs["device"] = _CPU
        elif func is _COPY:
            goes_to = args[0].device
        elif tensors:
            goes_to = _common_device(func, tensors)
        from_here = any(isinstance(tensor, Held) for tensor in tensors)
        self.waits += from_here and (goes_to == _CPU or func is _READS_A_NUMBER)
        # Views of ordinary tensors stay ordinary ones, even in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return self._compute(func, args, kwargs, tensors, goes_to)

    @staticmethod
    def _compute(func, args, kwargs, tensors, goes_to):
        result = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if goes_to != DEVICE:
            return result
        known = {
            id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Held)
        }  # in-place results
        return tree_map(lambda leaf: known[id(leaf)] if id(leaf) in known else _outside(leaf), result)


def _common_device(func, tensors):
    """Where the result is. As in CUDA, numbers (tensors without dimensions) and indices may be on the CPU."""
    if func in _INDEXES:
        tensors = [tensors[0], *(tensor for tensor in tensors[1:] if tensor.device == DEVICE)]
    devices = {tensor.device for tensor in tensors if tensor.dim() > 0 or tensor.device == DEVICE}
    if len(devices) > 1:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    return devices.pop() if devices else _CPU


def _inside(leaf):
    return leaf.held if isinstance(leaf, Held) else leaf


def _outside(leaf):
    return Held(leaf) if isinstance(leaf, torch.Tensor) else leaf


def let_adam_use_it(monkeypatch):
    """PyTorch knows by name where Adam has a fused step."""
    module = sys.modules["torch.optim.optimizer"]  # `torch.optim` has a class of this name
    names = module._get_fused_kernels_supported_devices()
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [*names, DEVICE.type])
