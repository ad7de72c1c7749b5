"""A fingerprint of how this machine computes."""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import torch
from torch import nn

_FEATURES = 64
_ROWS = (1, 3, 8, 32)  # kernels differ with the number of rows
_SEED = 0


@functools.cache
def fingerprint() -> str:
    """16 hex digits of a SHA-256 over the initial weights, outputs and gradients of a small fixed network.

    The same versions of prl and PyTorch compute different last bits on different kinds of CPU, since these
    have different kernels for matrix products and for tanh. A run with the same settings and seed can be
    repeated bit for bit where the fingerprint is the same, and cannot where it is another one. Computed on
    one thread of the CPU; takes a few milliseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            return _digest()
    finally:
        torch.set_num_threads(threads)


def _digest() -> str:
    generator = torch.Generator().manual_seed(_SEED)
    layers = [
        nn.Linear(_FEATURES, _FEATURES, bias=False, device="cpu", dtype=torch.float32) for _ in range(2)
    ]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, math.sqrt(2.0), generator=generator)
    network = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    numbers = np.random.Generator(np.random.PCG64(_SEED))
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(layer.weight.detach().numpy().tobytes())
    for rows in _ROWS:
        inputs = torch.from_numpy(numbers.uniform(-1.0, 1.0, (rows, _FEATURES)).astype(np.float32))
        outputs = network(inputs)
        digest.update(outputs.detach().numpy().tobytes())
        for gradient in torch.autograd.grad(outputs.square().sum(), [layer.weight for layer in layers]):
            digest.update(gradient.numpy().tobytes())
    return digest.hexdigest()[:16]
