"""Running means of what an update measures."""

from __future__ import annotations


class Meter:
    """Running means of the metrics of one update."""

    def __init__(self) -> None:
        self.steps = 0
        self.skipped = 0
        self.initial_ratio_error = 0.0
        self._sums: dict[str, float] = {}

    def add(self, **values: float) -> None:
        self.steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        means = {name: total / self.steps for name, total in self._sums.items()}
        return means | {
            "minibatches": float(self.steps),
            "skipped_minibatches": float(self.skipped),
            "initial_ratio_error": self.initial_ratio_error,
        }
