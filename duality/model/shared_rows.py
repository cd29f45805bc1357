"""Items that share rows of a small table: for catalogues whose table, its gradient and its moments would not fit a device.

An item is a weighed sum of two of the rows that all share; hash functions say which, and the two weights are its own. What
training touches of a step's items is made for them alone (`TwoSided.item_rows`).

Source: Svenstrup et al., "Hash embeddings for efficient word representations" (2017), 2, with two hash functions.
Shapes: I items, H shared rows, N asked items, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PRIME = 2**31 - 1
# (a x + b mod PRIME) mod H, Carter and Wegman (1979); any numbers below PRIME do.
FACTORS, SHIFTS = (1_103_515_245, 1_664_525), (12_345, 1_013_904_223)


class SharedRows(nn.Module):
    """Rows float [H, D] to items float [I, D]; the first parametrization of the item table."""

    weights: nn.Parameter
    unseen: Tensor
    start: Tensor

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((num_items, len(FACTORS)), 0.5**0.5))
        # Items that training never saw: their sums are other items' rows by chance.
        self.register_buffer("unseen", torch.zeros(num_items, dtype=torch.bool))
        self.register_buffer("start", torch.zeros(dim))

    def forward(self, rows: Tensor) -> Tensor:
        return self.of(rows, torch.arange(len(self.weights), device=rows.device))

    def of(self, rows: Tensor, items: Tensor) -> Tensor:
        """Of items int64 [N]: float [N, D]."""
        factors, shifts = (torch.tensor(numbers, device=rows.device) for numbers in (FACTORS, SHIFTS))
        places = (items[:, None] * factors + shifts) % PRIME % len(rows)
        found = (rows[places] * self.weights[items][:, :, None]).sum(1)
        return torch.where(self.unseen[items][:, None], self.start, found)

    def replace(self, unseen: Tensor, start: Tensor) -> None:
        """From now on `unseen` bool [I], of as many items as there are now, are `start` float [D]."""
        more = len(unseen) - len(self.weights)
        self.weights.data = torch.cat((self.weights.data, self.weights.new_ones(more, len(FACTORS))))
        self.unseen, self.start = unseen.clone(), start.clone()
