"""The fingerprint of a machine: the same in every process, whatever the global state of torch."""

import os
import re
import subprocess
import sys

import torch

from learner.fingerprint import fingerprint

CODE = "from learner.fingerprint import fingerprint; print(fingerprint())"


def in_another_process(**environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout.strip()


def test_it_is_the_same_in_another_process():
    assert re.fullmatch("[0-9a-f]{16}", fingerprint())
    assert in_another_process() == fingerprint()


def test_other_kernels_have_another_one():
    """PyTorch takes the kernels of an older CPU on demand; a machine without newer ones has no others."""
    older = in_another_process(ATEN_CPU_CAPABILITY="default", MKL_ENABLE_INSTRUCTIONS="SSE4_2")
    assert (older != fingerprint()) == (torch.backends.cpu.get_cpu_capability() != "DEFAULT")


def test_neither_takes_nor_leaves_global_state():
    expected = fingerprint()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            torch.set_num_threads(2)
            assert fingerprint.__wrapped__() == expected
            assert torch.get_num_threads() == 2
            assert not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
