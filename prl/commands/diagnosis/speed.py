"""How fast a run would be, and with what: measured in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prl.config.train_config import TrainConfig
from prl.run.build import build_factory
from prl.run.tune import Costs, Rates
from prl.run.tune_choice import tune
from workers.exam_checks import duration
from workers.findings import Finding, error, ok
from workers.probe import ProbeEnded, Tell, watched


@dataclass(frozen=True)
class Measurement:
    """The job: `prl.run.tune_choice.tune`. Implements `workers.probe.Job`.

    Attributes:
        config: of the run.
        seconds: of measuring.

    Its last message has the keys of `Chosen` and "costs"; those before it are signs of life.
    """

    config: TrainConfig
    seconds: float

    def run(self, tell: Tell) -> None:
        """See `Job.run`."""
        tell({})  # the imports are done

        def on_costs(costs: Costs) -> None:
            tell({})

        def on_rates(rates: Rates) -> None:
            tell({})

        found = tune(self.config, build_factory(self.config), self.seconds, on_costs, on_rates)
        chosen = found.choice.rates
        tell(
            {
                "costs": dataclasses.asdict(found.costs),
                "setup": dataclasses.asdict(chosen.setup),
                "collected": chosen.collected,
                "trained": chosen.trained,
                "reasons": found.choice.reasons,
            }
        )


@dataclass(frozen=True)
class Chosen:
    """What to take.

    Attributes:
        setup: num_workers, num_envs and acting.
        reasons: sentences.
        collected, trained: env steps per second.
    """

    setup: dict[str, Any]
    reasons: list[str]
    collected: float
    trained: float


def speed_findings(config: TrainConfig, seconds: float) -> Iterator[Finding | Chosen]:
    """A row, and what is to be taken.

    Args:
        config: what is "auto" in it is varied.
        seconds: of measuring; starting workers comes on top.
    """
    try:
        *_, message = watched(Measurement(config, seconds), config.start_timeout + seconds)
    except ProbeEnded as ended:
        yield error("speed", f"measuring failed: {ended}", printed=ended.printed, stack=ended.stack)
        return
    costs = message["costs"]
    yield Chosen(message["setup"], message["reasons"], message["collected"], message["trained"])
    yield ok(
        "speed",
        f"{message['trained']:,.0f} steps/s trained, {message['collected']:,.0f} collected; one choice of "
        f"actions for {costs['group']} envs takes {duration(costs['act'])}, the update "
        f"{duration(costs['update'])} per step",
        **costs,
        collected=message["collected"],
        trained=message["trained"],
    )
