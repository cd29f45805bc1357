"""Cosine scores as inner products: items have length 1, users the inverse of a temperature.

What is stored and searched stays an inner product, so nothing after the model knows the difference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize


class Length(nn.Module):
    """Vectors float [..., D] with their length set to 1, or to 1 / temperature."""

    log_scale: Tensor

    def __init__(self, temperature: float = 1.0, *, learned: bool = False) -> None:
        super().__init__()
        scale = torch.tensor(-math.log(temperature))
        if learned:
            self.log_scale = nn.Parameter(scale)
        else:
            self.register_buffer("log_scale", scale)

    def forward(self, vectors: Tensor) -> Tensor:
        # A temperature below .01 would let one step overflow the softmax (Radford et al. 2021 stop there too).
        return functional.normalize(vectors, dim=-1) * self.log_scale.clamp(max=math.log(100)).exp()


def raw(module: nn.Module, name: str) -> nn.Parameter:
    """The stored parameter, whatever length it is read with."""
    if parametrize.is_parametrized(module, name):
        stored = getattr(module.parametrizations, name).original
    else:
        stored = getattr(module, name)
    assert isinstance(stored, nn.Parameter)
    return stored
