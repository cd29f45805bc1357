"""A transformer beside a spectral layer: the history as a signal in time and as what it is made of in frequency.

Every dimension of a row drives a damped oscillation with a frequency and a decay of its own,

    z(t) = lambda z(t - 1) + x(t),    lambda = exp(-decay + i frequency),

so that z(t) is the spectrum, at these frequencies, of what the user did up to t with the past fading: the frequency
view of a history that the transformer reads item by item. Real and imaginary parts go back to the item space by a
linear map and are added to the transformer's state. Causal, the same for every prefix, and free of any length.

Source: the idea is Huang's, "Revisiting Self-Attentive Sequential Recommendation", section 3.1 (a Fourier transform between
user and item embeddings); the recurrence is that of diagonal state spaces (Gupta et al. 2022; Orvieto et al. 2023).

Cost: log2 of the longest sequence passes over [P, D] complex numbers, which are kept for the gradients.
Shapes: P packed rows, D dimensions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from duality.config import Config
from duality.encoders.base import Encoder, Layout, packed_positions
from duality.encoders.products import Linear
from duality.encoders.transformer import Shape, Transformer

# Oscillations are born with memories of 2 to 64 rows and turns of up to half a circle a row.
SHORTEST, LONGEST = 2.0, 64.0


class FourierConfig(Config):
    """`name = "fourier"`."""

    name: Literal["fourier"] = "fourier"
    num_blocks: int = 2
    num_heads: int = 2
    hidden: int = 176
    dropout: float = 0.2


class Spectrum(nn.Module):
    """float [P, D] rows to what their history's spectrum says, float [P, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        memory = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), dim)
        self.decay = nn.Parameter((1 / memory).log())
        self.frequency = nn.Parameter(math.pi * torch.rand(dim))
        self.norm = nn.LayerNorm(2 * dim)
        self.back = Linear(2 * dim, dim)
        nn.init.normal_(self.back.weight, std=0.02)
        nn.init.zeros_(self.back.bias)

    def forward(self, rows: Tensor, positions: Tensor) -> Tensor:
        turn = torch.complex(-self.decay.exp(), self.frequency).exp()
        spectrum = recurrence(rows.to(self.decay.dtype), turn, positions)
        back: Tensor = self.back(self.norm(torch.view_as_real(spectrum).flatten(1)))
        return back


class Fourier(Encoder):
    """float [P, dim] rows to float [P, dim] states."""

    def __init__(self, dim: int, config: FourierConfig) -> None:
        super().__init__(dim)
        self.transformer = Transformer(dim, Shape(**config.model_dump(exclude={"name"})))
        self.spectrum = Spectrum(dim)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        states: Tensor = self.transformer(rows, layout)
        return states + self.spectrum(rows, packed_positions(layout, rows.device)).to(states.dtype)


def recurrence(rows: Tensor, turn: Tensor, positions: Tensor) -> Tensor:
    """z(t) = turn z(t - 1) + x(t) inside each sequence, all rows at once: complex [P, D].

    Step k adds to each row what 2^k rows before it held, so that after log2(length) steps every row holds all.

    Args:
        rows: float [P, D].
        turn: complex [D], |turn| < 1.
        positions: int64 [P], 0 at the start of each sequence.
    """
    spectrum, reach = torch.complex(rows, torch.zeros_like(rows)), 1
    longest = int(positions.max()) if len(positions) else 0
    while reach <= longest:
        before = torch.cat((spectrum.new_zeros(reach, spectrum.shape[1]), spectrum[:-reach]))
        spectrum = spectrum + turn * before * (positions >= reach)[:, None]
        turn, reach = turn * turn, 2 * reach
    return spectrum
