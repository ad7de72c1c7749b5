"""Masks of illegal actions."""

from __future__ import annotations

from torch import Tensor

_ILLEGAL = -1e8  # exp of it is exactly 0, but, unlike -inf, 0 times it is not NaN


def mask_outputs(outputs: Tensor, mask: Tensor) -> Tensor:
    """Outputs with which illegal choices have probability 0, for the methods of a head that is `maskable`.

    The result is the distribution over the legal choices: their probabilities, divided by their sum. It is
    finite, and so is every gradient; the gradient of an illegal output is 0 (Huang and Ontañón 2020, "A
    closer look at invalid action masking in policy gradient algorithms").

    Args:
        outputs: f32[S, K].
        mask: bool[S, K], true where a choice is legal.

    Returns:
        f32[S, K].
    """
    return outputs.masked_fill(~mask, _ILLEGAL)
