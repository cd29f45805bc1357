"""Building blocks shared by the encoders: causal attention over packed rows, gated feed-forward.

Shapes: P packed rows, D dimensions, H heads, K = D / H, L rows of a sequence, n sequences of a run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from duality.encoders.base import Layout
from duality.encoders.positions import rotate


def packed_attention(query_key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Causal softmax attention inside each sequence.

    Equally long neighbours share one call, so nothing is padded and nothing is masked out.
    Memory is linear in L: torch's fused kernel never stores the L x L weights.

    Args:
        query_key: float [P, 2, H, K].
        value: float [P, H, K].
        layout: where the sequences lie.

    Returns:
        float [P, H, K].
    """
    # split, not slices: the backward of a slice fills a whole [P, ...] tensor per run.
    sizes = [count * length for _, count, length in layout.runs]
    pieces = []
    for (_, count, length), qk, v in zip(
        layout.runs, query_key.split(sizes), value.split(sizes), strict=True
    ):
        if length > 1:
            q, k = qk.view(count, length, *qk.shape[1:]).permute(2, 0, 3, 1, 4).unbind()
            v = v.view(count, length, *v.shape[1:]).transpose(1, 2)
            v = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        pieces.append(v.reshape(count * length, *value.shape[1:]))
    return torch.cat(pieces)


class CausalAttention(nn.Module):
    """Multi-head causal self-attention with rotary positions over packed rows."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(dim, 2 * dim)
        self.value = nn.Linear(dim, dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, layout: Layout, turns: Tensor) -> Tensor:
        heads = (self.num_heads, -1)
        query_key = rotate(self.query_key(rows).unflatten(1, (2, *heads)), turns)
        mixed = packed_attention(query_key, self.value(rows).unflatten(1, heads), layout)
        return self.project_out(mixed.flatten(1))


class GatedFeedForward(nn.Module):
    """SwiGLU feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, 2 * hidden)
        self.project_out = nn.Linear(hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        gate, value = self.project_in(rows).chunk(2, dim=-1)
        return self.project_out(functional.silu(gate) * value)
