"""Rows 6 to 8 and 12: PPO's losses and diagnostics, by value and by gradient."""

import math

import pytest
import torch

from learner.losses import approx_kl, clip_fraction, explained_variance, normalize, policy_loss, value_loss


def with_gradient(function, *inputs):
    """The value of function(x, ...) and its gradient by x, in float64."""
    tensors = [torch.tensor(x, dtype=torch.float64) for x in inputs]
    tensors[0].requires_grad_()
    value = function(*tensors)
    (gradient,) = torch.autograd.grad(value, tensors[0])
    return value.item(), gradient.tolist()


# ratio, advantage -> loss, its derivative by log ratio (-r A where the ratio may still move)
SURROGATE = [
    pytest.param(1.5, 2.0, -2.4, 0.0, id="good action, already likelier: clipped"),
    pytest.param(1.5, -2.0, 3.0, 3.0, id="bad action, likelier: pushed back"),
    pytest.param(0.5, 2.0, -1.0, -1.0, id="good action, less likely: pushed back"),
    pytest.param(0.5, -2.0, 1.6, 0.0, id="bad action, already less likely: clipped"),
    pytest.param(1.1, 2.0, -2.2, -2.2, id="inside, good"),
    pytest.param(0.9, -2.0, 1.8, 1.8, id="inside, bad"),
    pytest.param(1.0, 2.0, -2.0, -2.0, id="at the behaviour policy"),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), SURROGATE)
def test_clipped_surrogate(ratio, advantage, loss, gradient):
    found = with_gradient(lambda x, a: policy_loss(x, a, 0.2), [math.log(ratio)], [advantage])
    assert found == (pytest.approx(loss), [pytest.approx(gradient)])


def test_clipped_surrogate_is_a_mean_with_a_gradient_for_each_row():
    rows = [case.values for case in SURROGATE]
    log_ratios, advantages = [math.log(row[0]) for row in rows], [row[1] for row in rows]
    value, gradient = with_gradient(lambda x, a: policy_loss(x, a, 0.2), log_ratios, advantages)
    assert value == pytest.approx(sum(row[2] for row in rows) / len(rows))
    assert gradient == pytest.approx([row[3] / len(rows) for row in rows])


def test_the_surrogate_sends_no_gradient_into_advantages_of_clipped_rows_only():
    advantages = torch.tensor([2.0, 2.0], requires_grad=True)
    policy_loss(torch.tensor([math.log(1.5), 0.0]), advantages, 0.2).backward()
    assert advantages.grad.tolist() == pytest.approx([-0.6, -0.5])


def test_value_loss_is_half_the_mean_square():
    value, gradient = with_gradient(value_loss, [1.0, 3.0], [2.0, -1.0])
    assert value == pytest.approx(0.5 * (1.0 + 16.0) / 2.0)
    assert gradient == pytest.approx([-0.5, 2.0])


# value, return -> loss, derivative; the old value is 0 and the range 0.2
CLIPPED_VALUE = [
    pytest.param(0.5, 1.0, 0.32, 0.0, id="moved far towards the return: the clipped loss, no gradient"),
    pytest.param(-0.5, -1.0, 0.32, 0.0, id="the same, downwards"),
    pytest.param(-0.5, 1.0, 1.125, -1.5, id="moved far away: its own loss, pulled back"),
    pytest.param(0.5, -1.0, 1.125, 1.5, id="the same, upwards"),
    pytest.param(0.1, 1.0, 0.405, -0.9, id="inside the range: plain"),
    pytest.param(2.0, 0.5, 1.125, 1.5, id="moved through the return: its own loss"),
]


@pytest.mark.parametrize(("value", "target", "loss", "gradient"), CLIPPED_VALUE)
def test_value_clipping_takes_the_larger_loss(value, target, loss, gradient):
    found = with_gradient(lambda v, r, old: value_loss(v, r, old, 0.2), [value], [target], [0.0])
    assert found == (pytest.approx(loss), [pytest.approx(gradient)])


def test_value_clipping_chooses_row_by_row():
    rows = [case.values for case in CLIPPED_VALUE]
    values, returns = [row[0] for row in rows], [row[1] for row in rows]
    found, gradient = with_gradient(
        lambda v, r, old: value_loss(v, r, old, 0.2), values, returns, [0.0] * len(rows)
    )
    assert found == pytest.approx(sum(row[2] for row in rows) / len(rows))
    assert gradient == pytest.approx([row[3] / len(rows) for row in rows])


def test_value_clipping_is_relative_to_the_old_value():
    shifted = with_gradient(lambda v, r, old: value_loss(v, r, old, 0.2), [10.5], [11.0], [10.0])
    assert shifted == (pytest.approx(0.32), [pytest.approx(0.0)])


def test_value_clipping_needs_old_values():
    with pytest.raises(ValueError, match="old_values"):
        value_loss(torch.zeros(2), torch.zeros(2), None, 0.2)


def test_approx_kl_is_the_mean_of_r_minus_1_minus_log_r():
    ratios = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    expected = ((0.5 - 1 + math.log(2)) + 0.0 + (2 - 1 - math.log(2))) / 3
    assert approx_kl(ratios.log()).item() == pytest.approx(expected, rel=1e-12)


def test_approx_kl_estimates_the_divergence_of_old_from_new():
    old = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    new = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    # 10 rows in exactly the frequencies of the old policy
    rows = torch.tensor([0] * 7 + [1] * 2 + [2])
    kl = (old * (old / new).log()).sum().item()
    assert approx_kl((new / old).log()[rows]).item() == pytest.approx(kl, rel=1e-12)


def test_approx_kl_of_tiny_changes_is_not_lost_in_rounding():
    assert approx_kl(torch.tensor([1e-3, -1e-3])).item() == pytest.approx(5e-7, rel=0.1)
    assert approx_kl(torch.linspace(-3.0, 3.0, 101)).item() > 0.0
    assert approx_kl(torch.zeros(5)).item() == 0.0


def test_clip_fraction_counts_ratios_outside_the_range():
    ratios = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0, 1.0])
    assert clip_fraction(ratios.log(), 0.2).item() == 4 / 8


def test_normalised_advantages():
    advantages = torch.tensor([1.0, 2.0, 3.0])
    assert normalize(advantages).tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert normalize(1000.0 * advantages + 5.0).tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert advantages.tolist() == [1.0, 2.0, 3.0]


def test_a_single_advantage_is_left_as_it_is():
    assert normalize(torch.tensor([7.0])).tolist() == [7.0]


def test_equal_advantages_become_zero():
    assert normalize(torch.tensor([4.0, 4.0, 4.0, 4.0])).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, 6.0], 1.0),
        ([3.0, 3.0, 3.0, 3.0], 0.0),
        ([11.0, 12.0, 13.0, 16.0], 1.0),  # a constant offset is not counted
        ([2.0, 4.0, 6.0, 12.0], 0.0),
        ([-1.0, -2.0, -3.0, -6.0], -3.0),
    ],
)
def test_explained_variance(values, expected):
    found = explained_variance(torch.tensor(values), torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_explained_variance_of_returns_that_do_not_vary_is_nan(size):
    assert math.isnan(explained_variance(torch.arange(float(size)), torch.full((size,), 2.0)))
