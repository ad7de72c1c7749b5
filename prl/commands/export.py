"""Write a trained policy as an ONNX file, which needs neither prl nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prl.commands.command import Command
from prl.run.export import BATCHES, TOLERANCE, export_onnx


@dataclass(frozen=True)
class ExportConfig:
    """Write the policy of a run as one ONNX file: observations in, actions for the environment out.

    Attributes:
        run: folder of the run, or one that prl share wrote.
        best: take the best policy of the run's evaluations (eval_freq), not the last one.
        out: the file; an older one is replaced.
    """

    run: Path
    best: bool = False
    out: Path = Path("policy.onnx")


def _export(config: ExportConfig) -> None:
    exported = export_onnx(config.run, config.out, config.best)
    for what, parts in (("inputs", exported.inputs), ("outputs", exported.outputs)):
        print(f"{what}: " + ", ".join(f"{name} {form}" for name, form in parts.items()))
    batches = ", ".join(map(str, BATCHES[:-1])) + f" and {BATCHES[-1]}"
    error = f"largest error {exported.max_error:.1g}, allowed {TOLERANCE:g}"
    print(f"compared with the policy for {batches} observations: {error}")
    print(f"written to {exported.path}")


COMMAND = Command(ExportConfig, _export, positional="run")
