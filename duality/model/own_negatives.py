"""The next-item loss with negatives that each row draws for itself, as published recipes do.

For HSTU's softmax, gSASRec's and SASRec's binary cross-entropy and BPR: drawn uniformly from all items but the row's own,
or but all of the user's; nothing corrects for what was not drawn, so the softmax's partition is that of n + 1 items.

Shapes: P rows, n negatives of each, N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from duality.encoders.products import add_product, product
from duality.model.losses import LEAST, SCORES
from duality.model.two_sided import TwoSided

Kind = Literal["softmax", "bce", "bpr"]

# Fetching one vector for one row, and giving back its gradient, takes as long as products of the row with this many
# items that all rows share (measured on one CPU thread with 3,706 and 20,000 items of 50 and 128 dimensions).
FETCHED = 96
REDRAWS = 20  # of negatives that their user has met


def draw_own(
    items: np.ndarray, n: int, num_items: int, rng: np.random.Generator, owners: np.ndarray | None = None
) -> np.ndarray:
    """int64 [P, n]: for each row n items, uniformly from all but its own, int [P]; they may repeat.

    With the rows' `owners`, int [P], none that the owner meets in any of these rows (a few may be left
    of an owner who met nearly all). Source: Kang and McAuley (2018), 3.5.
    """
    drawn = _others(np.repeat(items[:, None], n, axis=1), num_items, rng)
    if owners is None:
        return drawn
    known = np.unique(owners * num_items + items)
    for _ in range(REDRAWS):
        wanted = owners[:, None] * num_items + drawn
        met = known[np.searchsorted(known, wanted).clip(max=len(known) - 1)] == wanted
        if not met.any():
            break
        drawn[met] = _others(items[np.nonzero(met)[0]], num_items, rng)
    return drawn


def _others(items: np.ndarray, num_items: int, rng: np.random.Generator) -> np.ndarray:
    """For each item another one, uniformly."""
    drawn = rng.integers(num_items - 1, size=items.shape)
    return drawn + (drawn >= items)


def own_negatives_loss(
    kind: Kind,
    model: TwoSided,
    states: Tensor,
    positives: Tensor,
    drawn: Tensor,
    *,
    per_positive: float = 1.0,
    power: float = 1.0,
) -> Tensor:
    """Mean loss over rows, in nats.

    Args:
        kind: "softmax": of the positive among itself and its negatives; "bce" and "bpr": as in `pair_loss`.
        model: whose items are scored.
        states, positives: float [P, D].
        drawn: int64 [P, n], from `draw_own`.
        per_positive, power: as in `pair_loss`.

    Cost: few negatives are fetched, P n D numbers. Of many, products with all items have the scores sooner, a chunk
    of rows at a time.
    """

    def loss(own: Tensor, others: Tensor) -> Tensor:
        return _total(kind, own, others, per_positive, power)

    if drawn.shape[1] * FETCHED < model.num_items:
        others = (states[:, None] * model.item_rows(drawn)).sum(2)
        return loss((states * positives).sum(1), others) / len(states)
    total: Tensor = _OverAll.apply(states, positives, model.item_table, drawn, loss)
    return total / len(states)


def _total(kind: Kind, own: Tensor, others: Tensor, per_positive: float, power: float) -> Tensor:
    """Sum over rows from the scores of their positives, [P], and of their negatives, [P, n]."""
    if kind == "softmax":
        return (torch.cat((own[:, None], others), dim=1).logsumexp(1) - own).sum()
    if kind == "bpr":
        return softplus(others - own[:, None]).mean(1).sum()
    return per_positive * softplus(others).mean(1).sum() + power * softplus(-own).sum()


class _OverAll(torch.autograd.Function):
    """Scores of drawn items picked from those of all, a chunk of rows at a time; gradients are made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        positives: Tensor,
        table: Tensor,
        drawn: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        total, rows = states.new_zeros(()), max(LEAST, SCORES.get(states.device.type, 1 << 20) // len(table))
        room = states.new_empty(min(rows, len(states)), len(table))
        moved, pulls, grad_table = (
            torch.empty_like(states),
            states.new_empty(len(states)),
            table.new_zeros(table.T.shape),
        )
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            state = states[part]
            scores = product(state, table, room=room[: len(state)])
            own, others = (state * positives[part]).sum(1), scores.gather(1, drawn[part])
            with torch.enable_grad():
                leaves = (own.requires_grad_(), others.requires_grad_())
                found = loss(*leaves)
                pulls[part], pull = torch.autograd.grad(found, leaves)
            total += found.detach()
            # The scores are spent: their memory takes the gradients, 0 but of the drawn.
            slopes = scores.zero_().scatter_add_(1, drawn[part], pull)
            moved[part] = product(slopes, table.T)
            add_product(grad_table, state.T, slopes.T)
        moved.addcmul_(pulls[:, None], positives)
        ctx.save_for_backward(moved, pulls[:, None] * states, grad_table.T)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(grads[0] * gradient for gradient in ctx.saved_tensors), None, None
