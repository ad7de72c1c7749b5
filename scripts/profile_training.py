"""Where the time of training goes, in microseconds per env step.

    python scripts/profile_training.py --env-id CartPole-v1 --num-workers 2 --acting worker --overlap

All flags of `prl train` apply. Nothing is written. The first half of the time gives the phases (the metrics
`time/*_share`) and what players spend, undisturbed; in the second half cProfile watches the learner, which
slows it down: read the order and the proportions of its functions.
"""

import contextlib
import copy
import cProfile
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prl.config.command_line import parse
from prl.config.train_config import ConfigError, TrainConfig
from prl.run import build
from prl.run.signals import Stopped, stop_on_signals
from prl.training.group_round import PlayingTime
from prl.training.players import Players
from prl.training.trainer import Report, Trainer
from prl.training.worker_players import WorkerPlayers

PHASES = ("env", "act", "store", "wait", "update", "other")
ENDLESS = 1 << 62


@dataclass(frozen=True)
class ProfileConfig(TrainConfig):
    """Show where the time of training goes. All flags of prl train apply.

    Attributes:
        seconds: of training, half of it under cProfile.
        functions: of the learner to list, those that take the most time themselves.
    """

    seconds: float = 10.0
    functions: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.seconds > 0 and self.functions >= 1):
            raise ConfigError("seconds must be a positive number, and functions at least 1")
        if "auto" in (self.num_envs, self.num_workers):
            raise ConfigError("num_envs and num_workers must be numbers here; prl tune-speed measures them")


@contextlib.contextmanager
def training(config: ProfileConfig) -> Iterator[tuple[Trainer, Players]]:
    """The trainer of a config, and its players."""
    factory = build.build_factory(config)
    device = build.pick_device(config.device)
    policy = build.build_policy(factory, config).to(device)
    with build.reproducible(config.torch_threads, device), stop_on_signals():
        kit = build.players_of(config, policy)
        with build.build_pool(config, factory, config.envs, kit) as pool:
            players = build.build_players(pool, kit)
            yield (
                Trainer(
                    pool,
                    build.build_learner(policy, config),
                    batch_size=config.batch_size,
                    total_timesteps=ENDLESS,
                    seed=config.seed,
                    num_groups=config.groups,
                    num_steps=config.num_steps if config.rollout == "steps" else None,
                    overlap=config.overlap,
                    players=players,
                ),
                players,
            )


@dataclass(frozen=True)
class Watched:
    """Training for some time.

    Attributes:
        steps: of envs.
        end: timesteps of the run by now.
        seconds: on the clock.
        phases: seconds of each.
        playing: seconds that all players have spent.
    """

    steps: int
    end: int
    seconds: float
    phases: dict[str, float]
    playing: PlayingTime


def watch(reports: Iterator[Report], players: Players, start: int, seconds: float) -> Watched:
    """Train for some time, from so many timesteps on."""
    playing = copy.copy(players.seconds)
    phases = dict.fromkeys(PHASES, 0.0)
    began, before = time.perf_counter(), start
    for report in reports:
        duration = (report.timesteps - before) / report.metrics["time/iteration_fps"]
        before = report.timesteps
        for name in PHASES:
            phases[name] += report.metrics[f"time/{name}_share"] * duration
        if time.perf_counter() - began >= seconds:
            break
    return Watched(before - start, before, time.perf_counter() - began, phases, players.seconds - playing)


def print_phases(config: ProfileConfig, players: Players, seen: Watched) -> None:
    """The table of phases, and what players spend per env step."""
    workers, in_workers = players.pool.num_workers, isinstance(players, WorkerPlayers)
    print(
        f"{config.env_id}, {config.envs} envs, {workers} workers, "
        f"{'workers act' if in_workers else 'the learner acts'}, "
        f"{'overlapped' if config.overlap else 'not overlapped'}: "
        f"{seen.steps:,} steps in {seen.seconds:.1f} s, {seen.steps / seen.seconds:,.0f} steps/s\n"
    )
    print("| phase | us per env step | share |\n|---|---|---|")
    total = sum(seen.phases.values())
    for name, spent in (*seen.phases.items(), ("all", total)):
        print(f"| {name} | {spent / seen.steps * 1e6:.2f} | {spent / total:.1%} |")
    playing, processes = seen.playing, players.num_processes
    idle = processes * seen.seconds - playing.pool - playing.act - playing.store
    rows = {
        "env" if in_workers or not workers else "wait for workers": playing.pool,
        "act": playing.act,
        "store": playing.store,
        "idle, or not playing": idle,
    }
    print(f"\n| time of {processes} playing process{'es' * (processes > 1)} | us per env step |\n|---|---|")
    for name, spent in rows.items():
        print(f"| {name} | {spent / seen.steps * 1e6:.2f} |")


def print_functions(profile: cProfile.Profile, seen: Watched, slower: float, count: int) -> None:
    """The functions of the learner's process that take most time themselves; calls per 1,000 env steps."""
    print(f"\n| the learner, {slower:.1f} times slower under cProfile | calls/1,000 | own us | total us |")
    print("|---|---|---|---|")
    profile.create_stats()
    functions = sorted(profile.stats.items(), key=lambda item: -item[1][2])
    for (file, line, name), (_, calls, own, total, _) in functions[:count]:
        where = name if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {name}"
        numbers = (calls * 1e3, own * 1e6, total * 1e6)
        print(f"| {where} |", " | ".join(f"{number / seen.steps:.2f}" for number in numbers), "|")


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    try:
        config = parse(ProfileConfig, argv, prog="profile_training.py")
        with training(config) as (trainer, players):
            reports = trainer.iterations()
            start = next(reports).timesteps  # processes start, caches fill
            undisturbed = watch(reports, players, start, config.seconds / 2)
            print_phases(config, players, undisturbed)
            with cProfile.Profile() as profile:
                profiled = watch(reports, players, undisturbed.end, config.seconds / 2)
            slower = profiled.seconds / profiled.steps / (undisturbed.seconds / undisturbed.steps)
            print_functions(profile, profiled, slower, config.functions)
    except ValueError as error:  # wrong settings, unusable envs
        print(f"profile_training: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"profile_training: {stop}", file=sys.stderr)
        return stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
