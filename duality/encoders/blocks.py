"""Building blocks shared by the encoders: stacks of attention, feed-forward layers.

Shapes: P packed rows, D dimensions, H heads, K = D / H.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from duality.config import Config
from duality.encoders.attention import packed_attention
from duality.encoders.base import Encoder, Layout
from duality.encoders.dropout import Dropout
from duality.encoders.positions import rotate
from duality.encoders.products import Linear

Projected = tuple[Tensor, Tensor]  # queries and keys float [P, 2, H, K], values float [P, H, K]


class SoftmaxBlock(nn.Module):
    """A layer around softmax attention: what is compared, and what becomes of the mixture.

    In two parts, so that a continued history can keep keys and values (`duality.model.incremental`).
    """

    def project(self, rows: Tensor, turns: Tensor | None) -> Projected:
        """Queries, keys and values of rows float [P, D]; `turns` are rotary positions, if there are any."""
        raise NotImplementedError

    def finish(self, rows: Tensor, mixed: Tensor) -> Tensor:
        """Rows float [P, D] and what attention made of them, float [P, H, K], to the next layer's rows."""
        raise NotImplementedError


class SoftmaxStack(Encoder):
    """Blocks of softmax attention, one after another, between positions and a last norm."""

    blocks: nn.ModuleList
    norm: nn.Module
    attention_dropout = 0.0

    def enter(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows with what positions int64 [P] add to them, and the turns that blocks are given."""
        raise NotImplementedError

    def positions_of(self, layout: Layout, device: torch.device) -> Tensor:
        """Positions int64 [P] as `enter` wants them."""
        raise NotImplementedError

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        layout = self.seen(layout)
        rows, turns = self.enter(rows, self.positions_of(layout, rows.device))
        dropout = self.attention_dropout if self.training else 0.0
        for block in self.blocks:
            assert isinstance(block, SoftmaxBlock)
            query_key, value = block.project(rows, turns)
            rows = block.finish(rows, packed_attention(query_key, value, layout, share=dropout))
        return self.norm(rows)


class Heads(nn.Module):
    """Linear maps to queries, keys and values of several heads, and back."""

    def __init__(self, dim: int, num_heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = Linear(dim, 2 * dim, bias)
        self.value = Linear(dim, dim, bias)
        self.project_out = Linear(dim, dim, bias)

    def forward(self, rows: Tensor, turns: Tensor | None) -> Projected:
        heads = (self.num_heads, -1)
        query_key = self.query_key(rows).unflatten(1, (2, *heads))
        turned = query_key if turns is None else rotate(query_key, turns)
        return turned, self.value(rows).unflatten(1, heads)


class GatedFeedForward(nn.Module):
    """SwiGLU feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.project_in = Linear(dim, 2 * hidden, bias)
        self.project_out = Linear(hidden, dim, bias)

    def forward(self, rows: Tensor) -> Tensor:
        gate, value = self.project_in(rows).chunk(2, dim=-1)
        return self.project_out(functional.silu(gate) * value)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between, as in Vaswani et al. (2017), 3.3, or another activation."""

    def __init__(
        self, dim: int, hidden: int, dropout: float, activation: Callable[[Tensor], Tensor] = functional.relu
    ) -> None:
        super().__init__()
        self.activation = activation
        self.project_in = Linear(dim, hidden)
        self.dropout = Dropout(dropout)
        self.project_out = Linear(hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        return self.project_out(self.dropout(self.activation(self.project_in(rows))))


class PostNormShape(Config):
    """Shape of a stack of `PostNormBlock`."""

    num_blocks: int = 2
    num_heads: int = 2
    hidden: int = 256
    dropout: float = 0.1


class PostNormBlock(SoftmaxBlock):
    """Attention and feed-forward, each added to what came in and then normalised."""

    def __init__(self, dim: int, config: PostNormShape) -> None:
        super().__init__()
        self.attention = Heads(dim, config.num_heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, config.hidden, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)

    def project(self, rows: Tensor, turns: Tensor | None) -> Projected:
        projected: Projected = self.attention(rows, turns)
        return projected

    def finish(self, rows: Tensor, mixed: Tensor) -> Tensor:
        rows = self.attention_norm(rows + self.dropout(self.attention.project_out(mixed.flatten(1))))
        return self.feed_forward_norm(rows + self.dropout(self.feed_forward(rows)))
