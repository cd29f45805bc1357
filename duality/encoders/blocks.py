"""Building blocks shared by the encoders: attention over packed rows, stacks of it, feed-forward layers.

Shapes: P packed rows, D dimensions, H heads, K = D / H, L rows of a sequence, n sequences of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from duality.config import Config
from duality.encoders.base import Encoder, Layout
from duality.encoders.positions import rotate

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
# Where no fused kernel does without weights: sequences of up to AT_ONCE rows store them, of longer ones they exist
# BLOCK rows at a time and are made again for the gradients.
AT_ONCE, BLOCK = 512, 256
Projected = tuple[Tensor, Tensor]  # queries and keys float [P, 2, H, K], values float [P, H, K]


def packed_attention(
    query_key: Tensor, value: Tensor, layout: Layout, *, causal: bool = True, dropout: float = 0.0
) -> Tensor:
    """Softmax attention inside each sequence.

    Equally long neighbours share one call, so nothing is padded and nothing is masked out.
    Memory is linear in L: torch's fused kernel never stores the L x L weights, and with dropout, which that
    kernel cannot do on a processor, they exist a block of rows at a time.

    Args:
        query_key: float [P, 2, H, K].
        value: float [P, H, K].
        layout: where the sequences lie.
        causal: whether a row sees only itself and what came before.
        dropout: share of the weights that is dropped.

    Returns:
        float [P, H, K].
    """
    pieces = []
    for (_, count, length), qk, v in runs_of(layout, query_key, value):
        if length > 1 or dropout:
            q, k = qk.view(count, length, *qk.shape[1:]).permute(2, 0, 3, 1, 4).unbind()
            v = v.view(count, length, *v.shape[1:]).transpose(1, 2)
            if dropout:
                v = in_blocks(partial(_dropped, dropout, causal), q, k, v, causal=causal)
            else:
                v = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            v = v.transpose(1, 2)
        pieces.append(v.reshape(count * length, *value.shape[1:]))
    return torch.cat(pieces)


def in_blocks(attend: Attend, query: Tensor, key: Tensor, value: Tensor, *, causal: bool = True) -> Tensor:
    """Attention a block of rows at a time; what it stored is made again for the gradients.

    Args:
        attend: queries float [n, H, b, K], keys and values [n, H, e, K] up to the last of them (all, if not
            causal), and the place of the first, to float [n, H, b, K].
        query, key, value: float [n, H, L, K].
    """
    length = query.shape[2]
    if length <= AT_ONCE:
        return attend(query, key, value, 0)
    pieces = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        known = end if causal else length
        part = query[:, :, start:end], key[:, :, :known], value[:, :, :known]
        pieces.append(checkpoint(attend, *part, start, use_reentrant=False))
    return torch.cat(pieces, dim=2)


def back(query: Tensor, key: Tensor, start: int) -> Tensor:
    """int64 [b, e]: how far back each key lies from each query of a block that begins at `start`; below 0 ahead."""
    place = torch.arange(key.shape[2], device=key.device)
    return place[start : start + query.shape[2], None] - place


def _dropped(dropout: float, causal: bool, query: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
    """Softmax attention with dropped weights, for `in_blocks`."""
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    if causal:
        scores = scores.masked_fill(back(query, key, start) < 0, -torch.inf)
    return functional.dropout(scores.softmax(3), dropout) @ value


def runs_of(
    layout: Layout, first: Tensor, second: Tensor
) -> Iterator[tuple[tuple[int, int, int], Tensor, Tensor]]:
    """Each run of equally long neighbours with its rows of two packed tensors."""
    # split, not slices: the backward of a slice fills a whole [P, ...] tensor per run.
    sizes = [count * length for _, count, length in layout.runs]
    return zip(layout.runs, first.split(sizes), second.split(sizes), strict=True)


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
            rows = block.finish(rows, packed_attention(query_key, value, layout, dropout=dropout))
        return self.norm(rows)


class Heads(nn.Module):
    """Linear maps to queries, keys and values of several heads, and back."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(dim, 2 * dim)
        self.value = nn.Linear(dim, dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, turns: Tensor | None) -> Projected:
        heads = (self.num_heads, -1)
        query_key = self.query_key(rows).unflatten(1, (2, *heads))
        turned = query_key if turns is None else rotate(query_key, turns)
        return turned, self.value(rows).unflatten(1, heads)


class GatedFeedForward(nn.Module):
    """SwiGLU feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, 2 * hidden)
        self.project_out = nn.Linear(hidden, dim)

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
        self.project_in = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.project_out = nn.Linear(hidden, dim)

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
        self.dropout = nn.Dropout(config.dropout)

    def project(self, rows: Tensor, turns: Tensor | None) -> Projected:
        projected: Projected = self.attention(rows, turns)
        return projected

    def finish(self, rows: Tensor, mixed: Tensor) -> Tensor:
        rows = self.attention_norm(rows + self.dropout(self.attention.project_out(mixed.flatten(1))))
        return self.feed_forward_norm(rows + self.dropout(self.feed_forward(rows)))
