"""SASRec in its original form: queries are normalised, keys and values are not, and nothing projects the mixture.

Source: Kang and McAuley, "Self-attentive sequential recommendation" (2018), 3.1 to 3.3. Positions are slots
counted from the newest row, `max_length` of them: a state is not that of its prefix. Huang, "Revisiting
Self-Attentive Sequential Recommendation", 3.3 and 4.1, wants them counted from each prediction, which makes every
prefix a sequence of its own, and points at padding that attends, which is here as a control only: nothing is padded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from duality.config import Config
from duality.encoders.base import Layout
from duality.encoders.blocks import FeedForward, Projected, SoftmaxBlock, SoftmaxStack
from duality.encoders.dropout import Dropout
from duality.encoders.positions import slots
from duality.encoders.products import Linear


class SASRecConfig(Config):
    """Shape of SASRec, `name = "sasrec"`."""

    name: Literal["sasrec"] = "sasrec"
    num_blocks: int = 2
    num_heads: int = 1
    dropout: float = 0.2
    max_length: int = 200
    # "slots" count back from the newest row of a pass, as padding on the left does; "oldest" count from the oldest
    # row, as padding on the right does; "prediction" count back from the row that each state is asked of.
    positions: Literal["slots", "oldest", "prediction", "none"] = "slots"
    # Controls: rows before the first attend, as slots without an item, or with a row that no item has.
    padding: Literal["none", "slots", "rows"] = "none"


class SASRecBlock(SoftmaxBlock):
    """Attention from normalised rows to rows as they are, then a feed-forward layer as wide as the rows."""

    def __init__(self, dim: int, config: SASRecConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, -1)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-8)
        self.query, self.key, self.value = (Linear(dim, dim) for _ in range(3))
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-8)
        self.feed_forward = FeedForward(dim, dim, config.dropout)
        self.dropout = Dropout(config.dropout)

    def project(self, rows: Tensor, turns: Tensor | None) -> Projected:
        query, key = self.query(self.attention_norm(rows)), self.key(rows)
        query_key = torch.stack((query, key), 1).unflatten(2, self.heads)
        return query_key, self.value(rows).unflatten(1, self.heads)

    def finish(self, rows: Tensor, mixed: Tensor) -> Tensor:
        normal = self.feed_forward_norm(self.attention_norm(rows) + mixed.flatten(1))
        return normal + self.dropout(self.feed_forward(normal))


class SASRec(SoftmaxStack):
    """float [P, dim] rows to float [P, dim] states."""

    pad: Tensor

    def __init__(self, dim: int, config: SASRecConfig) -> None:
        super().__init__(dim)
        if dim % config.num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads ({config.num_heads})")
        self.max_length, self.attention_dropout = config.max_length, config.dropout
        self.positions, self.padding = config.positions, config.padding
        self.prefix_invariant = config.positions in ("oldest", "none") and config.padding == "none"
        # Each prefix is a sequence: training makes states one by one, as for encoders that see ahead.
        self.causal = config.positions != "prediction"
        self.slots = nn.Embedding(config.max_length, dim)
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(SASRecBlock(dim, config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(dim, eps=1e-8)
        nn.init.normal_(self.slots.weight, std=dim**-0.5)
        if config.padding != "none":
            self.register_buffer("pad", torch.randn(dim) if config.padding == "rows" else torch.zeros(dim))

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        if self.padding == "none":
            return super().forward(rows, layout)
        seen = self.seen(layout)
        place = torch.from_numpy(
            np.repeat(np.arange(1, len(seen.lengths) + 1) * self.max_length, seen.lengths)
        )
        place = (place - torch.from_numpy(np.repeat(seen.lengths, seen.lengths) - seen.positions)).to(
            rows.device
        )
        padded = (
            self.pad.to(rows.dtype).expand(len(seen.lengths) * self.max_length, -1).index_copy(0, place, rows)
        )
        whole = Layout(np.full(len(seen.lengths), self.max_length))
        return super().forward(padded, whole)[place]

    def enter(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.input_dropout(rows if self.positions == "none" else rows + self.slots(positions)), None

    def positions_of(self, layout: Layout, device: torch.device) -> Tensor:
        """Slots int64 [P]: the newest row has the last one, or the oldest the first."""
        return slots(layout, self.max_length, self.positions == "oldest", device)
