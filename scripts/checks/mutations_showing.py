"""Mistakes in what runs say about themselves: success rates, infos, experiment trackers."""

from __future__ import annotations

from mutation import Mutation

_FINAL_INFOS = ("workers/test_final_infos.py",)
_INFOS = ("prl/test_episode_infos.py",)
_TRACKERS = ("prl/test_trackers.py",)

SHOWING = (
    Mutation(
        "infos: is_success is not looked at",
        "workers/final_infos.py",
        '("is_success", "success"), is_flag=True',
        '("success",), is_flag=True',
        _FINAL_INFOS,
    ),
    Mutation(
        "infos: half a success counts as one half",
        "workers/final_infos.py",
        "float(flag_of(value, key)) if self.is_flag else reward_of(value)",
        "reward_of(value)",
        _FINAL_INFOS,
    ),
    Mutation(
        "infos: an episode that says nothing has failed",
        "prl/training/episode_infos.py",
        "extend(values[np.isfinite(values)].tolist())",
        "extend(np.nan_to_num(values, posinf=0.0).tolist())",
        _INFOS,
    ),
    Mutation(
        "infos: means are over all episodes",
        "prl/training/episode_infos.py",
        "deque[float](maxlen=_RECENT_EPISODES)",
        "deque[float]()",
        _INFOS,
    ),
    Mutation(
        "infos: those of another env's episode",
        "prl/training/evaluate.py",
        "zip(env_ids[batch.ended].tolist(), batch.final_info, strict=True)",
        "zip(np.flatnonzero(batch.ended).tolist(), batch.final_info, strict=True)",
        _INFOS,
    ),
    Mutation(
        "infos: nothing is said of a key that no episode had",
        "prl/run/recorder.py",
        'warnings.warn(f"log_info {key}: no episode had it in its last info", stacklevel=2)',
        "str(key)",
        _INFOS,
    ),
    Mutation(
        "trackers: a failure is passed over in silence",
        "prl/run/background.py",
        'self._failure = f"failed and is left out: {describe(error)}"',
        "str(error)",
        _TRACKERS,
    ),
    Mutation(
        "trackers: a run that goes on is another run",
        "prl/run/tracker_tools.py",
        'return str(json.loads(path.read_text())["run"]) if path.exists() else None',
        "return None",
        _TRACKERS,
    ),
    Mutation(
        "trackers: MLflow gets rows again that it has",
        "prl/run/tracker_tools.py",
        "if any(metrics[name] <= last for name, last in self._seen.items() if name in metrics):",
        "if False:",
        _TRACKERS,
    ),
    Mutation(
        "trackers: what is not known is passed on as NaN",
        "prl/run/tracker_tools.py",
        "for name, value in metrics.items() if math.isfinite(value)}",
        "for name, value in metrics.items()}",
        _TRACKERS,
    ),
)
