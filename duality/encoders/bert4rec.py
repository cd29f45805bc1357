"""BERT4Rec: rows see both sides, and what comes next is what a mask after the newest row stands for.

Source: Sun et al., "BERT4Rec: Sequential recommendation with bidirectional encoder representations from
Transformer" (2019), 3.2 to 3.6, and its published code: positions count from the oldest row, layer norms follow
each addition, and a dense layer with GELU and a norm comes before the items. An item's bias is not here: how often
items are chosen is added once training is over (`duality.intensity`).

A row in the middle sees what came later. So a history has one state, that of its newest row; every other state
is that of a prefix of its own (`base.states_at`). `masked` is for training: rows of a history are hidden and found
again from both sides.

Shapes: P packed rows, S sequences, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from duality.encoders.attention import packed_attention
from duality.encoders.base import Encoder, Layout, packed_positions
from duality.encoders.blocks import FeedForward, PostNormBlock, PostNormShape
from duality.encoders.dropout import Dropout
from duality.encoders.products import Linear

EPSILON = 1e-12  # of every layer norm


class BERT4RecConfig(PostNormShape):
    """Shape of BERT4Rec, `name = "bert4rec"`."""

    name: Literal["bert4rec"] = "bert4rec"
    dropout: float = 0.2
    max_length: int = 200  # rows and the mask after them
    hidden_share: float = 0.2  # of a history's rows, hidden in training


class BERT4RecBlock(PostNormBlock):
    """Attention and a feed-forward layer with GELU."""

    def __init__(self, dim: int, config: BERT4RecConfig) -> None:
        super().__init__(dim, config)
        self.feed_forward = FeedForward(dim, config.hidden, 0.0, functional.gelu)
        self.attention_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=EPSILON)


class BERT4Rec(Encoder):
    """float [P, dim] rows to float [P, dim]; only the newest row of each sequence has a state that counts."""

    causal = False
    prefix_invariant = False

    def __init__(self, dim: int, config: BERT4RecConfig) -> None:
        super().__init__(dim)
        if dim % config.num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads ({config.num_heads})")
        if config.max_length < 2:
            raise ValueError("max_length must be at least 2: a row and the mask after it")
        self.max_length, self.hidden_share = config.max_length - 1, config.hidden_share
        self.attention_dropout = config.dropout
        self.slots = nn.Embedding(config.max_length, dim)
        self.mask = nn.Parameter(torch.randn(dim) * 0.02)
        self.input_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(BERT4RecBlock(dim, config) for _ in range(config.num_blocks))
        self.transform = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        nn.init.normal_(self.slots.weight, std=0.02)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """State r is what lies after row r, where the mask stands if r is the newest."""
        layout = self.seen(layout)
        longer = Layout(layout.lengths + 1)
        kept = np.flatnonzero(longer.positions < np.repeat(layout.lengths, longer.lengths))
        filled = self.mask.expand(longer.num_rows, -1).to(rows.dtype)
        filled = filled.index_copy(0, torch.from_numpy(kept).to(rows.device), rows)
        return self._states(filled, longer)[torch.from_numpy(kept + 1).to(rows.device)]

    def masked(self, rows: Tensor, layout: Layout, hidden: np.ndarray) -> Tensor:
        layout, place = self.seen(layout), torch.from_numpy(hidden).to(rows.device)
        covered = rows.index_copy(0, place, self.mask.expand(len(hidden), -1).to(rows.dtype))
        return self._states(covered, layout)[place]

    def _states(self, rows: Tensor, layout: Layout) -> Tensor:
        rows = self.input_dropout(self.input_norm(rows + self.slots(packed_positions(layout, rows.device))))
        dropout = self.attention_dropout if self.training else 0.0
        for block in self.blocks:
            assert isinstance(block, BERT4RecBlock)
            query_key, value = block.project(rows, None)
            mixed = packed_attention(query_key, value, layout, causal=False, share=dropout)
            rows = block.finish(rows, mixed)
        return self.norm(functional.gelu(self.transform(rows)))
