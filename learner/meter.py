"""Running means of what an update measures."""

from __future__ import annotations

from learner.gradient_step import StepStatistics


class Meter:
    """Running means of the statistics of one update's minibatches.

    Attributes:
        steps: minibatches so far.
        skipped: of these, how many made no step, because their gradient was not finite.
        initial_ratio_error: the largest |ratio - 1| of the first one, to the weights that acted.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.skipped = 0
        self.initial_ratio_error = 0.0
        self._sums = [0.0] * len(StepStatistics._fields)

    def add(self, found: StepStatistics) -> None:
        """Count one minibatch."""
        self.steps += 1
        self._sums = [total + value for total, value in zip(self._sums, found, strict=True)]

    def means(self) -> dict[str, float]:
        """Metrics by name."""
        means = StepStatistics(*(total / self.steps for total in self._sums))
        return {
            "policy_loss": means.policy_loss,
            "value_loss": means.value_loss,
            "entropy_loss": -means.entropy,
            "approx_kl": means.approx_kl,
            "clip_fraction": means.clip_fraction,
            "minibatches": float(self.steps),
            "skipped_minibatches": float(self.skipped),
            "initial_ratio_error": self.initial_ratio_error,
        }
