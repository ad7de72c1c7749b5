"""What the commands do: parse, call, and end every error in one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from learner.policy import NoLegalAction
from learner.ppo import NonFiniteError
from learner.settings import ConfigError
from prl.arguments import parse
from prl.benchmark import BenchmarkConfig, benchmark, format_table
from prl.config import TrainConfig, idle_settings
from prl.play import PlayConfig, play
from prl.preset import find_preset
from prl.run import train
from prl.stopping import Stopped
from prl.weights import WeightsError
from workers.errors import EnvError, WorkerError

_BAD_INPUT = 2
_FAILED = 1


def run(name: str, argv: Sequence[str]) -> int:
    """Do the command `name`. Returns the exit code.

    Bad input ends in one line and code 2; what fails later in one line, the env's traceback if there is
    one, and code 1.
    """
    try:
        _COMMANDS[name](argv)
    except (ConfigError, EnvError, WeightsError) as error:
        _say(name, error, getattr(error, "traceback", ""))
        return _BAD_INPUT
    except (WorkerError, NonFiniteError, NoLegalAction) as error:
        _say(name, error, getattr(error, "traceback", ""))
        return _FAILED
    except Stopped as stop:
        _say(name, stop)
        return stop.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return _FAILED
    return 0


def _say(name: str, line: object, traceback: str = "") -> None:
    print(f"{name}: {line}", file=sys.stderr)
    if traceback:
        print(traceback.rstrip(), file=sys.stderr)


def _train(argv: Sequence[str]) -> None:
    config = parse(TrainConfig, argv, prog="train.py")
    preset = find_preset(config.env_id, config.preset)
    in_force = [] if preset is None else [preset.in_force(config)]
    notes = [str(left) for left in in_force if left.settings]
    from_preset = {name for left in in_force for name in left.settings}  # not the user's, so no surprise
    notes += [
        f"{name} has no effect without {needed}"
        for name, needed in idle_settings(config)
        if name not in from_preset
    ]
    summary = train(config, notes, lambda line: _say("train", line))
    mean = summary["mean_return"]
    print(
        f"{summary['env_id']}: {summary['timesteps']:,} steps in {summary['wall_seconds']:.1f} s "
        f"({summary['steps_per_second']:,.0f} steps/s), {summary['episodes']:,} episodes, "
        + ("none has ended" if mean is None else f"mean return {mean:.1f}")
    )


def _play(argv: Sequence[str]) -> None:
    config = parse(PlayConfig, argv, prog="play.py", positional="run")
    returns = []
    for number, episode in enumerate(play(config)):
        returns.append(episode.episode_return)
        print(f"episode {number}: return {episode.episode_return:.2f}, {episode.length} steps", flush=True)
    print(f"mean return {sum(returns) / len(returns):.2f} over {len(returns)} episodes")


def _benchmark(argv: Sequence[str]) -> None:
    print(format_table(benchmark(parse(BenchmarkConfig, argv, prog="benchmark.py"))))


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": _train,
    "play": _play,
    "benchmark": _benchmark,
}
