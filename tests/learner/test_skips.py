"""Steps that are left out: counted alike with numbers and with tensors, and three in a row are the end."""

import pytest
import torch

from learner.errors import NonFiniteError
from learner.skips import Skips

KINDS = {"bool": bool, "tensor": lambda is_bad: torch.tensor(bool(is_bad))}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def flag(request):
    return request.param


def noted(skips, flag, bad):
    return [bool(skips.note(flag(is_bad))) for is_bad in bad]


@pytest.mark.parametrize(
    ("bad", "skipped", "in_a_row"),
    [
        ([0, 0], [0, 0], 0),
        ([1, 0, 1, 1], [1, 0, 1, 1], 2),
        ([1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0], 0),
        ([0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1], 5),  # after three in a row nothing moves any more
    ],
)
def test_what_is_left_out(flag, bad, skipped, in_a_row):
    skips = Skips()
    assert noted(skips, flag, bad) == skipped
    assert int(skips.total) == sum(skipped)
    assert int(skips.in_a_row) == in_a_row


def test_three_in_a_row_are_an_error(flag):
    skips = Skips()
    for _ in range(2):
        noted(skips, flag, [1])
        skips.check()
    noted(skips, flag, [1])
    with pytest.raises(NonFiniteError, match="3 minibatches in a row"):
        skips.check()


def test_they_are_counted_over_updates_and_the_total_is_not(flag):
    skips = Skips(in_a_row=1)
    noted(skips, flag, [1])
    skips.begin()
    assert skips.total == 0
    assert noted(skips, flag, [1]) == [True]
    with pytest.raises(NonFiniteError):
        skips.check()


@pytest.mark.parametrize("is_bad", [False, True])
def test_after_giving_up_a_good_step_is_taken_and_a_bad_one_is_the_end_again(flag, is_bad):
    skips = Skips()
    noted(skips, flag, [1, 1, 1, 0])
    skips.begin()
    assert noted(skips, flag, [is_bad]) == [is_bad]
    assert int(skips.in_a_row) == (3 if is_bad else 0)


def test_a_number_of_another_device_is_read_only_when_waiting_is_allowed():
    skips = Skips(in_a_row=2)
    skips.note(torch.ones((), dtype=torch.bool, device="meta"))
    skips.check()
    with pytest.raises((RuntimeError, NotImplementedError)):  # a meta tensor has no number to read
        skips.check(waits=True)
