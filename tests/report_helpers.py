"""Run folders as reports find them, and pages as tests read them."""

import json
from html.parser import HTMLParser

import numpy as np

from prl.config.train_config import TrainConfig, to_yaml
from prl.report.page import report_page
from prl.report.reading import read_runs

_VOID = {"br", "hr", "meta"}


def csv_text(columns):
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(f"{value:.8g}" for value in row) for row in rows)]) + "\n"


def progress(seed=0, updates=30):
    steps = 1000.0 * np.arange(1, updates + 1)
    draws = np.random.default_rng(seed)
    return {
        "rollout/ep_rew_mean": 100.0 + steps / 100.0 + draws.normal(size=updates),
        "rollout/ep_len_mean": 100.0 + steps / 100.0,
        "time/total_timesteps": steps,
        "time/fps": np.full(updates, 5000.0 + seed),
        "time/iteration_fps": np.full(updates, 5000.0) + draws.normal(size=updates),
        **{f"time/{name}_share": np.full(updates, 0.25) for name in ("env", "act", "wait", "update")},
        **{f"time/{name}_share": np.zeros(updates) for name in ("store", "other")},
        "train/approx_kl": 0.01 + 1e-3 * draws.normal(size=updates),
        "train/value_loss": 1000.0 / steps**1.5,
        "train/clip_range": np.full(updates, 0.2),
        "train/initial_ratio_error": np.full(updates, 1e-7) * draws.uniform(size=updates),
    }


def evaluations(seed=0):
    returns = np.array([120.0, 300.0, 250.0]) + seed
    return {
        "eval/timesteps": np.array([10_000.0, 20_000.0, 30_000.0]),
        "eval/mean_reward": returns,
        "eval/std_reward": np.array([9.0, 8.0, 7.5]),
        "eval/episodes": np.full(3, 20.0),
    }


def run_folder(path, seed=0, evaluated=True, status="finished", extra=None, settings=None, command=""):
    """A run of 30,000 steps."""
    path.mkdir(parents=True)
    (path / "progress.csv").write_text(csv_text(progress(seed) | (extra or {})))
    config = TrainConfig(**({"env_id": "CartPole-v1", "seed": seed, "eval_freq": 10_000} | (settings or {})))
    (path / "config.yaml").write_text(to_yaml(config))
    (path / "command.txt").write_text((command or f"/opt/bin/python /opt/bin/prl train --seed {seed}") + "\n")
    (path / "versions.json").write_text(json.dumps({"python": "3.11.7", "torch": f"2.1{seed % 2}.0"}))
    if evaluated:
        (path / "evaluations.csv").write_text(csv_text(evaluations(seed)))
    if status is not None:
        about = {"status": status, "env_id": "CartPole-v1", "seed": seed, "wall_seconds": 65.0}
        (path / "summary.json").write_text(json.dumps(about | {"weights_sha256": f"{seed:064x}"}))
    return path


def runs_in(folder, count=5, **options):
    return [run_folder(folder / f"seed{seed}", seed, **options) for seed in range(count)]


def page_of(*folders, **options):
    return report_page(read_runs(folders), **options)


class _Checker(HTMLParser):
    """Collects elements and text, and fails on an end tag that closes something else."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)


def checked(page):
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    return checker


def text_of(page):
    return " ".join(" ".join(checked(page).texts).split()).replace("\N{NO-BREAK SPACE}", " ")
