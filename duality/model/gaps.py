"""Time since the row before, as an embedding that is added to each row of a history.

Shapes: P packed rows, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from duality.encoders.base import Layout
from duality.encoders.times import BUCKETS, buckets

UNKNOWN = 0  # the first row of a history, and every row where nobody knows the time


class TimeGaps(nn.Module):
    """One vector per bucket of log time, all zero at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS + 2, dim)
        nn.init.zeros_(self.vectors.weight)

    def forward(self, rows: Tensor, layout: Layout | None) -> Tensor:
        """Rows float [P, D] with what their gaps add; `layout` None knows no time."""
        return rows + self.vectors(gaps(layout, len(rows)).to(rows.device)).to(rows.dtype)


def gaps(layout: Layout | None, rows: int) -> Tensor:
    """int64 [P]: 0 where no gap is known, else 1 + its bucket."""
    if layout is None or layout.times is None:
        return torch.full((rows,), UNKNOWN)
    since = torch.from_numpy(np.diff(layout.times, prepend=layout.times[:1]))
    return (buckets(since, BUCKETS) + 1) * torch.from_numpy(layout.positions > 0)
