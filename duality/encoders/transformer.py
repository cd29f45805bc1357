"""Causal transformer with pre-normalisation, rotary positions and gated feed-forward layers.

Source: Vaswani et al. (2017); pre-normalisation after Xiong et al. (2020). The same class serves
items of a user and users of an item.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from duality.config import Config
from duality.encoders.base import Encoder, Layout, packed_positions
from duality.encoders.blocks import CausalAttention, GatedFeedForward
from duality.encoders.positions import rotations


class TransformerConfig(Config):
    """Shape of a transformer encoder."""

    num_blocks: int = 2
    num_heads: int = 2
    hidden: int = 176
    dropout: float = 0.2
    # "shuffled" is a control: positions permuted inside each sequence, by the number of rows of the batch.
    positions: Literal["rotary", "none", "shuffled"] = "rotary"


class Block(nn.Module):
    """Attention and feed-forward, each on normalised rows, each added to what came in."""

    def __init__(self, dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalAttention(dim, config.num_heads)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = GatedFeedForward(dim, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, rows: Tensor, layout: Layout, turns: Tensor) -> Tensor:
        rows = rows + self.dropout(self.attention(self.attention_norm(rows), layout, turns))
        return rows + self.dropout(self.feed_forward(self.feed_forward_norm(rows)))


class Transformer(Encoder):
    """float [P, dim] rows to float [P, dim] states; state r depends on rows up to r of its sequence."""

    def __init__(self, dim: int, config: TransformerConfig) -> None:
        super().__init__(dim)
        if dim % (2 * config.num_heads):
            raise ValueError(f"dim {dim} must be a multiple of 2 x num_heads ({2 * config.num_heads})")
        self.positions = config.positions
        self.head_dim = dim // config.num_heads
        self.input_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(dim, config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        turns = rotations(self._positions(layout, rows.device), self.head_dim)
        rows = self.input_dropout(rows)
        for block in self.blocks:
            rows = block(rows, layout, turns)
        return self.norm(rows)

    def _positions(self, layout: Layout, device: torch.device) -> Tensor:
        """int64 [P]."""
        positions = packed_positions(layout, device)
        if self.positions == "none":
            return torch.zeros_like(positions)
        if self.positions == "shuffled":
            noise = np.random.default_rng(layout.num_rows).random(layout.num_rows)
            sequence = np.repeat(np.arange(len(layout.lengths)), layout.lengths)
            positions = positions[torch.from_numpy(np.lexsort((noise, sequence))).to(device)]
        return positions
