"""A folder to give away: a policy with its settings, an evaluation of it, a video and a card."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from learner.settings import ConfigError
from prl.run.export import export_onnx
from prl.run.files import write_folder
from prl.run.loaded_policy import LoadedPolicy, load
from prl.run.model_card import Card
from prl.run.out_path import check_parent
from prl.run.playing import Play, play_episodes
from prl.run.run_files import load_network_config, weights_of
from prl.run.run_folder import BEST
from prl.run.weights import WEIGHTS_FILE, weights_sha256
from prl.training.evaluate import Episode, success_rate
from workers.errors import EnvError

_COPIED = ("config.yaml", "versions.json", "progress.csv", "evaluations.csv")
_GIT_ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in ("*.safetensors", "*.mp4", "*.onnx")
)


@dataclass(frozen=True)
class Shared:
    """What was written.

    Attributes:
        path: of the folder.
        episodes: the evaluation.
        files: in the folder.
        repository: the usual name of a repository for it.
        play_flags: what `prl play` has to be told to play it; "" if nothing.
    """

    path: Path
    episodes: list[Episode]
    files: list[str]
    repository: str
    play_flags: str


def share(
    play: Play,
    out: Path,
    *,
    video: bool = True,
    onnx: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Shared:
    """Evaluate the policy of a run and write a folder that others can play. Nothing is sent anywhere.

    Args:
        play: the run, and the evaluation.
        out: the folder; it must not exist, or be empty.
        video: film the first episode, if the env can be filmed.
        onnx: add the policy as an ONNX file (`prl.run.export`).
        log: called with a line if there is no video.

    Raises:
        ConfigError: `out` holds something, or cannot be made; the folder is not that of a run, or has no best
            policy; see `export_onnx`.
        EnvError, WorkerEnvFailed, WeightsError, NonFiniteError: see `play_episodes`.
        WriteError: the folder cannot be written; nothing is left of it.
    """
    run, out = Path(play.run).absolute(), out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"out {out} exists already; choose another folder or remove it")
    check_parent(out)
    loaded = load(run, play.best)
    files: dict[str, bytes] = {"policy.onnx": _onnx(run, play.best)} if onnx else {}
    episodes = list(play_episodes(play))
    if video and (film := _film(play, log)) is not None:
        files["replay.mp4"] = film
    files |= {name: (run / name).read_bytes() for name in _COPIED if (run / name).is_file()}
    files |= _described(run, play, loaded, episodes)
    card = _card(files, loaded)
    files |= {"README.md": card.text().encode(), ".gitattributes": _GIT_ATTRIBUTES.encode()}
    if out.is_dir():
        out.rmdir()
    write_folder(out, files)
    return Shared(out, episodes, sorted(files), card.repository, card.play_flags)


def _described(run: Path, play: Play, loaded: LoadedPolicy, episodes: Sequence[Episode]) -> dict[str, bytes]:
    """The weights, and what is said about them."""
    config = load_network_config(run)
    results = _results(play, episodes, play.env_id or config.env_id)
    about = {
        "library_name": "prl",
        "algorithm": "PPO",
        "env_id": config.env_id,
        "encoder": config.encoder,
        "timesteps": _steps(run, play.best),
        "weights_sha256": weights_sha256(loaded.policy),
    }
    return {
        WEIGHTS_FILE: (weights_of(run, play.best) / WEIGHTS_FILE).read_bytes(),
        "spaces.json": loaded.spaces.to_json().encode(),
        "results.json": _json(results),
        "config.json": _json(about),
    }


def _results(play: Play, episodes: Sequence[Episode], env_id: str) -> dict[str, Any]:
    returns = np.array([episode.episode_return for episode in episodes])
    rate = success_rate(episodes)
    return {
        "env_id": env_id,
        "mean_reward": float(returns.mean()),
        "std_reward": float(returns.std()),
        "min_reward": float(returns.min()),
        "max_reward": float(returns.max()),
        "mean_length": float(np.mean([episode.length for episode in episodes])),
        **({} if rate is None else {"success_rate": rate}),
        "is_deterministic": play.deterministic,
        "n_eval_episodes": len(episodes),
        "eval_datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": play.seed,
        "returns": returns.tolist(),
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _card(files: dict[str, bytes], loaded: LoadedPolicy) -> Card:
    """The card of the files that it stands beside."""
    about = json.loads(files["config.json"])
    versions = _versions(files.get("versions.json", b""))
    return Card(
        env_id=about["env_id"],
        results=json.loads(files["results.json"]),
        files=list(files),
        steps=about["timesteps"],
        encoder=about["encoder"],
        versions={name: str(versions[name]) for name in ("prl", "torch", "gymnasium") if name in versions},
        has_env_id=loaded.spaces.has_env_id,
        mask_from_info=loaded.spaces.mask_from_info,
    )


def _versions(text: bytes) -> dict[str, Any]:
    """What versions.json says; nothing if it is not there or damaged."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def _steps(run: Path, best: bool) -> int | None:
    """The steps of training that a policy has had; None if the run, or the shared folder, does not say."""
    file = run / BEST / "evaluation.json" if best else run / "summary.json"
    try:
        return int(json.loads((file if file.is_file() else run / "config.json").read_bytes())["timesteps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _onnx(run: str | os.PathLike[str], best: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(run, Path(folder) / "policy.onnx", best).path.read_bytes()


def _film(play: Play, log: Callable[[str], None]) -> bytes | None:
    """A video of the first episode; None if there cannot be one."""
    with tempfile.TemporaryDirectory() as folder:
        filmed = Play(**{**vars(play), "episodes": 1, "video": Path(folder)})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Gymnasium's, about what it films
                list(play_episodes(filmed))
        except EnvError as error:
            log(f"no video: {error}")
            return None
        found = sorted(Path(folder).glob("*.mp4"))
        return found[0].read_bytes() if found else None
