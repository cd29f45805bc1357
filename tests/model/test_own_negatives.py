"""Negatives of each row's own against loops in double precision."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from duality.model import own_negatives
from duality.model.own_negatives import Kind, draw_own, own_negatives_loss

ITEMS, ROWS, DIM, K, POWER = 30, 11, 6, 7.0, 0.4
KINDS = ("softmax", "bce", "bpr")


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64)
    table = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    return states, table, torch.randint(ITEMS, (ROWS,), generator=generator)


def negatives(own: torch.Tensor, n: int = 4) -> torch.Tensor:
    return torch.from_numpy(draw_own(own.numpy(), n, ITEMS, np.random.default_rng(0)))


def by_hand(kind: Kind, states: Any, table: Any, own: Any, drawn: Any) -> float:
    total = 0.0
    for state, item, others in zip(states, own, drawn):
        score, scores = float(state @ table[item]), [float(state @ table[other]) for other in others]
        if kind == "softmax":
            total += math.log(math.exp(score) + sum(map(math.exp, scores))) - score
        elif kind == "bpr":
            total += sum(math.log1p(math.exp(other - score)) for other in scores) / len(scores)
        else:
            total += K * sum(math.log1p(math.exp(other)) for other in scores) / len(scores)
            total += POWER * math.log1p(math.exp(-score))
    return total / len(states)


def loss_of(
    kind: Kind, way: str, states: torch.Tensor, table: torch.Tensor, own: torch.Tensor
) -> torch.Tensor:
    """Of a model of this table, which is so long that the drawn are fetched, or has a product with all."""
    model: Any = SimpleNamespace(num_items=ITEMS, item_table=table)
    if way == "rows":
        model = SimpleNamespace(num_items=10**6, item_rows=lambda drawn: table[drawn])
    return own_negatives_loss(kind, model, states, table[own], negatives(own), per_positive=K, power=POWER)


@pytest.mark.parametrize("way", ["table", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_a_loop_over_the_drawn(kind: Kind, way: str) -> None:
    states, table, own = tensors()
    expected = by_hand(kind, *(part.numpy() for part in (states, table, own, negatives(own))))
    assert float(loss_of(kind, way, states, table, own)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("way", ["table", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_and_do_not_depend_on_the_chunks(
    kind: Kind, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, table, own = tensors()
    inputs = (states.requires_grad_(), table.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: loss_of(kind, way, s, t, own), inputs)
    whole = torch.autograd.grad(loss_of(kind, way, states, table, own), inputs)
    monkeypatch.setattr(own_negatives, "LEAST", 3)
    monkeypatch.setattr(own_negatives, "SCORES", {"cpu": 1})
    for a, b in zip(whole, torch.autograd.grad(loss_of(kind, way, states, table, own), inputs)):
        torch.testing.assert_close(a, b)


def test_every_item_but_the_rows_own_is_drawn_equally_often() -> None:
    own = np.repeat([0, 3, 9], 4_000)
    drawn = draw_own(own, 5, 10, np.random.default_rng(0))
    for item in (0, 3, 9):
        counts = np.bincount(drawn[own == item].ravel(), minlength=10)
        assert counts[item] == 0
        others = np.delete(counts, item)
        # Chi-square with eight degrees of freedom: above 26 once in a thousand.
        assert ((others - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 26


def test_what_an_owner_meets_is_not_drawn_for_them() -> None:
    rng = np.random.default_rng(0)
    owners, items = (
        np.repeat([0, 1], [7, 2_000]),
        np.concatenate((np.arange(7), rng.permutation(3).repeat(667)[:2_000])),
    )
    drawn = draw_own(items, 4, 10, rng, owners)
    assert set(drawn[:7].ravel()) <= {7, 8, 9}
    counts = np.bincount(drawn[7:].ravel(), minlength=10)
    assert not counts[:3].any()
    # Chi-square with six degrees of freedom: above 22 once in a thousand.
    assert ((counts[3:] - 8_000 / 7) ** 2 / (8_000 / 7)).sum() < 22


def test_who_met_everything_gets_other_items_than_the_rows_own() -> None:
    items, owners = np.arange(5), np.zeros(5, dtype=np.int64)
    assert (draw_own(items, 50, 5, np.random.default_rng(0), owners) != items[:, None]).all()
