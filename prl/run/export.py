"""A policy as one ONNX file: observations in, env actions out, with the normaliser and the masks inside."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.deterministic import DeterministicPolicy
from learner.settings import ConfigError
from learner.spaces import MASK_KEY, Leaf, is_composite, leaves
from prl.run.files import replace_file, versions
from prl.run.loaded_policy import LoadedPolicy, load
from prl.run.out_path import check_file_path
from prl.run.run_files import load_network_config
from prl.run.sample_rows import plausible_rows
from prl.run.torch_state import standard_torch
from prl.run.weights import weights_sha256
from workers.arrays import Array
from workers.errors import one_line
from workers.space_codec import encode

BATCHES = (1, 7, 256)
"""The numbers of observations with which a file is verified."""

TOLERANCE = 1e-5
"""The error that a number in a file's answers may have, absolute or relative, whichever is larger."""

OUTPUTS = "outputs"
"""The name under which a file also gives what the actor computes: logits, or means."""

_INSTALL = 'export needs the extra "onnx": pip install "prl[onnx]"'


class ExportError(ConfigError):
    """A policy cannot be exported, or the file does not do what the policy does."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file.
        inputs, outputs: names, with shapes and dtypes in words.
        max_error: the largest difference to the policy, in the sense of `TOLERANCE`.
    """

    path: Path
    inputs: dict[str, str]
    outputs: dict[str, str]
    max_error: float


def export_onnx(run: str | os.PathLike[str], out: Path, best: bool = False) -> Exported:
    """Write the policy of a run as an ONNX file, and verify it before it is there.

    The file takes any number of observations, one input for each part of the space, and gives the most likely
    env actions, one output for each part. Its metadata say of which env, spaces, versions and weights it is.

    Args:
        run: folder of a run, or a shared one.
        out: the file; an older one is replaced in one step.
        best: the best policy of the run's evaluations, not the last one.

    Raises:
        ConfigError: the folder is not that of a run, or has no best policy; `out` cannot be made; a package
            is missing; the policy cannot be exported, or the file gives other actions than the policy
            (`ExportError`).
        WeightsError: the weights cannot be used.
        WriteError: the file cannot be written.
    """
    _require_packages()
    out = out.absolute()
    check_file_path(out)
    loaded = load(run, best)
    names = Names.of(loaded)
    with standard_torch():
        content = _converted(loaded, names, _metadata(run, loaded, names))
        max_error = _verified(content, loaded, names)
    replace_file(out, content)
    return Exported(
        out,
        {name: _form(leaf) for name, leaf in names.inputs.items()},
        {name: _form(leaf) for name, leaf in names.outputs.items()},
        max_error,
    )


@dataclass(frozen=True)
class Names:
    """What the parts of observations and actions are called in a file.

    A plain observation is `obs`, the part of a Dict under the key goal is `obs.goal`, the first part of a
    Tuple `obs.0`; a mask of legal actions is `action_mask`; actions are `action`, `action.kind`, ...

    Attributes:
        inputs, outputs: leaves by name, in the order of the space.
    """

    inputs: dict[str, Leaf]
    outputs: dict[str, Leaf]

    @classmethod
    def of(cls, loaded: LoadedPolicy) -> Names:
        """The names for a policy."""
        space = loaded.observation_space
        observed = leaves(space)
        # An observation that is no Dict is wrapped into one if it has to stand beside a mask.
        wrapped = loaded.spaces.mask_from_info and {leaf.path[0] for leaf in observed} == {"obs", MASK_KEY}
        paths = [leaf.path[1:] if wrapped and leaf.path[0] == "obs" else leaf.path for leaf in observed]
        return cls(
            _named("obs", observed, paths),
            _named("action", acted := leaves(loaded.action_space), [leaf.path for leaf in acted]),
        )


def _named(stem: str, parts: Sequence[Leaf], paths: Sequence[tuple[str | int, ...]]) -> dict[str, Leaf]:
    names = [MASK_KEY if path == (MASK_KEY,) else ".".join(map(str, (stem, *path))) for path in paths]
    if len(set(names)) < len(names):
        raise ExportError(f"two parts of a space would have the same name among {', '.join(names)}")
    return dict(zip(names, parts, strict=True))


def _form(leaf: Leaf) -> str:
    return f"{leaf.dtype.name}[{', '.join(['N', *map(str, leaf.shape)])}]"


class _WithOutputs(torch.nn.Module):
    """The env actions and, last, the actor's outputs."""

    def __init__(self, policy: DeterministicPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.policy.outputs(parts)
        return (*self.policy.env_actions(outputs), outputs)


def _converted(loaded: LoadedPolicy, names: Names, metadata: dict[str, str]) -> bytes:
    """The content of the file.

    Raises:
        ExportError: PyTorch cannot convert the policy.
    """
    import onnx

    module = _WithOutputs(DeterministicPolicy(loaded.policy, loaded.action_space)).eval()
    example = tuple(torch.from_numpy(array) for array in _parts(loaded, names, rows=3))
    any_number = torch.export.Dim("N")
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                example,
                input_names=list(names.inputs),
                output_names=[*names.outputs, OUTPUTS],
                dynamic_shapes=(tuple({0: any_number} for _ in example),),
                external_data=False,
                verbose=False,
            )
            model = program.model_proto if program is not None else None
    except Exception as error:  # the layers of a custom encoder are the user's code
        raise ExportError(f"the policy cannot be exported: {_first_line(error)}") from error
    assert model is not None
    if not all(found.type.tensor_type.shape.dim[0].dim_param for found in model.graph.input):
        # The exporter makes a constant of what it cannot follow, without a word.
        raise ExportError(
            "the policy cannot be exported for any number of observations: its encoder makes a constant of "
            "their number, as len(obs) does; obs.shape[0] does not"
        )
    _forget_this_machine(model.graph)
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "prl", metadata["prl"]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _forget_this_machine(graph: Any) -> None:
    """Remove what the exporter notes of each node: lines of code with paths of this machine."""
    graph.ClearField("doc_string")
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _metadata(run: str | os.PathLike[str], loaded: LoadedPolicy, names: Names) -> dict[str, str]:
    def described(parts: dict[str, Leaf]) -> str:
        about = {
            name: {"path": list(leaf.path), "space": " ".join(str(leaf.space).split())}
            for name, leaf in parts.items()
        }
        return json.dumps(about)

    here = versions(("prl", "torch", "onnx"))
    return {
        **{name: here.get(name, "") for name in ("prl", "torch", "onnx")},
        "env_id": load_network_config(run).env_id,
        "weights_sha256": weights_sha256(loaded.policy),
        "inputs": described(names.inputs),
        "outputs": described(names.outputs),
        "observation_space": json.dumps(encode(loaded.observation_space)),
        "action_space": json.dumps(encode(loaded.action_space)),
    }


def _parts(loaded: LoadedPolicy, names: Names, rows: int) -> list[Array]:
    """Plausible observations, leaf by leaf."""
    drawn = plausible_rows(loaded.policy, loaded.observation_space, rows)
    if not is_composite(loaded.observation_space):
        return [drawn]
    return [leaf.read(drawn) for leaf in names.inputs.values()]


def _verified(content: bytes, loaded: LoadedPolicy, names: Names) -> float:
    """The largest error of a file's answers.

    Raises:
        ExportError: they are not those of the policy.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return max(_error(session, loaded, names, rows) for rows in BATCHES)


def _error(session: Any, loaded: LoadedPolicy, names: Names, rows: int) -> float:
    observed = _parts(loaded, names, rows)
    try:
        *actions, outputs = session.run(None, dict(zip(names.inputs, observed, strict=True)))
    except Exception as error:  # onnxruntime has a class of exceptions for each kind of failure
        raise ExportError(f"the exported file fails for {rows} observations: {_first_line(error)}") from error
    with torch.no_grad():
        policy = DeterministicPolicy(loaded.policy, loaded.action_space)
        wanted_outputs = policy.outputs([torch.from_numpy(part) for part in observed]).numpy()
    # Choices are compared for the file's own outputs: in a tie, rounding decides.
    wanted = _env_actions(loaded, outputs)
    errors = [_distance(outputs, wanted_outputs), *map(_distance, actions, wanted)]
    if not max(errors) <= TOLERANCE:
        raise ExportError(
            f"the exported file is wrong: its answers to {rows} observations differ by {max(errors):.2g}, "
            f"which is more than {TOLERANCE:g}"
        )
    return max(errors)


def _env_actions(loaded: LoadedPolicy, outputs: Array) -> list[Array]:
    """The env actions for the actor's outputs f32[G, K], leaf by leaf: as those that play compute them."""
    head = loaded.policy.head
    rows = head.to_env(head.mode(outputs))
    return [leaf.read(rows) for leaf in leaves(loaded.action_space)] if _is_nested(loaded) else [rows]


def _is_nested(loaded: LoadedPolicy) -> bool:
    return is_composite(loaded.action_space)


def _distance(found: Array, wanted: Array) -> float:
    """The largest error, absolute or relative; infinite for another shape or another choice."""
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    difference = np.abs(found.astype(np.float64) - wanted) / np.maximum(1.0, np.abs(wanted))
    return float(difference.max(initial=0.0))


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{_INSTALL} ({one_line(error)})") from error


def _first_line(error: BaseException) -> str:
    """The cause, without the pages of advice that follow it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own progress, which are no concern of the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
