"""The commands: parse, call, and end every error in one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from learner.ppo import NonFiniteError
from learner.settings import ConfigError
from prl.arguments import parse
from prl.benchmark import BenchmarkConfig, benchmark, format_table
from prl.config import TrainConfig
from prl.evaluate import PlayConfig, play
from prl.run import train
from prl.stopping import Stopped
from prl.weights import WeightsError
from workers.errors import EnvError, WorkerError

_BAD_INPUT = 2
_FAILED = 1


def train_main(argv: Sequence[str] | None = None) -> int:
    """`prl-train`, `scripts/train.py`. Returns the exit code."""
    return _guarded("train", _train, argv)


def play_main(argv: Sequence[str] | None = None) -> int:
    """`prl-play`, `scripts/play.py`. Returns the exit code."""
    return _guarded("play", _play, argv)


def benchmark_main(argv: Sequence[str] | None = None) -> int:
    """`prl-benchmark`, `scripts/benchmark.py`. Returns the exit code."""
    return _guarded("benchmark", _benchmark, argv)


def _guarded(name: str, command: Callable[[Sequence[str]], None], argv: Sequence[str] | None) -> int:
    """Bad input: one line, exit code 2. A failed worker: one line and the child's traceback, exit code 1."""
    try:
        command(sys.argv[1:] if argv is None else argv)
    except (ConfigError, EnvError, WeightsError) as error:
        _complain(name, error, getattr(error, "traceback", ""))
        return _BAD_INPUT
    except (WorkerError, NonFiniteError) as error:
        _complain(name, error, getattr(error, "traceback", ""))
        return _FAILED
    except Stopped as stop:
        _complain(name, stop)
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return _FAILED
    return 0


def _complain(name: str, error: BaseException, traceback: str = "") -> None:
    print(f"{name}: {error}", file=sys.stderr)
    if traceback:
        print(traceback.rstrip(), file=sys.stderr)


def _train(argv: Sequence[str]) -> None:
    config = parse(TrainConfig, argv, prog="train.py")
    summary = train(config)
    print(
        f"{summary['env_id']}: {summary['timesteps']:,} steps in {summary['wall_seconds']:.1f} s "
        f"({summary['steps_per_second']:,.0f} steps/s), {summary['episodes']:,} episodes, "
        f"mean return {summary['mean_return']:.1f}"
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
