"""Torch's global state: what a run computes with, whatever the user's script and envs have set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def standard_torch() -> Iterator[None]:
    """Torch's own defaults for the time of a block, and the caller's settings again after it.

    Importing, building and stepping an env runs the user's code, which may set a default dtype, turn
    gradients off or take all cores. prl builds its networks and the envs of its own process inside this
    block, so that neither it nor the caller notices. It covers the default dtype and device, whether
    gradients are recorded, the number of threads, deterministic algorithms, the precision of matrix products,
    and NumPy's error handling and print options.
    """
    with contextlib.ExitStack() as stack:
        for context in (_dtype_and_device, _grad_mode, _computing, _numpy_options):
            stack.enter_context(context())
        yield


@contextlib.contextmanager
def _dtype_and_device() -> Iterator[None]:
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    _set_device(torch.device("cpu"))
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        _set_device(device)


def _set_device(device: torch.device) -> None:
    # A default device, even the CPU, makes every call of torch slower; None is the CPU without that.
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)


@contextlib.contextmanager
def _grad_mode() -> Iterator[None]:
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    try:
        yield
    finally:
        torch.set_grad_enabled(enabled)


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        use_deterministic_algorithms(deterministic, warn_only)
        torch.set_float32_matmul_precision(precision)


def use_deterministic_algorithms(wanted: bool, warn_only: bool = False) -> None:
    """`torch.use_deterministic_algorithms`, but quick if nothing changes."""
    found = torch.are_deterministic_algorithms_enabled()
    if (found, torch.is_deterministic_algorithms_warn_only_enabled()) != (wanted, warn_only):  # takes 0.2 ms
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)


@contextlib.contextmanager
def _numpy_options() -> Iterator[None]:
    errors, printing = np.geterr(), np.get_printoptions()
    try:
        yield
    finally:
        np.seterr(**errors)
        np.set_printoptions(**printing)
