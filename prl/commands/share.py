"""Write a folder to give away: a trained policy with its settings, an evaluation, a video and a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.settings import ConfigError, Rule, check
from prl.commands.command import Command
from prl.commands.play import summary_of
from prl.run.playing import Play
from prl.run.share import share


@dataclass(frozen=True)
class ShareConfig:
    """Evaluate a trained policy and write a folder that others can play, as the Hugging Face hub has them.

    Attributes:
        run: folder of the run.
        out: the new folder.
        best: take the best policy of the run's evaluations (eval_freq), not the last one.
        episodes: number of episodes of the evaluation.
        seed: seed of these episodes.
        deterministic: evaluate the most likely actions instead of drawing them.
        video: film the first episode, if the environment can be filmed.
        onnx: add the policy as an ONNX file.
        env_id: evaluate in another env with the same spaces, or in that of the training under an id that is
            known here; null takes the id of the training.

    Raises:
        ConfigError: a value is out of range.
    """

    run: Path
    out: Path | None = None
    best: bool = False
    episodes: int = 100
    seed: int = 1_000_000
    deterministic: bool = True
    video: bool = True
    onnx: bool = False
    env_id: str | None = None

    def __post_init__(self) -> None:
        check(self, _RULES)
        if self.out is None:
            raise ConfigError("out is required: the folder to write, e.g. --out shared/ppo-CartPole-v1")


_RULES: tuple[Rule, ...] = (
    ("episodes", lambda v: v >= 1, "at least 1"),
    ("seed", lambda v: v >= 0, "0 or more"),
)


def _share(config: ShareConfig) -> None:
    assert config.out is not None
    play = Play(
        *(config.run, config.best, config.episodes, config.seed, config.deterministic), env_id=config.env_id
    )
    shared = share(play, config.out, video=config.video, onnx=config.onnx, log=print)
    print(summary_of(shared.episodes))
    print(f"written to {shared.path}: {', '.join(shared.files)}")
    print(f"play it with: prl play {shared.path}{shared.play_flags}")
    print(f"upload it with: hf upload USER/{shared.repository} {shared.path}")


COMMAND = Command(ShareConfig, _share, positional="run")
