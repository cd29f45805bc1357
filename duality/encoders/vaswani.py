"""The transformer as first published: sinusoids, normalisation after each addition, ReLU.

Source: Vaswani et al., "Attention is all you need" (2017), 3.1 to 3.5; causal, encoder only.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from duality.encoders.base import Layout, packed_positions
from duality.encoders.blocks import PostNormBlock, PostNormShape, SoftmaxStack
from duality.encoders.dropout import Dropout


class VaswaniConfig(PostNormShape):
    """The original transformer, `name = "vaswani"`."""

    name: Literal["vaswani"] = "vaswani"


class Vaswani(SoftmaxStack):
    """float [P, dim] rows to float [P, dim] states; positions count from the oldest row."""

    def __init__(self, dim: int, config: VaswaniConfig) -> None:
        super().__init__(dim)
        if dim % config.num_heads or dim % 2:
            raise ValueError(f"dim {dim} must be even and a multiple of num_heads ({config.num_heads})")
        self.attention_dropout = config.dropout
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(PostNormBlock(dim, config) for _ in range(config.num_blocks))
        self.norm = nn.Identity()

    def enter(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.input_dropout(rows + sinusoids(positions, self.dim).to(rows.dtype)), None

    def positions_of(self, layout: Layout, device: torch.device) -> Tensor:
        return packed_positions(layout, device)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions int64 [P], float64 [P, dim], side by side (3.5)."""
    frequency = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device)
    angle = positions[:, None].double() * torch.exp(-math.log(10_000.0) / dim * frequency)
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)
