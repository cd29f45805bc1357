"""SASRec in its original form: queries are normalised, keys and values are not, and nothing projects the mixture.

Source: Kang and McAuley, "Self-attentive sequential recommendation" (2018), 3.1 to 3.3. Positions are slots
counted from the newest row, `max_length` of them: a state is not that of its prefix ("Revisiting
Self-Attentive Sequential Recommendation", 3.3, 4.1). Padding is not here to attend: there is none.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from duality.config import Config
from duality.encoders.base import Layout, packed_positions
from duality.encoders.blocks import FeedForward, Projected, SoftmaxBlock, SoftmaxStack
from duality.encoders.dropout import Dropout


class SASRecConfig(Config):
    """Shape of SASRec, `name = "sasrec"`."""

    name: Literal["sasrec"] = "sasrec"
    num_blocks: int = 2
    num_heads: int = 1
    dropout: float = 0.2
    max_length: int = 200


class SASRecBlock(SoftmaxBlock):
    """Attention from normalised rows to rows as they are, then a feed-forward layer as wide as the rows."""

    def __init__(self, dim: int, config: SASRecConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, -1)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-8)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
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

    prefix_invariant = False

    def __init__(self, dim: int, config: SASRecConfig) -> None:
        super().__init__(dim)
        if dim % config.num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads ({config.num_heads})")
        self.max_length, self.attention_dropout = config.max_length, config.dropout
        self.slots = nn.Embedding(config.max_length, dim)
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(SASRecBlock(dim, config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(dim, eps=1e-8)
        nn.init.normal_(self.slots.weight, std=dim**-0.5)

    def enter(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.input_dropout(rows + self.slots(positions)), None

    def positions_of(self, layout: Layout, device: torch.device) -> Tensor:
        """Slots int64 [P]: the newest row has the last one."""
        lengths = torch.from_numpy(layout.lengths).to(device)
        return packed_positions(layout, device) + (self.max_length - lengths).repeat_interleave(lengths)
