"""Dropout keeps the mean, draws anew, and drops the same numbers from the gradient."""

from __future__ import annotations

import pytest
import torch

from duality.encoders.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_share_and_the_mean(share: float) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(300, 1001), share)
    assert abs(float((found == 0).float().mean()) - share) < 0.004
    assert abs(float(found.mean()) - 1) < 0.01
    assert len(found.unique()) == 2
    columns = (found == 0).float().mean(0)  # every place of a drawn word is alike
    assert float(columns.max() - columns.min()) < 0.25


def test_gradients_are_those_of_what_stayed() -> None:
    rows = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    found = dropout(rows, 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    torch.testing.assert_close(found, rows * gradient)
    assert 0 < int((gradient == 0).sum()) < rows.numel()
    torch.manual_seed(3)
    first = dropout(rows, 0.3)
    assert not torch.equal(first, dropout(rows, 0.3))
    torch.manual_seed(3)
    torch.testing.assert_close(dropout(rows, 0.3), first)


def test_in_use_nothing_is_dropped() -> None:
    rows, module = torch.randn(5, 3), Dropout(0.9)
    assert torch.equal(module.eval()(rows), rows)
    assert not torch.equal(module.train()(rows), rows)
    assert torch.equal(Dropout(0.0).train()(rows), rows)
