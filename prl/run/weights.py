"""A policy's weights in a file that holds numbers and nothing else (safetensors)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from learner.policy import ActorCritic
from prl.run.files import replace_file

WEIGHTS_FILE = "policy.safetensors"
_MAX_BYTES = 8 << 30


class WeightsError(ValueError):
    """A file does not hold the weights of this policy."""


def weights_sha256(policy: ActorCritic) -> str:
    """SHA-256 over the policy's tensors in name order: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()


def save_weights(policy: ActorCritic, folder: str | os.PathLike[str]) -> Path:
    """Write `policy.safetensors` into `folder`, which is made if need be. Replaces an older file in one step.

    Returns:
        The path of the file.

    Raises:
        prl.run.files.WriteError: it cannot be written; an older file is as it was.
    """
    target = Path(folder) / WEIGHTS_FILE
    # Copies: safetensors refuses tensors that share memory, as tied layers of a custom encoder do.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in policy.state_dict().items()
    }
    replace_file(target, save(tensors))
    return target


def load_weights(policy: ActorCritic, path: str | os.PathLike[str]) -> None:
    """Read weights into a policy of the same shape. Executes nothing that is in the file.

    Args:
        policy: changed in place, or not at all.
        path: a file, or the folder that `save_weights` was given.

    Raises:
        WeightsError: no such file, not weights, other names or shapes, or numbers that are not finite.
    """
    file = Path(path)
    if file.is_dir():
        file /= WEIGHTS_FILE
    if not file.is_file():
        raise WeightsError(f"no weights at {file}")
    if file.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"{file} is too large to be weights of this policy")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or not a safetensors file: {error}") from error
    expected = policy.state_dict()
    if tensors.keys() != expected.keys():
        names = sorted(tensors.keys() ^ expected.keys())
        raise WeightsError(f"{file} holds another network: {', '.join(names[:4])} do not match")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise WeightsError(
                f"{file}: {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"the policy needs {tuple(expected[name].shape)} {expected[name].dtype}"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{file}: {name} holds numbers that are not finite")
    policy.load_state_dict(tensors)
