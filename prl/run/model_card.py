"""The card of a shared policy: README.md with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        env_id: of the env that it was trained on.
        results: as in results.json; they may be of another env with the same spaces.
        files: that lie beside the card.
        steps: of the training; None if that is not known.
        encoder: custom one, as module:Class; None if there is none.
        versions: of the packages of the training.
        has_env_id: whether `env_id` is one that another process knows.
        mask_from_info: whether `predict` needs the mask of legal actions as an argument.
    """

    env_id: str
    results: Mapping[str, Any]
    files: Sequence[str]
    steps: int | None
    encoder: str | None
    versions: Mapping[str, str]
    has_env_id: bool = True
    mask_from_info: bool = False

    def text(self) -> str:
        """README.md."""
        parts = [
            f"---\n{yaml.safe_dump(self._front_matter(), sort_keys=False, allow_unicode=True)}---\n",
            f"# PPO playing {self._played}\n",
            self._about(),
            self._results(),
            self._usage(),
            self._files(),
        ]
        return "\n".join(parts)

    @property
    def repository(self) -> str:
        """The usual name of a repository for such a policy."""
        return f"ppo-{self._played.rpartition(':')[2].replace('/', '-')}"

    @property
    def play_flags(self) -> str:
        """What `prl play` has to be told to play in the env of the evaluation; "" if nothing."""
        return "" if self._played == self.env_id else f" --env-id {self._played}"

    @property
    def _played(self) -> str:
        return str(self.results.get("env_id", self.env_id))

    def _score(self) -> str:
        return f"{self.results['mean_reward']:.2f} +/- {self.results['std_reward']:.2f}"

    def _front_matter(self) -> dict[str, Any]:
        metric = {"type": "mean_reward", "value": self._score(), "name": "mean_reward", "verified": False}
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {"task": task, "dataset": {"name": self._played, "type": self._played}, "metrics": [metric]}
        return {
            "library_name": "prl",
            "tags": [
                self._played.rpartition(":")[2],
                "deep-reinforcement-learning",
                "reinforcement-learning",
                "prl",
            ],
            "model-index": [{"name": "PPO", "results": [result]}],
        }

    def _about(self) -> str:
        trained = "" if self.steps is None else f" for {self.steps:,} steps"
        lines = [f"A policy that prl trained with PPO on `{self.env_id}`{trained}."]
        if self.play_flags:
            lines.append(f"It was evaluated in `{self._played}`.")
        if self.encoder is not None:
            lines.append(f"Its encoder is `{self.encoder}`, whose code is not part of this folder.")
        if "replay.mp4" in self.files:
            lines.append("`replay.mp4` shows the first episode of the evaluation.")
        return "\n".join(lines) + "\n"

    def _results(self) -> str:
        results = self.results
        kind = "most likely" if results["is_deterministic"] else "drawn"
        rate = results.get("success_rate")
        rows = [
            ("mean return", self._score()),
            ("lowest, highest", f"{results['min_reward']:.2f}, {results['max_reward']:.2f}"),
            ("mean length", f"{results['mean_length']:.1f} steps"),
            *([] if rate is None else [("success rate", f"{100.0 * rate:.0f} %")]),
            ("episodes", f"{results['n_eval_episodes']}, with the {kind} actions"),
            ("seeds", f"`prl.episode_seed({results['seed']}, 0, k)` for episode k"),
        ]
        table = "\n".join(f"| {name} | {value} |" for name, value in rows)
        return f"## Evaluation\n\n| | |\n|---|---|\n{table}\n"

    def _usage(self) -> str:
        episodes, seed = self.results["n_eval_episodes"], self.results["seed"]
        again = "\nTraining again: `prl train --config config.yaml`.\n" if self.has_env_id else ""
        mask = ', action_mask=info["action_mask"]' if self.mask_from_info else ""
        drawn = "" if self.results["is_deterministic"] else " --no-deterministic"
        return (
            "## Usage\n\nThe evaluation again, in the folder of this file:\n\n"
            f"```bash\nprl play . --episodes {episodes} --seed {seed}{drawn}{self.play_flags}\n```\n\n"
            "In Python:\n\n```python\nimport prl\n\n"
            f'policy = prl.load(".")\naction = policy.predict(observation{mask})\n```\n{again}'
        )

    def _files(self) -> str:
        named = [name for name in _FILES if name in self.files]
        lines = [f"| `{name}` | {_FILES[name]} |" for name in named]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join(["## Files\n", "| | |\n|---|---|", *lines, f"\nTrained with {versions}.\n"])


_FILES = {
    "policy.safetensors": "the weights, and the statistics of the normaliser: numbers and nothing else",
    "config.yaml": "every setting of the training",
    "spaces.json": "what the policy takes and gives",
    "results.json": "the evaluation, with the return of every episode",
    "config.json": "what this is, for programs",
    "versions.json": "versions of the training's packages, and a fingerprint of its machine's arithmetic",
    "progress.csv": "metrics of the training, update by update",
    "evaluations.csv": "evaluations during the training",
    "policy.onnx": "the policy for onnxruntime and others, without prl and PyTorch",
    "replay.mp4": "the first episode of the evaluation",
}
"""The files of a shared folder, and what they are."""
