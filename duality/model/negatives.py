"""Negatives of the next-item loss: which items stand in for all of them in one step.

Reads:  the recipe's `loss.sampler`, how often each item was trained on, the batch.
Trades: time per step against the variance of the loss; the expected partition stays that of all items.

Shapes: N items, M candidates, P rows of a batch, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duality.sampler_specs import make_sampler
from duality.samplers import Context, Sampler

HARD_QUERIES = 64  # states searched for hard negatives: a product of 64 x N per step


class LiveTable:
    """The item table as an index side whose ids are rows: hard negatives are never stale."""

    def __init__(self, read: Callable[[], Tensor]) -> None:
        self.read = read

    def search(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Rows int64 [Q, k] and inner products float32 [Q, k], best first."""
        with torch.no_grad():
            table = self.read()
            scores = torch.from_numpy(vectors).to(table.device) @ table.T
            best = scores.topk(min(k, len(table)), dim=1)
        return best.indices.cpu().numpy(), best.values.cpu().numpy()


def item_sampler(spec: str, counts: NDArray[Any], table: Callable[[], Tensor]) -> Sampler:
    """The sampler of a recipe.

    Args:
        spec: `loss.sampler`.
        counts: int [N], training events per item. An item without any counts as having one: never
            drawn, it would keep the scores it was born with.
        table: gives the model's item table as it is now, float [N, D], which `hard` searches.

    Raises:
        InputError: not a sampler.
    """
    return make_sampler(spec, np.maximum(counts, 1), LiveTable(table))


def draw_negatives(
    sampler: Sampler, n: int, members: NDArray[np.int64], states: Tensor, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Shared negatives of a batch.

    Args:
        members: int64 [P], each row's own item, which may be drawn but does not compete with itself.
        states: float [P, D], where `hard` looks for what competes.

    Returns:
        items int64 [M], distinct and ascending; the column of each row's own item, int64 [P], -1 where
        it was not drawn; what to add to the scores of the items, float64 [M] (`Sampler.candidates`).
    """
    queries = None
    if sampler.needs_queries:
        rows = torch.from_numpy(rng.integers(len(members), size=HARD_QUERIES)).to(states.device)
        queries = states.detach()[rows].float().cpu().numpy()
    drawn, offset = sampler.candidates(n, rng, Context(batch=members, queries=queries))
    column = np.searchsorted(drawn, members).clip(max=len(drawn) - 1)
    return drawn, np.where(drawn[column] == members, column, -1), offset
