"""Running means of what an update measures."""

from __future__ import annotations

from learner.gradient_step import Number, StepStatistics


class Meter:
    """Running means of the statistics of one update's minibatches, read when the update is over.

    Attributes:
        steps: minibatches so far.
        initial_ratio_error: the largest |ratio - 1| of the first one, to the weights that acted.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.initial_ratio_error: Number = 0.0
        self._sums: list[Number] = [0.0] * len(StepStatistics._fields)

    def add(self, found: StepStatistics) -> None:
        """Count one minibatch."""
        self.steps += 1
        self._sums = [total + value for total, value in zip(self._sums, found, strict=True)]

    def means(self) -> dict[str, float]:
        """Metrics by name."""
        policy_loss, value_loss, entropy, approx_kl, clip_fraction, _ = [
            float(total) / self.steps for total in self._sums
        ]
        return {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy_loss": -entropy,
            "approx_kl": approx_kl,
            "clip_fraction": clip_fraction,
            "minibatches": float(self.steps),
            "initial_ratio_error": float(self.initial_ratio_error),
        }
