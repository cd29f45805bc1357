"""Causal transformer with pre-normalisation, rotary positions and gated feed-forward layers.

Source: Vaswani et al. (2017); pre-normalisation after Xiong et al. (2020). The same class serves
items of a user and users of an item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from duality.config import Config
from duality.encoders.base import Layout, packed_positions
from duality.encoders.blocks import GatedFeedForward, Heads, Projected, SoftmaxBlock, SoftmaxStack
from duality.encoders.dropout import Dropout
from duality.encoders.positions import rotations
from duality.encoders.products import Linear


class Shape(Config):
    """Shape of a transformer encoder."""

    num_blocks: int = 2
    num_heads: int = 2
    hidden: int = 176
    dropout: float = 0.2
    # "shuffled" is a control: positions permuted inside each sequence, by the number of rows of the batch.
    positions: Literal["rotary", "none", "shuffled"] = "rotary"


class TransformerConfig(Shape):
    """`name = "transformer"`."""

    name: Literal["transformer"] = "transformer"


class LiGRConfig(Shape):
    """`name = "ligr"`: the same with gates."""

    name: Literal["ligr"] = "ligr"


class LlamaConfig(Shape):
    """`name = "llama"`: the same as language models have it."""

    name: Literal["llama"] = "llama"


class RootMeanSquare(nn.RMSNorm):
    """Rows divided by their root mean square, with LLaMA's epsilon."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)


class Block(SoftmaxBlock):
    """Attention and feed-forward, each on normalised rows, each added to what came in."""

    norm: Callable[[int], nn.Module] = nn.LayerNorm
    bias = True

    def __init__(self, dim: int, config: Shape) -> None:
        super().__init__()
        self.attention_norm = type(self).norm(dim)
        self.attention = Heads(dim, config.num_heads, bias=self.bias)
        self.feed_forward_norm = type(self).norm(dim)
        self.feed_forward = GatedFeedForward(dim, config.hidden, bias=self.bias)
        self.dropout = Dropout(config.dropout)

    def project(self, rows: Tensor, turns: Tensor | None) -> Projected:
        projected: Projected = self.attention(self.attention_norm(rows), turns)
        return projected

    def finish(self, rows: Tensor, mixed: Tensor) -> Tensor:
        rows = rows + self.dropout(self.attention.project_out(mixed.flatten(1)))
        return rows + self.dropout(self.feed_forward(self.feed_forward_norm(rows)))


class GatedBlock(Block):
    """A block whose every addition passes a gate made of what came in.

    Source: LiGR (Hertel et al., "Efficient user history modeling with amortized inference", 2025), as in
    eSASRec's layers.
    """

    def __init__(self, dim: int, config: Shape) -> None:
        super().__init__(dim, config)
        self.attention_gate = Linear(dim, dim)
        self.feed_forward_gate = Linear(dim, dim)

    def finish(self, rows: Tensor, mixed: Tensor) -> Tensor:
        update = self.dropout(self.attention.project_out(mixed.flatten(1)))
        rows = rows + self.attention_gate(rows).sigmoid() * update
        update = self.dropout(self.feed_forward(self.feed_forward_norm(rows)))
        return rows + self.feed_forward_gate(rows).sigmoid() * update


class Transformer(SoftmaxStack):
    """float [P, dim] rows to float [P, dim] states; state r depends on rows up to r of its sequence."""

    block: type[Block] = Block

    def __init__(self, dim: int, config: Shape) -> None:
        super().__init__(dim)
        if dim % (2 * config.num_heads):
            raise ValueError(f"dim {dim} must be a multiple of 2 x num_heads ({2 * config.num_heads})")
        self.positions = config.positions
        self.prefix_invariant = config.positions != "shuffled"
        self.head_dim = dim // config.num_heads
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(self.block(dim, config) for _ in range(config.num_blocks))
        self.norm = self.block.norm(dim)

    def enter(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        turns = None if self.positions == "none" else rotations(positions, self.head_dim, rows.dtype)
        return self.input_dropout(rows), turns

    def positions_of(self, layout: Layout, device: torch.device) -> Tensor:
        positions = packed_positions(layout, device)
        if self.positions == "shuffled":
            noise = np.random.default_rng(layout.num_rows).random(layout.num_rows)
            sequence = np.repeat(np.arange(len(layout.lengths)), layout.lengths)
            positions = positions[torch.from_numpy(np.lexsort((noise, sequence))).to(device)]
        return positions


class LiGR(Transformer):
    """The same with gated additions."""

    block = GatedBlock


class LlamaBlock(Block):
    """A block without means and biases.

    Source: Touvron et al., "LLaMA" (2023), 2.2; HLLM's user model (Chen et al. 2024, 3.2) is a stack of these over
    item vectors.
    """

    norm = RootMeanSquare
    bias = False


class Llama(Transformer):
    """The same after LLaMA: rows are divided by their root mean square, linear maps have no bias."""

    block = LlamaBlock
