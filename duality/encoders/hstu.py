"""HSTU: pointwise attention, gated, with relative positions.

Source: Zhai et al., "Actions speak louder than words" (2024), 3.1 and the published research code. Scores pass
SiLU and are divided by `max_length` instead of going through a softmax, so how much there is counts, not only
its proportions. The bias depends on how far back a row lies, and on how long ago it happened.

Published, a history is cut into pieces, and the first rows of each see little. `sliding` lets every row see as many as the
last one does, so that states depend on no cut and one pass has them for every prefix.

Cost: time grows with L, at most `max_length` rows for each; on a processor their weights are stored, elsewhere they exist a
block of rows at a time for sequences longer than `groups.AT_ONCE`.
Shapes: P packed rows, D dimensions, H heads, K = D / H, L rows of a sequence, n sequences of a run.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from duality.config import Config
from duality.encoders.attention import Parts, back, in_blocks, in_runs, stores_weights
from duality.encoders.base import Encoder, Layout, Run
from duality.encoders.dropout import Dropout
from duality.encoders.pointwise_attention import PointwiseAttention, blocks_of
from duality.encoders.positions import slots
from duality.encoders.products import Linear, linear
from duality.encoders.times import BUCKETS, buckets


class HSTUConfig(Config):
    """Shape of HSTU, `name = "hstu"`."""

    name: Literal["hstu"] = "hstu"
    num_blocks: int = 2
    num_heads: int = 2
    dropout: float = 0.2
    max_length: int = 200
    sliding: bool = False  # a row sees the max_length newest up to it, not what its piece of the history has
    time_buckets: int = BUCKETS  # of log(seconds) / .301; 0 knows no time
    # Learned slots beside the bias, as published: "oldest" count from the oldest row, "slots" back from the newest.
    positions: Literal["none", "slots", "oldest"] = "none"


class HSTUBlock(nn.Module):
    """One layer: a projection to gate, value, query and key; pointwise attention; a gated projection back."""

    def __init__(self, dim: int, config: HSTUConfig) -> None:
        super().__init__()
        self.heads, self.max_length = (config.num_heads, -1), config.max_length
        self.project_in = nn.Parameter(torch.empty(dim, 4 * dim).normal_(std=0.02))
        # Entry b is added to the score of the row b back.
        self.back = nn.Parameter(torch.empty(config.max_length).normal_(std=0.02))
        # Entry b is added to the score of a row that long ago.
        self.ago = (
            nn.Parameter(torch.empty(config.time_buckets + 1).normal_(std=0.02))
            if config.time_buckets
            else None
        )
        self.project_out = Linear(dim, dim)
        self.dropout = Dropout(config.dropout)
        nn.init.xavier_uniform_(self.project_out.weight)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        gate, value, query, key = functional.silu(linear(_normal(rows), self.project_in.T)).chunk(4, dim=1)
        query_key = torch.stack((query, key), 1).unflatten(2, self.heads)
        mixed = self._mixed(query_key, value.unflatten(1, self.heads), layout)
        return rows + self.project_out(self.dropout(gate * _normal(mixed)))

    def _mixed(self, query_key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """Pointwise attention inside each sequence, float [P, D]."""
        if stores_weights(layout, value.device, self.max_length):
            return self._stored(query_key, value / self.max_length, layout).flatten(1)
        ago = self._ago(layout, value.device)

        def attend(run: Run, parts: Parts) -> Tensor:
            first, count, length = run
            when = None if ago is None else ago[first : first + count * length].view(count, length, 2)
            return in_blocks(partial(self._pointwise, when), *parts, reach=self.max_length)

        return in_runs(attend, query_key, value, layout).flatten(1)

    def _stored(self, query_key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """The same sum, float [P, H, K], by a function that knows its gradients."""
        ago = None if layout.times is None else self.ago
        blocks = blocks_of(layout, self.max_length, 0 if ago is None else len(ago) - 1)
        mixed: Tensor = PointwiseAttention.apply(query_key, value, self.back, ago, layout, blocks)
        return mixed

    def _ago(self, layout: Layout, device: torch.device) -> Tensor | None:
        """When rows are asked and when they happened, int64 [P, 2], if both model and log know time."""
        if self.ago is None or layout.times is None:
            return None
        asked = layout.times if layout.asked is None else layout.asked
        return torch.from_numpy(np.stack((asked, layout.times), 1)).to(device)

    def _pointwise(
        self, when: Tensor | None, query: Tensor, key: Tensor, value: Tensor, start: int
    ) -> Tensor:
        """What `attention.in_blocks` wants: SiLU of scores and bias, over `max_length`."""
        end = start + query.shape[2]
        first = end - key.shape[2]
        distance = back(query, key, start - first)
        scores = query @ key.transpose(2, 3) + self.back[distance.clamp(0, self.max_length - 1)]
        if when is not None and self.ago is not None:
            asked, happened = when[:, start:end, :1], when[:, None, first:end, 1]
            scores = scores + self.ago[buckets(asked - happened, len(self.ago) - 1)][:, None]
        weights = functional.silu(scores)
        hidden = (distance < 0) | (distance >= self.max_length)
        return weights.masked_fill(hidden, 0.0) @ value / self.max_length


class HSTU(Encoder):
    """float [P, dim] rows to float [P, dim] states."""

    def __init__(self, dim: int, config: HSTUConfig) -> None:
        super().__init__(dim)
        if dim % config.num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads ({config.num_heads})")
        if config.sliding and config.positions != "none":
            raise ValueError(
                'positions belong to pieces of a history: sliding has none, set positions to "none"'
            )
        self.max_length = 0 if config.sliding else config.max_length
        self.positions, self.prefix_invariant = config.positions, config.positions != "slots"
        self.slots = None
        if config.positions != "none":
            self.slots = nn.Embedding(config.max_length, dim)
            nn.init.normal_(self.slots.weight, std=dim**-0.5)
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(HSTUBlock(dim, config) for _ in range(config.num_blocks))

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        layout = self.seen(layout)
        if self.slots is not None:
            rows = rows + self.slots(slots(layout, self.max_length, self.positions == "oldest", rows.device))
        rows = self.input_dropout(rows)
        for block in self.blocks:
            rows = block(rows, layout)
        return rows


def _normal(rows: Tensor) -> Tensor:
    """Rows with mean 0 and variance 1, nothing learned."""
    return functional.layer_norm(rows, rows.shape[-1:], eps=1e-6)
