"""Counts of operations and bytes against sums done by hand."""

import torch
from benchmarks.estimate import BYTES_PER_S, OPERATIONS_PER_S, Count


def test_a_product_and_a_sum() -> None:
    a, b = torch.ones(4, 8), torch.ones(8, 2, dtype=torch.float32)
    with Count() as count:
        product = torch.ops.aten._unsafe_view(a @ b.view(8, 2), (4, 2))  # a view moves nothing
        product + 1
    assert count.kernels == 2
    assert count.flop == 2 * 4 * 8 * 2
    of_product, of_sum = 4 * (4 * 8 + 8 * 2 + 4 * 2), 4 * (4 * 2 + 4 * 2)
    assert count.moved == of_product + of_sum
    assert count.fused == max(count.flop / OPERATIONS_PER_S, of_product / BYTES_PER_S)
    assert (
        count.seconds == max(count.flop / OPERATIONS_PER_S, of_product / BYTES_PER_S) + of_sum / BYTES_PER_S
    )


def test_what_is_expanded_is_read_once() -> None:
    row = torch.ones(1, 8)
    with Count() as count:
        row.expand(100, 8) + torch.ones(100, 8)
    made_and_added = 4 * 800 + 4 * (8 + 800 + 800)
    assert count.moved == made_and_added


def test_what_is_changed_is_read_and_written() -> None:
    a = torch.ones(8)
    with Count() as count:
        a.mul_(2)
    assert count.moved == 2 * 4 * 8
    with Count() as count:
        a.zero_()
    assert count.moved == 4 * 8
